/* SPDX-License-Identifier: Apache-2.0 */
/* Who copies how much when: limits, fairness, the size of ranges, credit. */
#include "broker/core/scheduler.h"
#include "broker/core/state_workers.h"
#include "tests/unit/core_fixture.h"
#include "tests/unit/unit.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static struct stage stage;

static void stream(const char *device, uint64_t speed)
{
	struct cmd_block_stream arguments = {.device = device, .has_speed = true, .speed = speed};

	stage_stream(&stage, &arguments);
	ck_assert_str_eq(stage_error(&stage, NULL), "");
}

static void set_speed(const char *device, uint64_t speed)
{
	struct cmd_block_job_set_speed arguments = {device, speed};
	struct wire_buffer packed = {0};

	cmd_block_job_set_speed_encode(&arguments, &packed);
	stage_ask(&stage, "block_job_set_speed", &packed);
	wire_buffer_done(&packed);
	ck_assert_str_eq(stage_error(&stage, NULL), "");
}

static void assert_within(uint64_t value, uint64_t wanted, unsigned percent)
{
	ck_assert_uint_ge(value, wanted - wanted * percent / 100);
	ck_assert_uint_le(value, wanted + wanted * percent / 100);
}

START_TEST(a_job_keeps_its_limit_within_five_percent)
{
	static const uint64_t speeds[] = {300000, 8 * MIB, 100 * MIB, 700 * MIB};

	for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++) {
		stage_begin(&stage, NULL);
		stage_add_device(&stage, TIB, 0);
		stage_add_imaged(&stage);
		stage_add_worker(&stage, 2, GIB);
		stream("disk0", speeds[i]);

		stage_run(&stage, 5000);

		assert_within(stage.devices[0].copied, 5 * speeds[i], 5);
		stage_end(&stage);
	}
}
END_TEST

START_TEST(a_limit_below_a_cluster_a_second_is_kept_over_time)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, GIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, GIB);

	stream("disk0", 10000);
	stage_run(&stage, 100000);

	assert_within(stage.devices[0].copied, 1000000 + STAGE_CLUSTER, 7);
	stage_end(&stage);
}
END_TEST

START_TEST(a_new_limit_holds_at_once)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, GIB);
	stream("disk0", 100 * MIB);
	stage_run(&stage, 2000);
	uint64_t before = stage.devices[0].copied;

	set_speed("disk0", 10 * MIB);
	stage_run(&stage, 4000);

	assert_within(stage.devices[0].copied - before, 40 * MIB,
		12); /* what was under way comes through */
	before = stage.devices[0].copied;
	set_speed("disk0", 0);
	stage_run(&stage, 1000);
	ck_assert_uint_ge(stage.devices[0].copied - before, GIB);
	stage_end(&stage);
}
END_TEST

START_TEST(the_budget_is_shared_fairly_and_kept_over_all_workers)
{
	struct core_options options = {.has_speed = true, .speed = 90 * MIB};
	uint64_t total = 0;

	stage_begin(&stage, &options);
	for (int i = 0; i < 3; i++)
		stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	for (int i = 0; i < 4; i++)
		stage_add_worker(&stage, 2, GIB);
	stream("disk0", 0);
	stream("disk1", 0);
	stream("disk2", 0);

	stage_run(&stage, 5000);

	for (int i = 0; i < 3; i++) {
		assert_within(stage.devices[i].copied, 150 * MIB, 10);
		total += stage.devices[i].copied;
	}
	assert_within(total, 450 * MIB, 5);
	stage_end(&stage);
}
END_TEST

START_TEST(a_range_keeps_a_worker_busy_for_a_tenth_of_a_second)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, 20 * MIB);

	stream("disk0", 0);
	stage_run(&stage, 5000);

	ck_assert_uint_ge(stage.latest_range, MIB);
	ck_assert_uint_le(stage.latest_range, 4 * MIB);
	stage_end(&stage);
}
END_TEST

START_TEST(a_slow_worker_gets_ranges_of_1_mib_and_no_shorter_ones)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, MIB);

	stream("disk0", 0);
	stage_run(&stage, 30000);

	ck_assert_uint_eq(stage.latest_range, MIB);
	stage_end(&stage);
}
END_TEST

/* A flush that takes long tells nothing of how much to copy at a time. */
START_TEST(a_short_range_that_took_long_makes_the_others_no_shorter)
{
	struct join join = {.range_bytes = 64 * MIB};
	struct lease lease = {.join = &join, .range = {.length = MIB / 16}};

	for (; lease.range.length <= 32 * MIB; lease.range.length *= 2) {
		scheduler_learn(&lease, 1000000);
		ck_assert_uint_eq(join.range_bytes, 64 * MIB);
	}
	scheduler_learn(&lease, 1000000);
	ck_assert_uint_eq(join.range_bytes, 32 * MIB);
}
END_TEST

START_TEST(a_fast_worker_gets_ranges_of_64_mib_and_no_longer_ones)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, 10 * GIB);

	stream("disk0", 0);
	stage_run(&stage, 2000);

	ck_assert_uint_eq(stage.longest_range, 64 * MIB);
	stage_end(&stage);
}
END_TEST

START_TEST(no_worker_has_more_in_its_hands_than_its_slots_and_one)
{
	stage_begin(&stage, NULL);
	for (int i = 0; i < 4; i++)
		stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 1, 100 * MIB);
	stage_add_worker(&stage, 3, 100 * MIB);
	for (int i = 0; i < 4; i++)
		stream(stage.devices[i].name, 0);

	stage_run(&stage, 3000);

	ck_assert_uint_eq(stage.workers[0].most_in_hands, 2);
	ck_assert_uint_eq(stage.workers[1].most_in_hands, 4);
	stage_end(&stage);
}
END_TEST

START_TEST(the_last_ranges_are_shared_by_all_workers)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, 64 * MIB, 0);
	stage_add_imaged(&stage);
	for (int i = 0; i < 4; i++)
		stage_add_worker(&stage, 2, 100 * MIB);

	stream("disk0", 0);
	stage_run(&stage, 300); /* one alone would take twice as long, with both of its slots */

	ck_assert_uint_eq(stage.devices[0].copied, 64 * MIB);
	stage_end(&stage);
}
END_TEST

START_TEST(a_worker_that_comes_later_helps)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 1, 100 * MIB);
	stream("disk0", 0);
	stage_run(&stage, 2000);
	uint64_t alone = stage.devices[0].copied;

	stage_add_worker(&stage, 1, 100 * MIB);
	stage_run(&stage, 2000);

	ck_assert_uint_ge(stage.devices[0].copied - alone, alone * 18 / 10);
	stage_end(&stage);
}
END_TEST

START_TEST(a_device_of_64_tib_in_pieces_is_copied_page_by_page)
{
	stage_begin(&stage, NULL);
	stage_add_device(&stage, 64 * TIB, STAGE_CLUSTER);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, 60 * MIB);

	stream("disk0", 0);
	stage_run(&stage, 1000);

	ck_assert_uint_ge(stage.ranges, 1000); /* several pages of 1,024 runs */
	stage_end(&stage);
}
END_TEST

UNIT_MAIN("core_scheduler", a_job_keeps_its_limit_within_five_percent,
	a_limit_below_a_cluster_a_second_is_kept_over_time, a_new_limit_holds_at_once,
	the_budget_is_shared_fairly_and_kept_over_all_workers,
	a_range_keeps_a_worker_busy_for_a_tenth_of_a_second,
	a_slow_worker_gets_ranges_of_1_mib_and_no_shorter_ones,
	a_short_range_that_took_long_makes_the_others_no_shorter,
	a_fast_worker_gets_ranges_of_64_mib_and_no_longer_ones,
	no_worker_has_more_in_its_hands_than_its_slots_and_one,
	the_last_ranges_are_shared_by_all_workers, a_worker_that_comes_later_helps,
	a_device_of_64_tib_in_pieces_is_copied_page_by_page)
