/* SPDX-License-Identifier: Apache-2.0 */
/* Guests first: a job gives way to a busy one, down to its floor, and copies first what one missed. */
#include "schemas/envelope.gen.h"
#include "tests/unit/core_fixture.h"
#include "tests/unit/unit.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static struct stage stage;

static void begin_with(uint64_t default_floor, uint64_t run_bytes, uint64_t worker_speed)
{
	const struct core_options options = {.floor = default_floor};

	stage_begin(&stage, &options);
	stage_add_device(&stage, TIB, run_bytes);
	stage_add_device(&stage, TIB, run_bytes);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, worker_speed);
}

static void begin(uint64_t default_floor)
{
	begin_with(default_floor, 0, GIB);
}

static void stream(const struct cmd_block_stream *arguments)
{
	stage_stream(&stage, arguments);
	ck_assert_str_eq(stage_error(&stage, NULL), "");
}

static void stream_plainly(const char *device)
{
	const struct cmd_block_stream arguments = {.device = device};

	stream(&arguments);
}

static void stream_with_floor(const char *device, uint64_t floor)
{
	const struct cmd_block_stream arguments = {
		.device = device, .has_floor = true, .floor = floor};

	stream(&arguments);
}

/* The guest of the device is busy all the time. */
static void be_busy(size_t device, uint64_t ms)
{
	for (uint64_t i = 0; i < ms; i += 100) {
		stage_guest(&stage, stage.devices[device].name, 900, NULL, 0);
		stage_run(&stage, 100);
	}
}

/* What the device's job copies in 4 s while its guest is busy, a second. */
static uint64_t rate_while_busy(size_t device)
{
	uint64_t before;

	be_busy(device, 1000);
	before = stage.devices[device].copied;
	be_busy(device, 4000);
	return (stage.devices[device].copied - before) / 4;
}

static void assert_within(uint64_t value, uint64_t wanted, unsigned percent)
{
	ck_assert_uint_ge(value, wanted - wanted * percent / 100);
	ck_assert_uint_le(value, wanted + wanted * percent / 100);
}

START_TEST(a_busy_guest_slows_its_job_to_the_floor_and_no_further)
{
	static const uint64_t floors[] = {300000, 4 * MIB, 20 * MIB, 100 * MIB};

	for (size_t i = 0; i < sizeof(floors) / sizeof(floors[0]); i++) {
		begin(0);
		stream_with_floor("disk0", floors[i]);
		stage_run(&stage, 2000);
		ck_assert_uint_ge(stage.devices[0].copied, 2 * GIB);
		assert_within(rate_while_busy(0), floors[i], 6);
		stage_end(&stage);
	}
}
END_TEST

START_TEST(a_job_that_begins_under_a_busy_guest_keeps_its_floor)
{
	begin(0);
	stream_with_floor("disk0", 8 * MIB);
	be_busy(0, 5000);
	assert_within(rate_while_busy(0), 8 * MIB, 6);
	stage_end(&stage);
}
END_TEST

START_TEST(while_a_guest_is_busy_no_range_is_longer_than_1_mib)
{
	begin(0);
	stream_with_floor("disk0", 100 * MIB);
	stage_run(&stage, 2000);
	ck_assert_uint_eq(stage.longest_range, 64 * MIB);
	be_busy(0, 500);
	stage.longest_range = 0;
	be_busy(0, 3000);
	ck_assert_uint_gt(stage.longest_range, 0);
	ck_assert_uint_le(stage.longest_range, MIB);
	stage_end(&stage);
}
END_TEST

START_TEST(a_guest_that_falls_silent_has_its_job_free_within_a_second)
{
	uint64_t before;

	begin(0);
	stream_with_floor("disk0", 4 * MIB);
	stage_run(&stage, 2000);
	be_busy(0, 3000);
	stage_run(&stage, 1000);
	before = stage.devices[0].copied;
	stage_run(&stage, 1000);
	ck_assert_uint_ge(stage.devices[0].copied - before, GIB);
	stage_end(&stage);
}
END_TEST

START_TEST(the_job_of_another_device_does_not_give_way)
{
	uint64_t before;

	begin(4 * MIB);
	stream_plainly("disk0");
	stream_plainly("disk1");
	stage_run(&stage, 1000);
	be_busy(0, 1000);
	before = stage.devices[1].copied;
	be_busy(0, 1000);
	ck_assert_uint_ge(stage.devices[1].copied - before, GIB);
	stage_end(&stage);
}
END_TEST

START_TEST(a_job_that_names_no_floor_has_the_brokers)
{
	begin(10 * MIB);
	stream_plainly("disk0");
	stage_run(&stage, 1000);
	assert_within(rate_while_busy(0), 10 * MIB, 6);
	stage_end(&stage);
}
END_TEST

START_TEST(a_job_with_a_floor_of_0_gives_way_wholly)
{
	begin(10 * MIB);
	stream_with_floor("disk0", 0);
	stage_run(&stage, 1000);
	ck_assert_uint_eq(rate_while_busy(0), 0);
	stage_run(&stage, 2000);
	ck_assert_uint_ge(stage.devices[0].copied, 2 * GIB);
	stage_end(&stage);
}
END_TEST

START_TEST(a_speed_below_the_floor_goes_before_it)
{
	const struct cmd_block_stream arguments = {.device = "disk0",
		.has_speed = true,
		.speed = 2 * MIB,
		.has_floor = true,
		.floor = 50 * MIB};

	begin(0);
	stream(&arguments);
	stage_run(&stage, 2000);
	assert_within(rate_while_busy(0), 2 * MIB, 6);
	stage_end(&stage);
}
END_TEST

START_TEST(a_floor_survives_a_restart)
{
	begin(1 * MIB);
	stream_with_floor("disk0", 20 * MIB);
	stream_plainly("disk1");
	stage_run(&stage, 1000);
	stage.options.floor = 5 * MIB;
	stage_restart(&stage);
	stage_add_worker(&stage, 2, GIB);
	stage_run(&stage, 1000);
	assert_within(rate_while_busy(0), 20 * MIB, 6);
	stage_run(&stage, 2000);
	assert_within(rate_while_busy(1), 5 * MIB, 6);
	stage_end(&stage);
}
END_TEST

/* ---- what guests missed */

/* The first reservations after the report. */
static void tell_wanted(const struct guest_range *wanted, size_t count)
{
	stage.asked_count = 0;
	stage_guest(&stage, "disk0", 0, wanted, count);
	stage_run(&stage, 200);
}

static void assert_asked(size_t place, uint64_t offset, uint64_t length)
{
	ck_assert_uint_lt(place, stage.asked_count);
	ck_assert_uint_eq(stage.asked[place].offset, offset);
	ck_assert_uint_eq(stage.asked[place].length, length);
}

START_TEST(what_a_guest_missed_goes_first_with_what_lies_behind_it)
{
	const struct guest_range wanted[] = {{300 * GIB + 5 * MIB + 100, 4096}};

	begin(0);
	stream_plainly("disk0");
	stage_run(&stage, 1000);
	tell_wanted(wanted, 1);
	for (uint64_t i = 0; i < 3; i++)
		assert_asked(i, 300 * GIB + (5 + i) * MIB, MIB);
	ck_assert_uint_lt(stage.asked[3].offset, 100 * GIB);
	stage_end(&stage);
}
END_TEST

START_TEST(what_is_in_hands_already_is_not_handed_out_again)
{
	struct guest_range wanted[] = {{0, 4096}};

	begin(0);
	stream_plainly("disk0");
	stage_run(&stage, 1000);
	tell_wanted(wanted, 1);
	for (size_t i = 0; i < stage.asked_count; i++)
		ck_assert_uint_ge(stage.asked[i].offset, MIB);
	stage_end(&stage);
}
END_TEST

START_TEST(what_a_guest_missed_beyond_the_map_goes_first_too)
{
	const struct guest_range wanted[] = {{500 * GIB, 4096}};

	begin_with(0, MIB, 200 * MIB);
	stream_plainly("disk0");
	stage_run(&stage, 1000);
	tell_wanted(wanted, 1);
	assert_asked(0, 500 * GIB, MIB);
	assert_asked(1, 500 * GIB + MIB, MIB);
	stage_end(&stage);
}
END_TEST

/* ---- ahead of the map */

/* One device of which only the first of 64 KiB pieces are known; stops when the page after them
 * is asked for, while four ranges are in hands. */
static void begin_and_hold_the_second_page(void)
{
	const struct core_options options = {.map_bytes = 2 * STAGE_CLUSTER};

	stage_begin(&stage, &options);
	stage_add_device(&stage, GIB, STAGE_CLUSTER);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 3, 32 * MIB);
	stream_plainly("disk0");
	stage.holds_pages = true;
	while (stage.pages_asked < 2)
		stage_run(&stage, 1);
	ck_assert_uint_eq(stage.workers[0].in_hands, 4);
}

static const struct guest_range the_end = {GIB - 4096, 4096};

static bool asks_for_the_end(void)
{
	for (size_t i = 0; i < stage.asked_count; i++)
		if (stage.asked[i].offset >= GIB - 8 * MIB)
			return true;
	return false;
}

START_TEST(nothing_is_reserved_ahead_while_a_page_is_on_its_way)
{
	begin_and_hold_the_second_page();
	tell_wanted(&the_end, 1);
	ck_assert(!asks_for_the_end());
	stage_end(&stage);
}
END_TEST

START_TEST(nor_when_what_comes_back_makes_the_page_less_urgent)
{
	begin_and_hold_the_second_page();
	stage_lose_worker(&stage, 0);
	stage_add_worker(&stage, 1, MIB);
	tell_wanted(&the_end, 1);
	ck_assert_uint_gt(stage.asked_count, 0);
	ck_assert(!asks_for_the_end());
	stage_end(&stage);
}
END_TEST

/* The last MiB is reserved ahead, and imaged does not answer that. */
static void begin_and_hold_a_reservation_ahead(void)
{
	const struct core_options options = {.map_bytes = 2 * STAGE_CLUSTER};

	stage_begin(&stage, &options);
	stage_add_device(&stage, GIB, STAGE_CLUSTER);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 3, 32 * MIB);
	stream_plainly("disk0");
	stage_run(&stage, 20);
	stage.holds_from = GIB - MIB;
	tell_wanted(&the_end, 1);
	ck_assert(asks_for_the_end());
}

START_TEST(no_page_is_asked_for_while_a_reservation_ahead_has_no_answer)
{
	begin_and_hold_a_reservation_ahead();
	stage_run(&stage, 3000);
	ck_assert_uint_eq(stage.devices[0].copied, 64 * MIB);
	ck_assert_uint_eq(stage.pages_asked, 1);
	stage_end(&stage);
}
END_TEST

START_TEST(a_page_that_waits_for_reservations_ahead_lets_no_more_of_them_begin)
{
	const struct guest_range another = {GIB - 8 * MIB, 4096};

	begin_and_hold_a_reservation_ahead();
	while (stage.devices[0].copied < 64 * MIB - 4 * STAGE_CLUSTER)
		stage_run(&stage, 1);
	tell_wanted(&another, 1);
	ck_assert_uint_gt(stage.asked_count, 0);
	ck_assert(!asks_for_the_end());
	stage_end(&stage);
}
END_TEST

/* The job's `present`, as clients see it. */
static uint64_t present(void)
{
	struct wire_memory memory = {0};
	struct job_info *jobs;
	size_t count;
	struct reply_envelope reply;
	uint64_t bytes;

	stage_ask(&stage, "query-block-jobs", NULL);
	ck_assert_int_eq(
		reply_envelope_decode(stage.reply, stage.reply_length, &memory, &reply, NULL), 0);
	ck_assert_int_eq(cmd_query_block_jobs_return_decode(reply.returned.bytes,
				 reply.returned.length, &memory, &jobs, &count, NULL),
		0);
	ck_assert_uint_eq(count, 1);
	bytes = jobs[0].present;
	wire_memory_done(&memory);
	return bytes;
}

START_TEST(what_was_copied_ahead_does_not_count_as_present)
{
	const struct core_options options = {.map_bytes = MIB};

	stage_begin(&stage, &options);
	stage_add_device(&stage, 4 * GIB, MIB);
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, 100 * MIB);
	stream_plainly("disk0");
	stage_run(&stage, 100);
	stage.notes_mapped = true;
	tell_wanted((const struct guest_range[]){{3 * GIB, 4096}, {3 * GIB + 10 * MIB, 4096}}, 2);
	stage_run(&stage, 500);
	stage.notes_mapped = false;
	ck_assert_uint_eq(stage.pages_asked, 1);
	while (stage.pages_asked < 2)
		stage_run(&stage, 100);
	ck_assert_uint_eq(present(), 0);
	stage_end(&stage);
}
END_TEST

START_TEST(absurd_wishes_are_ignored)
{
	const struct guest_range wanted[] = {{TIB, 4096}, {INT64_MAX, INT64_MAX}, {0, INT64_MAX},
		{5 * GIB, 0}, {TIB - 4096, 8192}};
	uint64_t latest;

	begin(0);
	stream_plainly("disk0");
	stage_run(&stage, 1000);
	ck_assert_uint_gt(stage.asked_count, 0);
	latest = stage.asked[stage.asked_count - 1].offset;
	tell_wanted(wanted, 5);
	ck_assert_uint_gt(stage.asked[0].offset, latest);
	for (size_t i = 1; i < stage.asked_count; i++)
		ck_assert_uint_eq(stage.asked[i].offset,
			stage.asked[i - 1].offset + stage.asked[i - 1].length);
	stage_end(&stage);
}
END_TEST

START_TEST(a_flood_of_wishes_keeps_to_the_jobs_speed)
{
	const struct cmd_block_stream arguments = {
		.device = "disk0", .has_speed = true, .speed = 10 * MIB};
	uint64_t before;

	begin(0);
	stream(&arguments);
	stage_run(&stage, 1000);
	before = stage.devices[0].copied;
	for (uint64_t i = 0; i < 50; i++) {
		struct guest_range wanted[64];

		for (uint64_t k = 0; k < 64; k++)
			wanted[k] = (struct guest_range){(i * 64 + k) * 100 * MIB, 3 * MIB};
		stage_guest(&stage, "disk0", 0, wanted, 64);
		stage_run(&stage, 100);
	}
	assert_within(stage.devices[0].copied - before, 50 * MIB, 5);
	stage_end(&stage);
}
END_TEST

START_TEST(wishes_about_an_image_that_became_smaller_are_forgotten)
{
	const struct guest_range wanted[] = {{500 * GIB, 4096}};

	stage_begin(&stage, NULL);
	stage_add_device(&stage, TIB, 0);
	stage_add_imaged(&stage);
	stream_plainly("disk0");
	stage_guest(&stage, "disk0", 0, wanted, 1);
	core_peer_unreachable(stage.core, stage_time(&stage), STAGE_IMAGED, &stage.waiting);
	stage_settle(&stage);
	stage.devices[0].size = GIB;
	stage.incarnation++;
	stage_add_imaged(&stage);
	stage_add_worker(&stage, 2, GIB);
	stage_run(&stage, 5000);
	ck_assert_uint_eq(stage.devices[0].copied, GIB);
	for (size_t i = 0; i < stage.asked_count; i++)
		ck_assert_uint_lt(stage.asked[i].offset, GIB);
	stage_end(&stage);
}
END_TEST

START_TEST(reports_about_nothing_change_nothing)
{
	const struct guest_range wanted[] = {{500 * GIB, 4096}};

	begin(0);
	stage_guest(&stage, "disk0", 1000, wanted, 1);
	stage_guest(&stage, "nobody", 1000, wanted, 1);
	stream_plainly("disk0");
	stage_run(&stage, 1000);
	ck_assert_uint_ge(stage.devices[0].copied, GIB);
	for (size_t i = 0; i < stage.asked_count; i++)
		ck_assert_uint_lt(stage.asked[i].offset, 500 * GIB);
	stage_end(&stage);
}
END_TEST

UNIT_MAIN("core_guests", a_busy_guest_slows_its_job_to_the_floor_and_no_further,
	a_job_that_begins_under_a_busy_guest_keeps_its_floor,
	while_a_guest_is_busy_no_range_is_longer_than_1_mib,
	a_guest_that_falls_silent_has_its_job_free_within_a_second,
	the_job_of_another_device_does_not_give_way, a_job_that_names_no_floor_has_the_brokers,
	a_job_with_a_floor_of_0_gives_way_wholly, a_speed_below_the_floor_goes_before_it,
	a_floor_survives_a_restart, what_a_guest_missed_goes_first_with_what_lies_behind_it,
	what_is_in_hands_already_is_not_handed_out_again,
	what_a_guest_missed_beyond_the_map_goes_first_too,
	nothing_is_reserved_ahead_while_a_page_is_on_its_way,
	nor_when_what_comes_back_makes_the_page_less_urgent,
	no_page_is_asked_for_while_a_reservation_ahead_has_no_answer,
	a_page_that_waits_for_reservations_ahead_lets_no_more_of_them_begin,
	what_was_copied_ahead_does_not_count_as_present, absurd_wishes_are_ignored,
	a_flood_of_wishes_keeps_to_the_jobs_speed,
	wishes_about_an_image_that_became_smaller_are_forgotten,
	reports_about_nothing_change_nothing)
