/* SPDX-License-Identifier: Apache-2.0 */
/* The committing thread: see store_writer.h.  One mutex guards the queue and the figures; it is never held while the store works. */
#include "broker/store_writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"

#define GROUP_BYTES_MAX \
	(16U << 20) /* one transaction takes no more than that, one batch at least */
#define PAUSE_MS_MIN	 100
#define PAUSE_MS_MAX	 2000
#define RESTORE_EVERY_MS 5000

struct store_writer {
	struct store *store;
	pthread_t thread;
	int event_fd;
	pthread_mutex_t mutex;
	pthread_cond_t changed;		  /* for both sides */
	struct store_batch *first, *last; /* waiting */
	size_t waiting_bytes;
	uint64_t submitted, committed; /* tickets */
	bool is_stopping, is_low, has_failed;
	struct err failure;
};

static void wait_for_change(struct store_writer *writer, uint64_t most_ms)
{
	uint64_t until_ms = clock_monotonic_ms() + most_ms;
	struct timespec until = {
		.tv_sec = (time_t)(until_ms / 1000),
		.tv_nsec = (long)(until_ms % 1000) * 1000000,
	};

	pthread_cond_timedwait(&writer->changed, &writer->mutex, &until);
}

/* Takes a group off the queue; `ret_count` says of how many batches. */
static struct store_batch *take_group(struct store_writer *writer, uint64_t *ret_count)
{
	struct store_batch *first = writer->first;
	struct store_batch *last = first;
	size_t bytes = first->bytes;

	*ret_count = 1;
	while (last->next && bytes + last->next->bytes <= GROUP_BYTES_MAX) {
		last = last->next;
		bytes += last->bytes;
		++*ret_count;
	}
	writer->first = last->next;
	if (!writer->first)
		writer->last = NULL;
	last->next = NULL;
	writer->waiting_bytes -= bytes;
	return first;
}

static void free_list(struct store_batch *list)
{
	while (list) {
		struct store_batch *next = list->next;

		store_batch_free(list);
		list = next;
	}
}

/* There was no room.  Whether to try again: not when the owner stops. */
static bool make_room(struct store_writer *writer, uint64_t *pause_ms, const struct err *why)
{
	bool go_on;

	if (store_release_reserve(writer->store)) {
		log_error(
			"%s: going on with the reserve; free space, or jobs will wait", why->text);
		pthread_mutex_lock(&writer->mutex);
		writer->is_low = true;
		go_on = !writer->is_stopping;
		pthread_mutex_unlock(&writer->mutex);
		return go_on;
	}
	if (*pause_ms == PAUSE_MS_MIN)
		log_error("%s: every change waits until there is space", why->text);
	pthread_mutex_lock(&writer->mutex);
	if (!writer->is_stopping)
		wait_for_change(writer, *pause_ms);
	go_on = !writer->is_stopping;
	pthread_mutex_unlock(&writer->mutex);
	*pause_ms = *pause_ms * 2 > PAUSE_MS_MAX ? PAUSE_MS_MAX : *pause_ms * 2;
	return go_on;
}

/* An enum store_outcome (STORE_FULL: given up because the owner stops), or -1 and err. */
static int commit_group(
	struct store_writer *writer, const struct store_batch *group, struct err *err)
{
	uint64_t pause_ms = PAUSE_MS_MIN;

	for (;;) {
		int outcome = store_apply(writer->store, group, err);

		if (outcome != STORE_FULL)
			return outcome;
		if (!make_room(writer, &pause_ms, err))
			return STORE_FULL;
	}
}

static void wake_owner(struct store_writer *writer)
{
	uint64_t one = 1;

	while (write(writer->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void try_to_restore(struct store_writer *writer)
{
	if (!store_restore_reserve(writer->store))
		return;
	log_info("the store has its reserve again");
	pthread_mutex_lock(&writer->mutex);
	writer->is_low = false;
	pthread_mutex_unlock(&writer->mutex);
}

/* Waits for work.  NULL when there is nothing to do but `*ret_idle` work, or the owner stops. */
static struct store_batch *wait_for_group(
	struct store_writer *writer, uint64_t *ret_count, bool *ret_stop)
{
	struct store_batch *group = NULL;

	pthread_mutex_lock(&writer->mutex);
	if (!writer->first && !writer->is_stopping)
		wait_for_change(writer, writer->is_low ? RESTORE_EVERY_MS : 60000);
	*ret_stop = writer->is_stopping;
	if (writer->first && !writer->is_stopping)
		group = take_group(writer, ret_count);
	pthread_mutex_unlock(&writer->mutex);
	return group;
}

static void *write_until_stopped(void *argument)
{
	struct store_writer *writer = argument;
	uint64_t restore_at_ms = 0;

	for (;;) {
		uint64_t count;
		bool stop;
		struct err err;
		int outcome;
		struct store_batch *group = wait_for_group(writer, &count, &stop);

		if (stop)
			return NULL;
		if (group) {
			outcome = commit_group(writer, group, &err);
			free_list(group);
			pthread_mutex_lock(&writer->mutex);
			if (outcome == STORE_DONE) {
				writer->committed += count;
			} else if (outcome < 0) {
				writer->has_failed = true;
				writer->failure = err;
			}
			pthread_cond_broadcast(&writer->changed);
			pthread_mutex_unlock(&writer->mutex);
			wake_owner(writer);
			if (outcome != STORE_DONE)
				return NULL;
		}
		if (store_writer_is_low(writer) && clock_monotonic_ms() >= restore_at_ms) {
			try_to_restore(writer);
			restore_at_ms = clock_monotonic_ms() + RESTORE_EVERY_MS;
		}
	}
}

struct store_writer *store_writer_new(struct store *store, struct err *err)
{
	struct store_writer *writer = must_calloc(1, sizeof(*writer));
	pthread_condattr_t monotonic;
	int number;

	writer->store = store;
	bug_if(pthread_mutex_init(&writer->mutex, NULL));
	bug_if(pthread_condattr_init(&monotonic));
	bug_if(pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC));
	bug_if(pthread_cond_init(&writer->changed, &monotonic));
	pthread_condattr_destroy(&monotonic);
	writer->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (writer->event_fd < 0) {
		err_set_errno(err, errno, "make an eventfd");
	} else {
		number = pthread_create(&writer->thread, NULL, write_until_stopped, writer);
		if (!number)
			return writer;
		err_set_errno(err, number, "start the store's thread");
		close(writer->event_fd);
	}
	pthread_cond_destroy(&writer->changed);
	pthread_mutex_destroy(&writer->mutex);
	free(writer);
	return NULL;
}

void store_writer_free(struct store_writer *writer)
{
	if (!writer)
		return;
	pthread_mutex_lock(&writer->mutex);
	writer->is_stopping = true;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->mutex);
	pthread_join(writer->thread, NULL);
	free_list(writer->first);
	close(writer->event_fd);
	pthread_cond_destroy(&writer->changed);
	pthread_mutex_destroy(&writer->mutex);
	free(writer);
}

uint64_t store_writer_submit(struct store_writer *writer, struct store_batch *batch)
{
	uint64_t ticket;

	batch->next = NULL;
	pthread_mutex_lock(&writer->mutex);
	if (writer->last)
		writer->last->next = batch;
	else
		writer->first = batch;
	writer->last = batch;
	writer->waiting_bytes += batch->bytes;
	ticket = ++writer->submitted;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&writer->mutex);
	return ticket;
}

int store_writer_fd(const struct store_writer *writer)
{
	return writer->event_fd;
}

int64_t store_writer_committed(struct store_writer *writer, struct err *err)
{
	uint64_t count;
	int64_t committed;

	while (read(writer->event_fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	pthread_mutex_lock(&writer->mutex);
	committed = (int64_t)writer->committed;
	if (writer->has_failed) {
		*err = writer->failure;
		committed = -1;
	}
	pthread_mutex_unlock(&writer->mutex);
	return committed;
}

bool store_writer_is_low(struct store_writer *writer)
{
	bool is_low;

	pthread_mutex_lock(&writer->mutex);
	is_low = writer->is_low;
	pthread_mutex_unlock(&writer->mutex);
	return is_low;
}

size_t store_writer_waiting_bytes(struct store_writer *writer)
{
	size_t bytes;

	pthread_mutex_lock(&writer->mutex);
	bytes = writer->waiting_bytes;
	pthread_mutex_unlock(&writer->mutex);
	return bytes;
}

bool store_writer_flush(struct store_writer *writer, uint64_t most_ms)
{
	uint64_t until = clock_monotonic_ms() + most_ms;
	bool is_flushed;

	pthread_mutex_lock(&writer->mutex);
	for (;;) {
		uint64_t now = clock_monotonic_ms();

		is_flushed = writer->committed == writer->submitted;
		if (is_flushed || writer->has_failed || now >= until)
			break;
		wait_for_change(writer, until - now);
	}
	pthread_mutex_unlock(&writer->mutex);
	return is_flushed;
}
