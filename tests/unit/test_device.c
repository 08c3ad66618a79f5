/* SPDX-License-Identifier: Apache-2.0 */
/* Attaching, detaching, failing and late workers, on real images. */
#include <sys/stat.h>

#include "imaged/guest.h"
#include "schemas/errors.gen.h"
#include "tests/unit/copy_fixture.h"

static struct device_fixture f;

static int attach_as(const char *name, const char *file)
{
	const struct device_attach attach = {.file = folder_name(&f.folder, file)};
	struct device *device = device_host_find(&f.host, name);

	if (!device)
		device = device_host_add(&f.host, name);
	return device_attach(device, &attach, &f.trouble);
}

START_TEST(the_same_file_again_is_attached_already)
{
	fixture_begin_job(&f);
	ck_assert_int_eq(attach_as("d", "leaf.qcow2"), 0);
	ck_assert_ptr_nonnull(f.device->stream);
	fixture_shell(&f, "ln -s leaf.qcow2 link.qcow2");
	ck_assert_int_eq(attach_as("d", "link.qcow2"), 0);
	ck_assert_int_eq(attach_as("e", "link.qcow2"), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_DEVICE_IN_USE);
	ck_assert_int_eq(attach_as("d", "base.raw"), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_DEVICE_IN_USE);
	fixture_end(&f);
}
END_TEST

START_TEST(a_device_with_a_job_stays)
{
	fixture_begin_job(&f);
	ck_assert_int_eq(device_detach(f.device, &f.trouble), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_DEVICE_IN_USE);
	stream_close(f.device, "j");
	ck_assert_int_eq(device_detach(f.device, &f.trouble), 0);
	ck_assert_int_eq(device_detach(f.device, &f.trouble), 0);
	ck_assert_int_eq(device_check_open(f.device, &f.trouble.err), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_DEVICE_NOT_FOUND);
	ck_assert_int_eq(attach_as("e", "leaf.qcow2"), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(ids_are_of_the_device_that_drew_them)
{
	uint64_t id;

	fixture_begin_job(&f);
	id = device_draw_id(f.device);
	ck_assert_ptr_eq(device_host_of_id(&f.host, id), f.device);
	ck_assert_ptr_null(device_host_of_id(&f.host, id + 1));
	ck_assert_uint_eq(device_draw_id(f.device), id + 1);
	fixture_end(&f);
}
END_TEST

static off_t leaf_bytes(void)
{
	struct stat status;

	ck_assert_int_eq(stat(folder_name(&f.folder, "leaf.qcow2"), &status), 0);
	return status.st_size;
}

/* As after a death: closed without giving anything back. */
static void forget_device(void)
{
	bug_if(!f.device->leaf);
	f.device->leaf = NULL;
	device_host_remove(&f.host, f.device);
	f.device = NULL;
}

START_TEST(leaks_stay_while_a_late_worker_holds_its_byte)
{
	struct reservation made;
	struct guest *guest;
	off_t before;

	fixture_begin_job(&f);
	made = fixture_reserve(&f, 0, 16);
	before = leaf_bytes();
	forget_device();
	fixture_attach(&f, "leaf.qcow2");
	ck_assert_uint_eq(f.device->late_count, 1);
	ck_assert_uint_eq(f.device->late_bytes[0], LOCK_BYTE);
	ck_assert(atomic_load(&f.device->needs_tidying));
	device_tidy(f.device);
	fixture_open_job(&f, NULL);
	stream_close(f.device, "j");
	ck_assert_int_eq(leaf_bytes(), before);
	fixture_copy(&f, &made, 'x');

	guest = guest_open(&f.host, "d");
	close(f.worker);
	f.worker = -1;
	device_tidy(f.device);
	ck_assert_uint_eq(f.device->late_count, 0);
	ck_assert_int_eq(leaf_bytes(), before); /* a guest would have to wait */
	guest_close(guest);
	ck_assert(atomic_load(&f.device->needs_tidying));
	device_tidy(f.device);
	ck_assert(!atomic_load(&f.device->needs_tidying));
	ck_assert_int_lt(leaf_bytes(), before);
	fixture_end(&f);
}
END_TEST

START_TEST(a_failed_image_is_told_once_and_opened_anew)
{
	struct err err = {.text = "flush: Input/output error", .number = 5};
	struct reservation made;
	const struct reservation_wish wish = {.job = "j", .offset = 0, .length = CLUSTER};

	fixture_begin_job(&f);
	ck_assert(!device_notice_failure(f.device, &err));
	f.device->leaf->failed = true;
	ck_assert(device_notice_failure(f.device, &err));
	ck_assert_str_eq(err.text, "Device 'd' failed: flush: Input/output error");
	ck_assert(!device_notice_failure(f.device, &err));
	ck_assert_int_eq(reservation_make(f.device, &wish, &f.memory, &made, &f.trouble), -1);
	ck_assert_int_eq(attach_as("d", "leaf.qcow2"), 0);
	ck_assert_int_eq(device_check_open(f.device, &f.trouble.err), 0);
	ck_assert_ptr_null(f.device->stream);
	fixture_end(&f);
}
END_TEST

START_TEST(a_raw_leaf_whose_format_was_not_named_is_read_only)
{
	fixture_begin(&f);
	fixture_attach(&f, "base.raw");
	ck_assert(f.device->description->state.read_only);
	ck_assert_uint_eq(f.device->description->state.cluster_size, 0);
	ck_assert_ptr_null(f.device->leaf);
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("device", the_same_file_again_is_attached_already, a_device_with_a_job_stays,
	ids_are_of_the_device_that_drew_them, leaks_stay_while_a_late_worker_holds_its_byte,
	a_failed_image_is_told_once_and_opened_anew,
	a_raw_leaf_whose_format_was_not_named_is_read_only)
