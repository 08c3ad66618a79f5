/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/guest_report.h"

#include "schemas/imaged_broker.gen.h"
#include "tests/unit/device_fixture.h"

static uint64_t now_ms;

/* What is said at the next look; false: nothing. */
static bool look(struct device_fixture *fixture, struct msg_guest_report *ret_report)
{
	struct wire_buffer buffer = {0};
	struct imaged_to_broker message;
	bool says_something;

	now_ms += GUEST_REPORT_MS;
	says_something = guest_report_encode(fixture->device, now_ms, &buffer);
	if (says_something) {
		ck_assert_int_eq(imaged_to_broker_decode(buffer.bytes, buffer.length,
					 &fixture->memory, &message, NULL),
			0);
		ck_assert_int_eq(message.type, IMAGED_TO_BROKER_GUEST_REPORT);
		*ret_report = message.guest_report;
	}
	wire_buffer_done(&buffer);
	return says_something;
}

static void guest_acts(struct device_fixture *fixture)
{
	guest_activity_begin(&fixture->device->activity);
	guest_activity_end(&fixture->device->activity);
}

START_TEST(a_load_is_told_while_it_lasts_and_once_when_it_is_over)
{
	struct device_fixture fixture;
	struct msg_guest_report report;

	fixture_begin_job(&fixture);
	ck_assert(!look(&fixture, &report));
	guest_activity_begin(&fixture.device->activity);
	ck_assert(look(&fixture, &report));
	ck_assert_str_eq(report.device, "d");
	ck_assert_uint_eq(report.requests, 1);
	ck_assert(look(&fixture, &report));
	ck_assert_uint_eq(report.busy, 1000);
	ck_assert_uint_eq(report.requests, 0);
	guest_activity_end(&fixture.device->activity);
	ck_assert(look(&fixture, &report));
	ck_assert(look(&fixture, &report));
	ck_assert_uint_eq(report.busy, 0);
	ck_assert(!look(&fixture, &report));
	fixture_end(&fixture);
}
END_TEST

START_TEST(what_a_guest_missed_is_told_once)
{
	struct device_fixture fixture;
	struct msg_guest_report report;

	fixture_begin_job(&fixture);
	ck_assert(!look(&fixture, &report));
	guest_activity_missed(&fixture.device->activity, CLUSTER, 4096);
	ck_assert(look(&fixture, &report));
	ck_assert_uint_eq(report.wanted_count, 1);
	ck_assert_uint_eq(report.wanted[0].offset, CLUSTER);
	ck_assert_uint_eq(report.wanted[0].length, 4096);
	ck_assert(!look(&fixture, &report));
	fixture_end(&fixture);
}
END_TEST

START_TEST(no_more_than_ten_reports_are_made_in_a_second)
{
	struct device_fixture fixture;
	struct wire_buffer buffer = {0};
	unsigned reports = 0;

	fixture_begin_job(&fixture);
	for (uint64_t i = 0; i < 1000; i++) {
		guest_acts(&fixture);
		reports += guest_report_encode(fixture.device, 1000000 + i, &buffer);
	}
	ck_assert_uint_eq(reports, 10);
	wire_buffer_done(&buffer);
	fixture_end(&fixture);
}
END_TEST

START_TEST(nothing_is_said_while_no_job_is_open)
{
	struct device_fixture fixture;
	struct msg_guest_report report;

	fixture_begin_job(&fixture);
	ck_assert(!look(&fixture, &report));
	guest_acts(&fixture);
	guest_activity_missed(&fixture.device->activity, 0, 4096);
	stream_close(fixture.device, "j");
	ck_assert(!look(&fixture, &report));
	ck_assert(!look(&fixture, &report));
	guest_activity_missed(&fixture.device->activity, 0, 4096);
	fixture_open_job(&fixture, NULL);
	ck_assert(!look(&fixture, &report));
	fixture_end(&fixture);
}
END_TEST

START_TEST(a_job_hears_at_once_of_the_load_that_there_was)
{
	struct device_fixture fixture;
	struct msg_guest_report report;

	fixture_begin_job(&fixture);
	stream_close(fixture.device, "j");
	guest_activity_begin(&fixture.device->activity);
	ck_assert(!look(&fixture, &report));
	guest_activity_end(&fixture.device->activity);
	fixture_open_job(&fixture, NULL);
	guest_report_begin(fixture.device);
	now_ms -= GUEST_REPORT_MS; /* at the very moment of the look before */
	ck_assert(look(&fixture, &report));
	ck_assert_uint_eq(report.requests, 1);
	ck_assert(look(&fixture, &report));
	ck_assert_uint_eq(report.requests, 0);
	ck_assert(!look(&fixture, &report));
	fixture_end(&fixture);
}
END_TEST

DEVICE_MAIN("guest_report", a_load_is_told_while_it_lasts_and_once_when_it_is_over,
	what_a_guest_missed_is_told_once, no_more_than_ten_reports_are_made_in_a_second,
	nothing_is_said_while_no_job_is_open, a_job_hears_at_once_of_the_load_that_there_was)
