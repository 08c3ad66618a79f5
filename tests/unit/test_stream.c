/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and ending jobs on real images. */
#include "schemas/errors.gen.h"
#include "tests/unit/copy_fixture.h"

static struct device_fixture f;

/* leaf -> mid -> base, mid has its first 256 KiB; the device is attached. */
static void begin_three(void)
{
	fixture_begin(&f);
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2");
	fixture_shell(&f, "qemu-io -c 'write -P 77 0 256k' mid.qcow2");
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 leaf.qcow2");
	fixture_attach(&f, "leaf.qcow2");
}

static void refuses(const struct stream_wish *wish, enum error_class kind, const char *words)
{
	ck_assert_int_eq(stream_open(f.device, "j", wish, &f.trouble), -1);
	ck_assert_uint_eq(f.trouble.err.kind, kind);
	ck_assert_msg(
		strstr(f.trouble.err.text, words), "\"%s\" in \"%s\"", words, f.trouble.err.text);
	ck_assert_ptr_null(f.device->stream);
}

static void copy_all(void)
{
	struct reservation made;

	for (uint64_t i = 0; i < DISK_BYTES / CLUSTER; i = (made.offset + made.length) / CLUSTER) {
		made = fixture_reserve(&f, i, DISK_BYTES / CLUSTER - i);
		if (made.length == 0)
			return;
		fixture_copy(&f, &made, 'c');
		fixture_commit(&f, &made);
	}
}

START_TEST(a_job_settles_what_it_keeps)
{
	const struct stream_wish all = {0}, base = {.base = "base.raw"},
				 bottom = {.bottom = "mid.qcow2"}, direct = {.base = "mid.qcow2"};
	struct stream stream;

	begin_three();
	ck_assert_int_eq(stream_resolve(f.device, &all, &stream, &f.trouble), 0);
	ck_assert_uint_eq(stream.kept, 3);
	ck_assert_str_eq(stream.backing_name, "");
	ck_assert_int_eq(stream_resolve(f.device, &base, &stream, &f.trouble), 0);
	ck_assert_uint_eq(stream.kept, 2);
	ck_assert_str_eq(stream.backing_name, "base.raw");
	ck_assert_str_eq(stream.backing_format, "raw");
	ck_assert_int_eq(stream_resolve(f.device, &bottom, &stream, &f.trouble), 0);
	ck_assert_uint_eq(stream.kept, 2);
	ck_assert_int_eq(stream_resolve(f.device, &direct, &stream, &f.trouble), 0);
	ck_assert(stream.has_nothing_to_do);
	ck_assert_str_eq(stream.backing_name, "mid.qcow2");
	fixture_end(&f);
}
END_TEST

START_TEST(wishes_that_do_not_fit_the_chain_are_refused)
{
	begin_three();
	refuses(&(struct stream_wish){.base = "x"}, ERROR_CLASS_BASE_NOT_FOUND, "'x'");
	refuses(&(struct stream_wish){.bottom = "leaf.qcow2"}, ERROR_CLASS_BASE_NOT_FOUND,
		"the leaf itself");
	refuses(&(struct stream_wish){.base = "base.raw", .bottom = "mid.qcow2"},
		ERROR_CLASS_GENERIC_ERROR, "together");
	refuses(&(struct stream_wish){.backing_file = "base.raw"}, ERROR_CLASS_GENERIC_ERROR,
		"backing-file");
	refuses(&(struct stream_wish){.bottom = "base.raw", .backing_file = "base.raw"},
		ERROR_CLASS_GENERIC_ERROR, "no backing file is kept");
	refuses(&(struct stream_wish){.base = "base.raw", .backing_file = "mid.qcow2"},
		ERROR_CLASS_GENERIC_ERROR, "very same file");
	fixture_end(&f);
}
END_TEST

START_TEST(only_one_job_is_open_and_opening_it_again_changes_nothing)
{
	const struct stream_wish wish = {0};
	struct reservation made;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 1);
	fixture_open_job(&f, NULL);
	ck_assert_ptr_nonnull(lease_table_find(&f.device->leases, made.lease));
	ck_assert_int_eq(stream_open(f.device, "other", &wish, &f.trouble), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_DEVICE_IN_USE);
	stream_close(f.device, "other");
	ck_assert_ptr_nonnull(f.device->stream);
	fixture_end(&f);
}
END_TEST

START_TEST(a_job_ends_only_when_nothing_is_missing)
{
	struct reservation made;
	uint64_t missing = 1;

	fixture_begin_job(&f);
	ck_assert_int_eq(
		stream_finish(f.device, "j", "", "", &missing, &f.trouble), STREAM_UNFINISHED);
	ck_assert_uint_eq(missing, 0);
	made = fixture_reserve(&f, 0, 5);
	fixture_copy(&f, &made, 'c');
	fixture_commit(&f, &made);
	ck_assert_int_eq(
		stream_finish(f.device, "j", "", "", &missing, &f.trouble), STREAM_UNFINISHED);
	ck_assert_uint_eq(missing, 5 * CLUSTER);
	ck_assert_str_eq(f.device->leaf->header.backing_name, "base.raw");
	copy_all();
	ck_assert_int_eq(stream_finish(f.device, "j", "base.raw", "raw", &missing, &f.trouble), -1);
	ck_assert_int_eq(stream_finish(f.device, "j", "", "", &missing, &f.trouble), 0);
	ck_assert_str_eq(f.device->leaf->header.backing_name, "");
	ck_assert_uint_eq(f.device->live.current->chain->count, 1);
	ck_assert_uint_eq(f.device->description->state.chain_count, 1);
	ck_assert_ptr_null(f.device->stream);
	ck_assert_int_eq(stream_finish(f.device, "j", "", "", &missing, &f.trouble), 0);
	ck_assert_int_eq(stream_finish(f.device, "j", "base.raw", "raw", &missing, &f.trouble), -1);
	fixture_end(&f);
}
END_TEST

START_TEST(a_partial_job_keeps_its_base)
{
	uint64_t missing;

	begin_three();
	fixture_open_job(&f, "base.raw");
	fixture_join(&f);
	copy_all();
	ck_assert_int_eq(stream_finish(f.device, "j", "base.raw", "raw", &missing, &f.trouble), 0);
	ck_assert_uint_eq(f.device->live.current->chain->count, 2);
	ck_assert_str_eq(f.device->live.current->chain->layers[1].name, "base.raw");
	ck_assert_int_eq(fixture_kind(&f, 3), EXTENT_DATA);
	ck_assert_int_eq(fixture_kind(&f, 4), EXTENT_ABSENT);
	fixture_end(&f);
}
END_TEST

START_TEST(a_job_whose_space_is_not_counted_yet_reserves_nothing)
{
	const struct reservation_wish wish = {.job = "j", .offset = 0, .length = CLUSTER};
	struct reservation_wish of_worker = wish;
	struct reservation made;
	int r, laters = 0;

	fixture_begin_job(&f);
	of_worker.join = f.join->id;
	f.device->stream->is_counted = false;
	plan_begin(&f.device->stream->count, PLAN_TOTALS);
	f.device->stream->count.position = CLUSTER; /* under way, so it goes on */
	while ((r = reservation_make(f.device, &of_worker, &f.memory, &made, &f.trouble)) ==
		RESERVATION_LATER)
		laters++;
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(laters, 0);
	ck_assert(f.device->stream->is_counted);

	f.device->stream->is_counted = false;
	f.device->stream->count.copy = UINT64_C(1) << 60;
	f.device->stream->count.position = CLUSTER;
	ck_assert_int_eq(reservation_make(f.device, &of_worker, &f.memory, &made, &f.trouble), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_NO_SPACE);
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("stream", a_job_settles_what_it_keeps, wishes_that_do_not_fit_the_chain_are_refused,
	only_one_job_is_open_and_opening_it_again_changes_nothing,
	a_job_ends_only_when_nothing_is_missing, a_partial_job_keeps_its_base,
	a_job_whose_space_is_not_counted_yet_reserves_nothing)
