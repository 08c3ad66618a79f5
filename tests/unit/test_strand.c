/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>

#include "imaged/strand.h"
#include "tests/unit/unit.h"

#define STRANDS 8
#define PIECES	2000

static struct err err;

struct count {
	struct strand *strand;
	int next;
	atomic_bool is_running;
	bool was_disturbed;
};

struct piece_of_work {
	struct count *count;
	int number;
};

static void count_up(void *owner)
{
	struct piece_of_work *piece = owner;
	struct count *count = piece->count;

	if (atomic_exchange(&count->is_running, true) || count->next != piece->number)
		count->was_disturbed = true;
	count->next++;
	atomic_store(&count->is_running, false);
}

START_TEST(each_strand_keeps_its_order_and_runs_one_at_a_time)
{
	static struct piece_of_work pieces[STRANDS][PIECES];
	struct count counts[STRANDS] = {0};
	struct strand_pool *pool = strand_pool_new(4, &err);

	for (int i = 0; i < STRANDS; i++)
		counts[i].strand = strand_new(pool);
	for (int j = 0; j < PIECES; j++) {
		for (int i = 0; i < STRANDS; i++) {
			pieces[i][j] = (struct piece_of_work){&counts[i], j};
			strand_post(counts[i].strand, count_up, &pieces[i][j]);
		}
	}
	strand_pool_drain(pool);
	for (int i = 0; i < STRANDS; i++) {
		ck_assert_int_eq(counts[i].next, PIECES);
		ck_assert(!counts[i].was_disturbed);
		strand_free(counts[i].strand);
	}
	strand_pool_free(pool);
}
END_TEST

static pthread_barrier_t both;

static void meet(void *owner)
{
	(void)owner;
	pthread_barrier_wait(&both);
}

START_TEST(different_strands_run_side_by_side)
{
	struct strand_pool *pool = strand_pool_new(2, &err);
	struct strand *left = strand_new(pool), *right = strand_new(pool);

	pthread_barrier_init(&both, NULL, 2);
	strand_post(left, meet, NULL);
	strand_post(right, meet, NULL);
	strand_pool_drain(pool);
	strand_free(left);
	strand_free(right);
	strand_pool_free(pool);
}
END_TEST

struct relay {
	struct strand *strand;
	int left;
};

static void post_again(void *owner)
{
	struct relay *relay = owner;

	if (relay->left-- > 0)
		strand_post(relay->strand, post_again, relay);
}

static void note(void *owner)
{
	*(bool *)owner = true;
}

START_TEST(a_busy_strand_lets_the_others_have_a_turn)
{
	struct strand_pool *pool = strand_pool_new(1, &err);
	struct relay relay = {.strand = strand_new(pool), .left = 100000};
	struct strand *other = strand_new(pool);
	bool was_noted = false;

	strand_post(relay.strand, post_again, &relay);
	strand_post(other, note, &was_noted);
	strand_free(other); /* waits for it, not for the busy one */
	ck_assert(was_noted);
	strand_pool_drain(pool);
	ck_assert_int_eq(relay.left, -1);
	strand_free(relay.strand);
	strand_pool_free(pool);
}
END_TEST

START_TEST(a_pool_of_nothing_goes_away)
{
	strand_pool_free(strand_pool_new(3, &err));
	strand_pool_free(NULL);
	strand_free(NULL);
}
END_TEST

UNIT_MAIN("strand", each_strand_keeps_its_order_and_runs_one_at_a_time,
	different_strands_run_side_by_side, a_busy_strand_lets_the_others_have_a_turn,
	a_pool_of_nothing_goes_away)
