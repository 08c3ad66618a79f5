/* SPDX-License-Identifier: Apache-2.0 */
/* What guests do on one device, for the job that must not be in their way: how busy they keep it, and which bytes they touched
 * that the leaf lacks.
 *
 *   guests' threads ── begin, end, missed ──▶ [ counters, a few ranges ] ── take, every 100 ms ──▶ control thread
 *
 * begin and end take no lock and are meant for 100,000 requests a second of dozens of threads.  missed never waits: under contention,
 * or where more ranges come than fit, something is forgotten (the oldest first), which costs a job nothing but the hint. */
#ifndef SLUICE_IMAGED_GUEST_ACTIVITY_H
#define SLUICE_IMAGED_GUEST_ACTIVITY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/types.gen.h"

#define GUEST_ACTIVITY_MISSED_MAX 64

struct guest_activity {
	/* How many requests are in flight (low 16 bits), and since when at least one is (microseconds, 48 bits). */
	atomic_uint_fast64_t flight;
	atomic_uint_fast64_t busy_us, requests; /* since they were taken last */
	atomic_bool is_watched;

	pthread_mutex_t lock; /* guards what follows */
	uint64_t taken_us;
	struct guest_range missed[GUEST_ACTIVITY_MISSED_MAX]; /* a ring */
	size_t missed_count, missed_next;
};

void guest_activity_init(struct guest_activity *activity);
void guest_activity_done(struct guest_activity *activity);

/* Around each read, write, zero, discard and flush of a guest: one that waits for flushes is busy, too.  At most
 * 65,535 at a time. */
void guest_activity_begin(struct guest_activity *activity);
void guest_activity_end(struct guest_activity *activity);
/* A guest's request needed bytes of a lower layer: these, or more around them.  Ignored while nobody watches. */
void guest_activity_missed(struct guest_activity *activity, uint64_t offset, uint64_t length);

/* Whether misses are kept: while a job is open.  What was kept before is forgotten. */
void guest_activity_watch(struct guest_activity *activity, bool is_watched);

struct guest_load {
	uint64_t requests;    /* begun */
	uint64_t busy_us;     /* in which at least one was in flight */
	uint64_t interval_us; /* at least busy_us, at least 1 */
};

/* Since the last time. */
struct guest_activity_taken {
	struct guest_load load;
	size_t missed_count;
	struct guest_range
		missed[GUEST_ACTIVITY_MISSED_MAX]; /* the newest first; they may overlap */
};
/* One thread at a time. */
void guest_activity_take(struct guest_activity *activity, struct guest_activity_taken *ret_taken);

#endif
