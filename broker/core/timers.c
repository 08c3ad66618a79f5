/* SPDX-License-Identifier: Apache-2.0 */
/* A binary heap, the earliest on top; every timer knows its place, so that it can be moved and
 * taken out. */
#include "broker/core/timers.h"

#include <stdlib.h>

#include "common/check.h"

void timers_init(struct timers *timers)
{
	*timers = (struct timers){0};
}

void timers_done(struct timers *timers)
{
	free(timers->heap);
	*timers = (struct timers){0};
}

void timer_init(struct timer *timer, timer_fire *fire)
{
	*timer = (struct timer){.fire = fire};
}

static void put_at(struct timers *timers, size_t place, struct timer *timer)
{
	timers->heap[place - 1] = timer;
	timer->place = place;
}

static struct timer *at(const struct timers *timers, size_t place)
{
	return timers->heap[place - 1];
}

static void sift(struct timers *timers, struct timer *timer)
{
	size_t place = timer->place;

	while (place > 1 && at(timers, place / 2)->due_ms > timer->due_ms) {
		put_at(timers, place, at(timers, place / 2));
		place /= 2;
	}
	while (2 * place <= timers->count) {
		size_t child = 2 * place;

		if (child < timers->count &&
			at(timers, child + 1)->due_ms < at(timers, child)->due_ms)
			child++;
		if (at(timers, child)->due_ms >= timer->due_ms)
			break;
		put_at(timers, place, at(timers, child));
		place = child;
	}
	put_at(timers, place, timer);
}

void timer_set(struct timers *timers, struct timer *timer, uint64_t due_ms)
{
	timer->due_ms = due_ms;
	if (!timer_is_set(timer)) {
		if (timers->count == timers->capacity) {
			timers->capacity = timers->capacity ? 2 * timers->capacity : 64;
			timers->heap =
				must_realloc(timers->heap, timers->capacity, sizeof(*timers->heap));
		}
		timers->count++;
		put_at(timers, timers->count, timer);
	}
	sift(timers, timer);
}

void timer_set_earlier(struct timers *timers, struct timer *timer, uint64_t due_ms)
{
	if (!timer_is_set(timer) || timer->due_ms > due_ms)
		timer_set(timers, timer, due_ms);
}

void timer_stop(struct timers *timers, struct timer *timer)
{
	struct timer *last;
	size_t place = timer->place;

	if (!timer_is_set(timer))
		return;
	last = at(timers, timers->count);
	timers->count--;
	timer->place = 0;
	if (last == timer)
		return;
	put_at(timers, place, last);
	sift(timers, last);
}

struct timer *timers_take_due(struct timers *timers, uint64_t now_ms)
{
	struct timer *first = timers->count ? at(timers, 1) : NULL;

	if (first == NULL || first->due_ms > now_ms)
		return NULL;
	timer_stop(timers, first);
	return first;
}

uint64_t timers_next_ms(const struct timers *timers)
{
	return timers->count ? at(timers, 1)->due_ms : UINT64_MAX;
}
