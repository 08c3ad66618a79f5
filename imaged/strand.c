/* SPDX-License-Identifier: Apache-2.0 */
/* One mutex guards the pool and all its strands: posting and taking are a few pointer moves, the work itself runs outside. */
#include "imaged/strand.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "common/check.h"

struct piece {
	struct piece *next;
	strand_work *work;
	void *owner;
};

struct strand {
	struct strand_pool *pool;
	struct strand *next_ready;
	struct piece *first, **last; /* what waits */
	bool is_active;		     /* in the ready list or in a thread's hands */
};

struct strand_pool {
	pthread_mutex_t lock;
	pthread_cond_t ready_changed;
	pthread_cond_t became_idle;
	struct strand *first_ready, **last_ready;
	unsigned active; /* strands that are active */
	unsigned strands;
	bool is_ending;
	unsigned thread_count;
	pthread_t threads[];
};

static void make_ready(struct strand_pool *pool, struct strand *strand)
{
	strand->next_ready = NULL;
	*pool->last_ready = strand;
	pool->last_ready = &strand->next_ready;
	pthread_cond_signal(&pool->ready_changed);
}

static struct strand *take_ready(struct strand_pool *pool)
{
	struct strand *strand = pool->first_ready;

	pool->first_ready = strand->next_ready;
	if (!pool->first_ready)
		pool->last_ready = &pool->first_ready;
	return strand;
}

static struct piece *take_piece(struct strand *strand)
{
	struct piece *piece = strand->first;

	strand->first = piece->next;
	if (!strand->first)
		strand->last = &strand->first;
	return piece;
}

/* Carries out the oldest piece of a strand; with the lock held, given up meanwhile. */
static void run_one(struct strand_pool *pool, struct strand *strand)
{
	struct piece *piece = take_piece(strand);

	pthread_mutex_unlock(&pool->lock);
	piece->work(piece->owner);
	free(piece);
	pthread_mutex_lock(&pool->lock);
	if (strand->first) {
		make_ready(pool, strand);
		return;
	}
	strand->is_active = false;
	pool->active--;
	pthread_cond_broadcast(&pool->became_idle);
}

static void *thread_main(void *owner)
{
	struct strand_pool *pool = owner;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!pool->first_ready && !pool->is_ending)
			pthread_cond_wait(&pool->ready_changed, &pool->lock);
		if (!pool->first_ready)
			break;
		run_one(pool, take_ready(pool));
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

struct strand_pool *strand_pool_new(unsigned threads, struct err *err)
{
	struct strand_pool *pool = must_calloc(1, sizeof *pool + threads * sizeof pool->threads[0]);
	int r;

	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->ready_changed, NULL);
	pthread_cond_init(&pool->became_idle, NULL);
	pool->last_ready = &pool->first_ready;
	for (unsigned i = 0; i < threads; i++) {
		r = pthread_create(&pool->threads[i], NULL, thread_main, pool);
		if (r != 0) {
			err_set_errno(err, r, "start a thread");
			strand_pool_free(pool);
			return NULL;
		}
		pool->thread_count++;
	}
	return pool;
}

void strand_pool_drain(struct strand_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	while (pool->active > 0)
		pthread_cond_wait(&pool->became_idle, &pool->lock);
	pthread_mutex_unlock(&pool->lock);
}

void strand_pool_free(struct strand_pool *pool)
{
	if (!pool)
		return;
	strand_pool_drain(pool);
	bug_if(pool->strands != 0);
	pthread_mutex_lock(&pool->lock);
	pool->is_ending = true;
	pthread_cond_broadcast(&pool->ready_changed);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->thread_count; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->became_idle);
	pthread_cond_destroy(&pool->ready_changed);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

struct strand *strand_new(struct strand_pool *pool)
{
	struct strand *strand = must_calloc(1, sizeof *strand);

	strand->pool = pool;
	strand->last = &strand->first;
	pthread_mutex_lock(&pool->lock);
	pool->strands++;
	pthread_mutex_unlock(&pool->lock);
	return strand;
}

void strand_free(struct strand *strand)
{
	if (!strand)
		return;
	pthread_mutex_lock(&strand->pool->lock);
	while (strand->is_active)
		pthread_cond_wait(&strand->pool->became_idle, &strand->pool->lock);
	strand->pool->strands--;
	pthread_mutex_unlock(&strand->pool->lock);
	free(strand);
}

void strand_post(struct strand *strand, strand_work *work, void *owner)
{
	struct strand_pool *pool = strand->pool;
	struct piece *piece = must_calloc(1, sizeof *piece);

	piece->work = work;
	piece->owner = owner;
	pthread_mutex_lock(&pool->lock);
	*strand->last = piece;
	strand->last = &piece->next;
	if (!strand->is_active) {
		strand->is_active = true;
		pool->active++;
		make_ready(pool, strand);
	}
	pthread_mutex_unlock(&pool->lock);
}
