/* SPDX-License-Identifier: Apache-2.0 */
/* What is due when: a binary heap of timers that live inside the objects they belong to.  Knows
 * no clock; the core brings the time along.  Setting, moving and stopping one costs log n, so
 * ten thousand sleeping jobs cost a step nothing. */
#ifndef SLUICE_BROKER_CORE_TIMERS_H
#define SLUICE_BROKER_CORE_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct core;
struct timer;

typedef void timer_fire(struct core *core, struct timer *timer);

struct timer {
	uint64_t due_ms;
	size_t place; /* in the heap, from 1; 0: not set */
	timer_fire *fire;
};

struct timers {
	struct timer **heap;
	size_t count, capacity;
};

void timers_init(struct timers *timers);
void timers_done(struct timers *timers);
void timer_init(struct timer *timer, timer_fire *fire);
/* Sets it, or moves it to another moment. */
void timer_set(struct timers *timers, struct timer *timer, uint64_t due_ms);
/* Sets it unless it is due earlier already. */
void timer_set_earlier(struct timers *timers, struct timer *timer, uint64_t due_ms);
void timer_stop(struct timers *timers, struct timer *timer);
static inline bool timer_is_set(const struct timer *timer)
{
	return timer->place != 0;
}
/* Takes out the next one that is due at `now_ms`; NULL: none is. */
struct timer *timers_take_due(struct timers *timers, uint64_t now_ms);
/* When the next one is due; UINT64_MAX: none is set. */
uint64_t timers_next_ms(const struct timers *timers);

#endif
