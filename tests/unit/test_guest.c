/* SPDX-License-Identifier: Apache-2.0 */
/* Guests of a device on real images: who is let in, what is read, and what becomes of them when the device fails. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "imaged/guest.h"
#include "imaged/guest_write.h"
#include "schemas/errors.gen.h"
#include "tests/unit/device_fixture.h"

static struct device_fixture f;

/* The disk fails once, and the kernel tells it to one flush; in words that promise too much: that there is no room means elsewhere that
 * one may ask again. */
static atomic_bool disk_fails;

/* The flush that is told takes its time: until a second one has been asked for, and then until that is answered, for which there is
 * nothing left to do; half a second, if it is not answered before this one. */
static atomic_bool waits_for_second, is_told, is_second_answered;

static void wait_for_second(void)
{
	struct raw_flushes *flushes = &f.device->raw_flushes;
	uint64_t asked;

	do {
		sched_yield();
		pthread_mutex_lock(&flushes->lock);
		asked = flushes->asked;
		pthread_mutex_unlock(&flushes->lock);
	} while (asked < 2);
	for (int i = 0; i < 500 && !atomic_load(&is_second_answered); i++)
		usleep(1000);
}

int fdatasync(int fd)
{
	if (!atomic_exchange(&disk_fails, false))
		return atomic_load(&is_told) ? 0 : fsync(fd);
	atomic_store(&is_told, true);
	if (atomic_load(&waits_for_second))
		wait_for_second();
	errno = ENOSPC;
	return -1;
}

/* "d" is `name` once more, which need not be qcow2. */
static int attach_raw(const char *name)
{
	const struct device_attach attach = {.file = folder_name(&f.folder, name), .format = "raw"};
	struct device *device = device_host_find(&f.host, "d");

	if (!device)
		device = f.device = device_host_add(&f.host, "d");
	return device_attach(device, &attach, &f.trouble);
}

static void check_bytes(const unsigned char *bytes, size_t length, unsigned char wanted)
{
	for (size_t i = 0; i < length; i++)
		ck_assert_uint_eq(bytes[i], wanted);
}

static void check_read(struct guest *guest, uint64_t offset, size_t length, unsigned char wanted)
{
	unsigned char *bytes = must_calloc(1, length);

	memset(bytes, 0xee, length);
	ck_assert_int_eq(guest_pread(guest, bytes, offset, length), 0);
	check_bytes(bytes, length, wanted);
	free(bytes);
}

START_TEST(only_the_exact_name_of_an_attached_device_lets_in)
{
	struct guest *guest;

	fixture_begin_job(&f);
	ck_assert_ptr_null(guest_open(&f.host, ""));
	ck_assert_ptr_null(guest_open(&f.host, "D"));
	ck_assert_ptr_null(guest_open(&f.host, "dd"));
	ck_assert(device_host_add(&f.host, "e") != NULL); /* not attached */
	ck_assert_ptr_null(guest_open(&f.host, "e"));
	guest = guest_open(&f.host, "d");
	ck_assert_uint_eq(guest_size(guest), DISK_BYTES);
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

START_TEST(a_guest_keeps_its_device)
{
	struct guest *guest;

	fixture_begin_job(&f);
	stream_close(f.device, "j");
	guest = guest_open(&f.host, "d");
	ck_assert_int_eq(device_detach(f.device, &f.trouble), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_DEVICE_IN_USE);
	ck_assert_str_eq(f.trouble.err.text, "Device 'd' is in use");
	ck_assert(!device_host_remove(&f.host, f.device));
	check_read(guest, 0, 5000, 'b');
	guest_close(guest);
	ck_assert_int_eq(device_detach(f.device, &f.trouble), 0);
	ck_assert_ptr_null(guest_open(&f.host, "d"));
	fixture_end(&f);
}
END_TEST

START_TEST(each_layer_is_read_as_far_as_it_reaches)
{
	unsigned char bytes[3 * CLUSTER];
	struct guest *guest;
	struct chain *chain;

	fixture_begin(&f);
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2 130k");
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 leaf.qcow2 1M");
	fixture_shell(&f, "qemu-io -f qcow2 -c 'write -P 108 0 64k' leaf.qcow2");
	fixture_shell(&f, "qemu-io -f qcow2 -c 'write -P 109 0 4k' mid.qcow2");
	fixture_attach(&f, "leaf.qcow2");
	guest = guest_open(&f.host, "d");
	check_read(guest, 0, CLUSTER, 108);
	check_read(guest, CLUSTER, 130 * 1024 - CLUSTER, 'b');
	check_read(guest, 130 * 1024, DISK_BYTES - 130 * 1024, 0);

	chain = f.device->live.current->chain;
	ck_assert_int_eq(guest_read_chain(f.device, chain, 1, bytes, 0, sizeof bytes), 0);
	check_bytes(bytes, 4096, 109);
	check_bytes(bytes + 4096, 130 * 1024 - 4096, 'b');
	check_bytes(bytes + 130 * 1024, sizeof bytes - 130 * 1024, 0);
	ck_assert_int_eq(guest_read_chain(f.device, chain, 2, bytes, DISK_BYTES - 100, 200), 0);
	check_bytes(bytes, 100, 'b');
	check_bytes(bytes + 100, 100, 0);
	ck_assert_int_eq(guest_read_chain(f.device, chain, 3, bytes, 0, 100), 0);
	check_bytes(bytes, 100, 0);
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

struct told {
	uint64_t end; /* of what was told so far */
	unsigned count;
	uint64_t lengths[4];
	bool are_holes[4], are_zeroes[4];
};

static bool note(void *owner, uint64_t offset, uint64_t length, bool is_hole, bool is_zero)
{
	struct told *told = owner;

	ck_assert_uint_eq(offset, told->end);
	ck_assert_uint_lt(told->count, 4);
	told->end += length;
	told->lengths[told->count] = length;
	told->are_holes[told->count] = is_hole;
	told->are_zeroes[told->count++] = is_zero;
	return true;
}

START_TEST(the_map_tells_data_of_any_layer_and_holes_of_none)
{
	const uint64_t end = 2 * DISK_BYTES;
	struct told told = {.end = 100};
	struct guest *guest;

	fixture_begin(&f);
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2 2M");
	fixture_shell(&f, "qemu-io -f qcow2 -c 'write -P 1 0 64k' -c 'write 64k 64k' leaf.qcow2");
	fixture_shell(
		&f, "qemu-io -f qcow2 -c 'write -z 64k 64k' leaf.qcow2"); /* keeps its cluster */
	fixture_attach(&f, "leaf.qcow2");
	guest = guest_open(&f.host, "d");
	while (told.end < end) /* one request ends early where it took long */
		ck_assert_int_eq(guest_map(guest, told.end, end - told.end, note, &told), 0);
	ck_assert_uint_eq(told.count, 4);
	ck_assert_uint_eq(told.lengths[0], CLUSTER - 100);
	ck_assert_uint_eq(told.lengths[1], CLUSTER);
	ck_assert_uint_eq(told.lengths[2], DISK_BYTES - 2 * CLUSTER);
	ck_assert_uint_eq(told.lengths[3], DISK_BYTES);
	ck_assert(!told.are_zeroes[0] && !told.are_holes[0]);
	ck_assert(told.are_zeroes[1] && !told.are_holes[1]);
	ck_assert(!told.are_zeroes[2] && !told.are_holes[2]);
	ck_assert(told.are_zeroes[3] && told.are_holes[3]);
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

START_TEST(nothing_is_written_to_what_is_read_only)
{
	struct guest *guest;

	fixture_begin(&f);
	fixture_attach(&f, "base.raw"); /* its format is not named */
	guest = guest_open(&f.host, "d");
	ck_assert(!guest_is_writable(guest));
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), EROFS);
	ck_assert_int_eq(guest_put_zeroes(guest, 0, 1, true), EROFS);
	ck_assert_int_eq(guest_discard(guest, 0, 1), EROFS);
	ck_assert_int_eq(guest_sync(guest), 0);
	check_read(guest, 0, DISK_BYTES, 'b');
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

START_TEST(a_raw_leaf_is_written_where_the_guest_says)
{
	struct guest *guest;

	fixture_begin(&f);
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	guest = guest_open(&f.host, "d");
	ck_assert(guest_is_writable(guest));
	ck_assert_int_eq(guest_pwrite(guest, "xyz", 1001, 3), 0);
	ck_assert_int_eq(guest_put_zeroes(guest, 5000, 10001, false), 0);
	ck_assert_int_eq(guest_put_zeroes(guest, 100000, 70000, true), 0);
	ck_assert_int_eq(guest_sync(guest), 0);
	check_read(guest, 0, 1001, 'b');
	check_read(guest, 1002, 1, 'y');
	check_read(guest, 1004, 5000 - 1004, 'b');
	check_read(guest, 5000, 10001, 0);
	check_read(guest, 15001, 100000 - 15001, 'b');
	check_read(guest, 100000, 70000, 0);
	check_read(guest, 170000, 100, 'b');
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

static void *flush(void *guest)
{
	ck_assert_int_eq(guest_sync(guest), EIO);
	return NULL;
}

START_TEST(of_two_flushes_at_a_time_both_are_told_that_the_disk_failed)
{
	pthread_t thread;
	struct guest *guest;

	fixture_begin(&f);
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	guest = guest_open(&f.host, "d");
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), 0);
	atomic_store(&waits_for_second, true);
	atomic_store(&disk_fails, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, flush, guest), 0);
	while (!atomic_load(&is_told))
		sched_yield();
	flush(guest);
	atomic_store(&is_second_answered, true);
	pthread_join(thread, NULL);
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

/* There is nobody to tell when it is closed: who detaches is told, and the device stays until that is known. */
static void expect_not_detached(const char *name)
{
	struct err err = {0};
	struct guest *guest;

	f.trouble = (struct trouble){0};
	guest = guest_open(&f.host, "d");
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), 0);
	guest_close(guest);
	atomic_store(&disk_fails, true);
	ck_assert_int_eq(device_detach(f.device, &f.trouble), -1);
	ck_assert_int_eq(f.trouble.err.number, EIO);
	ck_assert(!atomic_load(&disk_fails));
	ck_assert_msg(device_notice_failure(f.device, &err), "%s", name);
	ck_assert_int_eq(device_detach(f.device, &f.trouble), 0);
}

START_TEST(a_device_whose_writes_cannot_be_made_durable_is_not_detached)
{
	fixture_begin(&f);
	f.host.log_folder = f.folder.path;
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	expect_not_detached("raw");
	ck_assert(device_host_remove(&f.host, f.device));
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2");
	fixture_attach(&f, "leaf.qcow2");
	expect_not_detached("qcow2");
	fixture_end(&f);
}
END_TEST

static void *attach_anew(void *name)
{
	ck_assert_int_eq(attach_raw(name), 0);
	return NULL;
}

/* It may have been answered for what is lost, and was not told: also who asked for nothing while the device failed. */
static void expect_told(struct guest *guest)
{
	for (int i = 0; i < 2; i++) { /* once would be too little */
		ck_assert_int_eq(guest_sync(guest), EIO);
		ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), EIO);
		ck_assert_int_eq(guest_put_zeroes(guest, 0, 1, true), EIO);
		ck_assert_int_eq(guest_discard(guest, 0, 1), EIO);
	}
	check_read(guest, 0, 1, 'b');
}

START_TEST(who_was_connected_reads_on_after_a_failure_if_the_size_is_the_same)
{
	struct err err = {0};
	struct guest *guest, *silent, *late;
	pthread_t thread;
	unsigned side;
	char byte;

	fixture_begin(&f);
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	guest = guest_open(&f.host, "d");
	silent = guest_open(&f.host, "d");
	atomic_store(&f.device->has_raw_failed, true);
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), EIO);
	ck_assert_int_eq(guest_sync(guest), EIO);
	ck_assert(atomic_load(&f.device->is_suspect));
	check_read(guest, 0, 100, 'b');
	ck_assert(device_notice_failure(f.device, &err));
	late = guest_open(&f.host, "d"); /* it had nothing to lose */
	ck_assert_int_eq(guest_pwrite(late, "x", 0, 1), EIO);

	side = gate_enter(&f.device->gate); /* a request that takes long */
	ck_assert_int_eq(
		pthread_create(&thread, NULL, attach_anew, (void *)(uintptr_t) "base.raw"), 0);
	while (atomic_load(&f.device->gate.closings) == 0)
		sched_yield();
	ck_assert_uint_eq(f.device->phase, DEVICE_FAILED); /* it is waited for */
	gate_leave(&f.device->gate, side);
	pthread_join(thread, NULL);
	expect_told(guest);
	expect_told(silent);
	guest_close(silent);
	guest_close(guest);
	guest = late;
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), 0);
	ck_assert_int_eq(guest_sync(guest), 0);

	atomic_store(&f.device->has_raw_failed, true);
	ck_assert(device_notice_failure(f.device, &err));
	fixture_shell(&f, "truncate -s 2M base.raw");
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	ck_assert_int_eq(guest_pread(guest, &byte, 0, 1), EIO);
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), EIO);
	guest_close(guest);
	guest = guest_open(&f.host, "d");
	check_read(guest, 0, 1, 'x');

	atomic_store(&f.device->has_raw_failed, true);
	ck_assert(device_notice_failure(f.device, &err));
	ck_assert_int_eq(attach_raw("nowhere.raw"), -1);
	device_stop_holding(f.device);
	ck_assert_uint_gt(atomic_load(&f.device->held_until_ms), 0); /* it may be attached yet */
	atomic_store(&f.device->held_until_ms, 1);
	device_stop_holding(f.device);
	ck_assert_int_eq(guest_pread(guest, &byte, 0, 1), EIO);
	ck_assert_ptr_null(guest_open(&f.host, "d"));
	ck_assert(!device_host_remove(&f.host, f.device));
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

START_TEST(a_guest_never_gets_into_another_file_of_the_same_name_and_size)
{
	struct err err = {0};
	struct guest *guest;
	char byte;

	fixture_begin(&f);
	fixture_make_base(&f, "other.raw", 'o');
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	guest = guest_open(&f.host, "d");
	atomic_store(&f.device->has_raw_failed, true);
	ck_assert(device_notice_failure(f.device, &err));
	ck_assert_int_eq(attach_raw("other.raw"), 0);
	ck_assert_int_eq(guest_pread(guest, &byte, 0, 1), EIO);
	ck_assert_int_eq(guest_pwrite(guest, "x", 0, 1), EIO);
	guest_close(guest);
	guest = guest_open(&f.host, "d");
	check_read(guest, 0, 1, 'o');
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

static void *read_a_byte(void *guest)
{
	check_read(guest, 0, 1, 'b');
	return NULL;
}

START_TEST(what_is_asked_of_a_failed_device_waits_from_its_detaching_to_its_attaching)
{
	struct err err = {0};
	struct guest *guest;
	pthread_t thread;

	fixture_begin(&f);
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	guest = guest_open(&f.host, "d");
	atomic_store(&f.device->has_raw_failed, true);
	ck_assert(device_notice_failure(f.device, &err));
	ck_assert_int_eq(device_detach(f.device, &f.trouble), 0);
	ck_assert_uint_eq(f.device->phase, DEVICE_CLOSED);
	ck_assert_int_eq(device_detach(f.device, &f.trouble), 0);
	ck_assert(!device_host_remove(&f.host, f.device));
	ck_assert_int_eq(pthread_create(&thread, NULL, read_a_byte, guest), 0);
	sched_yield();
	ck_assert_int_eq(attach_raw("base.raw"), 0);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(atomic_load(&f.device->held_until_ms), 0);
	expect_told(guest);
	guest_close(guest);
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("guest", only_the_exact_name_of_an_attached_device_lets_in, a_guest_keeps_its_device,
	each_layer_is_read_as_far_as_it_reaches, the_map_tells_data_of_any_layer_and_holes_of_none,
	nothing_is_written_to_what_is_read_only, a_raw_leaf_is_written_where_the_guest_says,
	of_two_flushes_at_a_time_both_are_told_that_the_disk_failed,
	a_device_whose_writes_cannot_be_made_durable_is_not_detached,
	who_was_connected_reads_on_after_a_failure_if_the_size_is_the_same,
	a_guest_never_gets_into_another_file_of_the_same_name_and_size,
	what_is_asked_of_a_failed_device_waits_from_its_detaching_to_its_attaching)
