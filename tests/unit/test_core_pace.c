/* SPDX-License-Identifier: Apache-2.0 */
/* The law by which a job gives way, without a job. */
#include "broker/core/pace.h"
#include "tests/unit/unit.h"

#define MIB   (UINT64_C(1) << 20)
#define FLOOR (4 * MIB)
#define MOVED (1024 * MIB)

static const struct pace_load busy = {1, 1000, 100}, idle = {0, 0, 100};

static struct pace pace;
static uint64_t now_ms;

static void begin(void)
{
	now_ms = 5000;
	pace_init(&pace, now_ms);
}

static void pass(uint64_t ms, uint64_t floor)
{
	for (uint64_t i = 0; i < ms; i += 10) {
		now_ms += 10;
		pace_advance(&pace, floor, MOVED, now_ms);
	}
}

static void hear(const struct pace_load *load, uint64_t floor)
{
	pace_hear(&pace, load, now_ms);
	pace_advance(&pace, floor, MOVED, now_ms);
}

/* Reports every 100 ms. */
static void be_busy(uint64_t ms, uint64_t floor)
{
	for (uint64_t i = 0; i < ms; i += 100) {
		hear(&busy, floor);
		pass(100, floor);
	}
}

START_TEST(an_idle_guest_holds_nothing_back)
{
	begin();
	hear(&idle, FLOOR);
	pass(1000, FLOOR);
	ck_assert(pace_is_free(&pace));
	ck_assert_uint_eq(pace_range_max(&pace), UINT64_MAX);
	ck_assert_uint_eq(pace_due_ms(&pace), UINT64_MAX);
}
END_TEST

START_TEST(a_busy_guest_brings_the_rate_to_the_floor_in_four_steps_and_no_further)
{
	begin();
	hear(&busy, FLOOR);
	ck_assert_uint_eq(pace.bucket.speed, MOVED / 4);
	be_busy(100, FLOOR);
	ck_assert_uint_eq(pace.bucket.speed, MOVED / 16);
	be_busy(200, FLOOR);
	ck_assert_uint_eq(pace.bucket.speed, FLOOR);
	be_busy(10000, FLOOR);
	ck_assert_uint_eq(pace.bucket.speed, FLOOR);
	ck_assert_uint_le(pace_range_max(&pace), MIB);
}
END_TEST

START_TEST(the_rate_is_free_a_second_after_the_last_busy_report)
{
	begin();
	be_busy(1000, FLOOR);
	pass(700, FLOOR);
	ck_assert_uint_ge(pace.bucket.speed, 100 * MIB);
	pass(200, FLOOR);
	ck_assert(pace_is_free(&pace));
}
END_TEST

START_TEST(a_report_that_is_lost_changes_nothing)
{
	begin();
	be_busy(500, FLOOR);
	for (int i = 0; i < 20; i++) {
		pass(100, FLOOR);
		be_busy(100, FLOOR);
		ck_assert_uint_eq(pace.bucket.speed, FLOOR);
	}
}
END_TEST

START_TEST(a_report_that_comes_twice_counts_once)
{
	begin();
	for (int i = 0; i < 100; i++)
		hear(&busy, FLOOR);
	ck_assert_uint_eq(pace.bucket.speed, MOVED / 4);
}
END_TEST

START_TEST(what_makes_a_guest_busy)
{
	static const struct {
		struct pace_load load;
		bool is_busy;
	} loads[] = {
		{{0, 1000, 100}, true}, /* one request that began before and goes on */
		{{1, 20, 100}, true}, {{1, 19, 100}, false},
		{{10, 1, 100}, true}, /* 100 a second, however short */
		{{9, 1, 100}, false}, {{UINT64_MAX, 0, UINT64_MAX}, true},
		{{UINT64_MAX / 8, 0, UINT64_MAX}, true},
		{{0, 0, 0}, true}, /* the schema has no interval of 0; it must only end */
	};

	for (size_t i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
		begin();
		hear(&loads[i].load, FLOOR);
		ck_assert_msg(pace_is_free(&pace) != loads[i].is_busy, "load %zu", i);
	}
}
END_TEST

START_TEST(with_a_floor_of_0_next_to_nothing_moves_and_it_is_free_as_soon)
{
	begin();
	be_busy(5000, 0);
	ck_assert_uint_le(pace.bucket.speed, 1);
	ck_assert(!pace_is_free(&pace));
	pass(900, 0);
	ck_assert(pace_is_free(&pace));
}
END_TEST

START_TEST(a_floor_above_all_rates_gives_no_way)
{
	begin();
	be_busy(1000, INT64_MAX);
	ck_assert(pace_is_free(&pace));
	begin();
	pace_hear(&pace, &busy, now_ms);
	pace_advance(&pace, FLOOR, UINT64_MAX, now_ms);
	ck_assert_uint_eq(pace.bucket.speed, 256 * MIB);
}
END_TEST

START_TEST(whoever_looks_late_finds_the_same)
{
	struct pace seldom;

	begin();
	be_busy(300, FLOOR);
	seldom = pace;
	pass(600, FLOOR);
	pace_advance(&seldom, FLOOR, MOVED, now_ms);
	ck_assert_uint_eq(seldom.bucket.speed, pace.bucket.speed);
	pace_advance(&seldom, FLOOR, MOVED, now_ms + UINT64_C(1000000000));
	ck_assert(pace_is_free(&seldom));
}
END_TEST

UNIT_MAIN("core_pace", an_idle_guest_holds_nothing_back,
	a_busy_guest_brings_the_rate_to_the_floor_in_four_steps_and_no_further,
	the_rate_is_free_a_second_after_the_last_busy_report, a_report_that_is_lost_changes_nothing,
	a_report_that_comes_twice_counts_once, what_makes_a_guest_busy,
	with_a_floor_of_0_next_to_nothing_moves_and_it_is_free_as_soon,
	a_floor_above_all_rates_gives_no_way, whoever_looks_late_finds_the_same)
