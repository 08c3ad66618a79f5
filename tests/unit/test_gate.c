/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that enter and leave while others close the gate and wait for grace periods.  What a request looked up must be valid
 * until it leaves. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/check.h"
#include "tests/unit/unit.h"

/* What happens between two steps of a request that enters, where a test wants something to. */
static void (*before_counting)(void);

static void happen(void)
{
	void (*what)(void) = before_counting;

	if (!what)
		return;
	before_counting = NULL;
	what();
}

#undef atomic_fetch_add
#define atomic_fetch_add(object, number) \
	(happen(), atomic_fetch_add_explicit(object, number, memory_order_seq_cst))
#include "imaged/gate.c"
#undef atomic_fetch_add
#define atomic_fetch_add(object, number) \
	atomic_fetch_add_explicit(object, number, memory_order_seq_cst)

#define GUESTS 4
#define ROUNDS 2000

static struct gate gate;
static atomic_bool is_over;
static atomic_ulong entered;

static void start(pthread_t *threads, unsigned count, void *(*function)(void *), void *owner)
{
	for (unsigned i = 0; i < count; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, function, owner), 0);
}

static void join(pthread_t *threads, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static void wait_for_entries(unsigned long more)
{
	unsigned long wanted = atomic_load(&entered) + more;

	while (atomic_load(&entered) < wanted)
		sched_yield();
}

START_TEST(who_is_inside_is_waited_for_so_long_and_no_longer)
{
	unsigned side, other;

	gate_init(&gate);
	ck_assert(gate_close(&gate, 0));
	gate_open(&gate);
	side = gate_enter(&gate);
	ck_assert(!gate_close(&gate, 5));
	gate_leave(&gate, side);
	gate_wait_grace(&gate);
	side = gate_enter(&gate);
	ck_assert(!gate_close(&gate, 5));
	other = gate_enter(&gate); /* it is open as before */
	gate_leave(&gate, side);
	ck_assert(!gate_close(&gate, 5));
	gate_leave(&gate, other);
	ck_assert(gate_close(&gate, 5));
	ck_assert(gate_close(&gate, 5));
	gate_open(&gate);
	gate_open(&gate);
	gate_leave(&gate, gate_enter(&gate));
	gate_done(&gate);
}
END_TEST

/* A cell is replaced, and what was there is spoilt after a grace period. */
struct cell {
	_Atomic(int *) current;
	atomic_ulong wrong;
};

static void *look(void *owner)
{
	struct cell *cell = owner;

	while (!atomic_load(&is_over)) {
		unsigned side = gate_enter(&gate);
		int *number = atomic_load(&cell->current);

		for (int i = 0; i < 20; i++) {
			if (*(volatile int *)number != 42)
				atomic_fetch_add(&cell->wrong, 1);
		}
		gate_leave(&gate, side);
		atomic_fetch_add(&entered, 1);
	}
	return NULL;
}

static int *new_number(void)
{
	int *number = must_calloc(1, sizeof *number);

	*number = 42;
	return number;
}

static void *replace(void *owner)
{
	struct cell *cell = owner;

	for (int i = 0; i < ROUNDS; i++) {
		int *old = atomic_exchange(&cell->current, new_number());

		gate_wait_grace(&gate);
		*old = 0;
		free(old);
	}
	return NULL;
}

START_TEST(after_a_grace_period_nobody_has_what_was_there_before)
{
	struct cell cell = {.current = new_number()};
	pthread_t guests[GUESTS], writers[2];

	gate_init(&gate);
	start(guests, GUESTS, look, &cell);
	start(writers, 2, replace, &cell);
	join(writers, 2);
	wait_for_entries(100);
	atomic_store(&is_over, true);
	join(guests, GUESTS);
	ck_assert_uint_eq(atomic_load(&cell.wrong), 0);
	free(atomic_load(&cell.current));
	gate_done(&gate);
}
END_TEST

static void *use(void *owner)
{
	long *number = owner;

	while (!atomic_load(&is_over)) {
		unsigned side = gate_enter(&gate);

		if (*number < 0)
			abort();
		gate_leave(&gate, side);
		atomic_fetch_add(&entered, 1);
	}
	return NULL;
}

START_TEST(a_closed_gate_lets_nobody_in_and_an_open_one_all)
{
	pthread_t guests[GUESTS];
	long number = 0; /* plain memory: the gate alone guards it */

	gate_init(&gate);
	start(guests, GUESTS, use, &number);
	for (int i = 0; i < ROUNDS / 10; i++) {
		ck_assert(gate_close(&gate, 10000));
		number = -1;
		sched_yield();
		number = i;
		gate_open(&gate);
		wait_for_entries(10);
	}
	atomic_store(&is_over, true);
	join(guests, GUESTS);
	gate_done(&gate);
}
END_TEST

static void *wait_for_grace(void *owner)
{
	gate_wait_grace(&gate);
	atomic_store((atomic_bool *)owner, true);
	return NULL;
}

START_TEST(a_grace_period_lasts_until_the_last_of_them_has_left)
{
	atomic_bool has_passed = false;
	unsigned side, later;
	pthread_t waiter;

	gate_init(&gate);
	side = gate_enter(&gate);
	start(&waiter, 1, wait_for_grace, &has_passed);
	while (atomic_load(&gate.waiters) == 0)
		sched_yield();
	later = gate_enter(&gate); /* of no concern to it */
	ck_assert_uint_ne(side, later);
	ck_assert(!atomic_load(&has_passed));
	gate_leave(&gate, side);
	join(&waiter, 1);
	gate_leave(&gate, later);
	gate_done(&gate);
}
END_TEST

static void let_a_grace_period_pass(void)
{
	gate_wait_grace(&gate);
}

START_TEST(who_enters_while_a_grace_period_passes_belongs_to_the_next)
{
	unsigned side;

	gate_init(&gate);
	before_counting = let_a_grace_period_pass;
	side = gate_enter(&gate);
	ck_assert(before_counting == NULL);
	ck_assert_uint_eq(side, atomic_load(&gate.epoch) & 1);
	ck_assert_uint_eq(atomic_load(&gate.sides[side].inside), 1);
	ck_assert_uint_eq(atomic_load(&gate.sides[!side].inside), 0);
	gate_leave(&gate, side);
	gate_done(&gate);
}
END_TEST

UNIT_MAIN("gate", who_is_inside_is_waited_for_so_long_and_no_longer,
	after_a_grace_period_nobody_has_what_was_there_before,
	a_closed_gate_lets_nobody_in_and_an_open_one_all,
	a_grace_period_lasts_until_the_last_of_them_has_left,
	who_enters_while_a_grace_period_passes_belongs_to_the_next)
