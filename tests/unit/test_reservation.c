/* SPDX-License-Identifier: Apache-2.0 */
/* Reserving, giving back and quarantine on real images. */
#include "tests/unit/copy_fixture.h"

static struct device_fixture f;

START_TEST(what_is_reserved_says_where_its_bytes_come_from_and_go)
{
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 2, 4);
	ck_assert_uint_eq(made.offset, 2 * CLUSTER);
	ck_assert_uint_eq(made.length, 4 * CLUSTER);
	ck_assert_uint_eq(made.skipped, 0);
	ck_assert(made.detects_zeroes);
	ck_assert_uint_eq(made.source_count, 1);
	ck_assert_int_eq(made.sources[0].codec, CODEC_PLAIN);
	ck_assert_uint_eq(made.sources[0].offset, 2 * CLUSTER);
	ck_assert_uint_eq(made.destination_count, 1);
	ck_assert_uint_eq(made.destinations[0].length, 4 * CLUSTER);
	ck_assert_int_eq(fixture_kind(&f, 2), EXTENT_ABSENT);
	fixture_end(&f);
}
END_TEST

START_TEST(what_the_leaf_has_by_now_is_skipped)
{
	struct reservation first, made;

	fixture_begin_job(&f);
	first = fixture_reserve(&f, 0, 3);
	fixture_copy(&f, &first, 'b');
	fixture_commit(&f, &first);
	made = fixture_reserve(&f, 1, 4);
	ck_assert_uint_eq(made.offset, 3 * CLUSTER);
	ck_assert_uint_eq(made.length, 2 * CLUSTER);
	ck_assert_uint_eq(made.skipped, 2 * CLUSTER);
	made = fixture_reserve(&f, 1, 2);
	ck_assert_uint_eq(made.lease, 0);
	ck_assert_uint_eq(made.length, 0);
	ck_assert_uint_eq(made.skipped, 2 * CLUSTER);
	fixture_end(&f);
}
END_TEST

START_TEST(an_aborted_lease_waits_until_its_worker_has_stopped)
{
	struct reservation first, second, third;

	fixture_begin_job(&f);
	first = fixture_reserve(&f, 0, 2);
	reservation_abort(f.device, first.lease, WORKER_MAY_WRITE);
	ck_assert_uint_eq(f.device->leases.quarantined_bytes, 2 * CLUSTER);
	ck_assert(atomic_load(&f.device->needs_tidying));
	second = fixture_reserve(&f, 0, 2);
	ck_assert_uint_ne(second.destinations[0].offset, first.destinations[0].offset);

	reservation_abort(f.device, first.lease, WORKER_HAS_STOPPED);
	ck_assert_uint_eq(f.device->leases.quarantined_bytes, 0);
	third = fixture_reserve(&f, 4, 2);
	ck_assert_uint_eq(third.destinations[0].offset, first.destinations[0].offset);
	ck_assert_uint_eq(atomic_load(&f.host.leases), 2);
	fixture_end(&f);
}
END_TEST

START_TEST(quarantine_ends_when_the_lock_byte_is_free)
{
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 2);
	reservation_end_join(f.device, f.join, WORKER_MAY_WRITE);
	device_tidy(f.device);
	ck_assert_uint_eq(f.device->leases.quarantined_bytes, 2 * CLUSTER);
	ck_assert(atomic_load(&f.device->needs_tidying));
	ck_assert_uint_eq(f.device->joins.count, 1);
	fixture_copy(&f, &made, 'x');

	close(f.worker);
	f.worker = -1;
	device_tidy(f.device);
	ck_assert_uint_eq(f.device->leases.quarantined_bytes, 0);
	ck_assert(!atomic_load(&f.device->needs_tidying));
	ck_assert_uint_eq(f.device->joins.count, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_worker_that_said_that_it_stopped_leaves_nothing_behind)
{
	fixture_begin_job(&f);
	fixture_reserve(&f, 0, 2);
	fixture_reserve(&f, 4, 2);
	reservation_end_join(f.device, f.join, WORKER_HAS_STOPPED);
	ck_assert_uint_eq(f.device->leases.count, 0);
	ck_assert_uint_eq(f.device->joins.count, 0);
	ck_assert_uint_eq(atomic_load(&f.host.leases), 0);
	ck_assert_uint_eq(atomic_load(&f.host.joins), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(too_much_in_quarantine_stops_reserving)
{
	const struct reservation_wish wish = {.job = "j", .offset = 0, .length = CLUSTER};
	struct reservation_wish of_worker = wish;
	struct reservation made;

	fixture_begin_job(&f);
	of_worker.join = f.join->id;
	f.device->leases.quarantined_bytes = DEVICE_QUARANTINE_MAX;
	ck_assert_int_eq(reservation_make(f.device, &of_worker, &f.memory, &made, &f.trouble), -1);
	ck_assert_msg(strstr(f.trouble.err.text, "quarantine"), "%s", f.trouble.err.text);
	f.device->leases.quarantined_bytes = 0;
	fixture_reserve(&f, 0, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(closing_the_job_revokes_its_leases)
{
	struct reservation_outcome outcome;
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 2);
	stream_close(f.device, "j");
	ck_assert_uint_eq(f.device->leases.open, 0);
	ck_assert_uint_eq(f.device->leases.quarantined_bytes, 2 * CLUSTER);
	ck_assert_int_eq(
		reservation_commit(f.device, made.lease, NULL, 0, &outcome, &f.trouble), -1);
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("reservation", what_is_reserved_says_where_its_bytes_come_from_and_go,
	what_the_leaf_has_by_now_is_skipped, an_aborted_lease_waits_until_its_worker_has_stopped,
	quarantine_ends_when_the_lock_byte_is_free,
	a_worker_that_said_that_it_stopped_leaves_nothing_behind,
	too_much_in_quarantine_stops_reserving, closing_the_job_revokes_its_leases)
