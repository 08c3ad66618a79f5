/* SPDX-License-Identifier: Apache-2.0 */
/* The thread in the background of a leaf that guests write to: what it does without being waited for, and that it ends. */
#include <time.h>

#include "common/cleanup.h"
#include "imaged/guest.h"
#include "imaged/keeper.h"
#include "imaged/qcow2_write.h"
#include "tests/unit/device_fixture.h"

static struct device_fixture f;
static struct guest *guest;
static atomic_uint sent;      /* pieces of the leaf, to the disk */
static atomic_bool is_held;   /* the first of them */
static atomic_int sent_first; /* before the first flush after that; -1: there was none */

int sync_file_range(int fd UNUSED, off64_t offset UNUSED, off64_t length UNUSED, unsigned flags)
{
	if (flags == 0) /* asked whether it is known */
		return 0;
	atomic_fetch_add(&sent, 1);
	while (atomic_load(&is_held))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return 0;
}

int fdatasync(int fd)
{
	int none = -1;

	if (atomic_load(&sent) > 0)
		atomic_compare_exchange_strong(&sent_first, &none, (int)atomic_load(&sent));
	return fsync(fd);
}

/* Guests write to leaf.qcow2 over base.raw; the first write is made. */
static void begin_with(const char *command)
{
	fixture_begin(&f);
	fixture_shell(&f, "%s", command);
	f.host.log_folder = f.folder.path;
	fixture_attach(&f, "leaf.qcow2");
	guest = guest_open(&f.host, "d");
	ck_assert_ptr_nonnull(guest);
	ck_assert_int_eq(guest_pwrite(guest, "one", 0, 3), 0);
}

static void begin(void)
{
	begin_with("qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2");
}

static void end(void)
{
	guest_close(guest);
	fixture_end(&f);
}

static enum extent_kind kind_at(uint64_t offset)
{
	struct extent extent;
	struct err err;

	ck_assert_int_eq(qcow2_map(f.device->leaf, offset, 1, &extent, &err), 0);
	return extent.kind;
}

/* Looks until it is so; the test's time is what ends it. */
#define UNTIL(condition)                                                         \
	do {                                                                     \
		while (!(condition))                                             \
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); \
	} while (0)

START_TEST(what_it_is_told_to_keep_is_in_the_leaf_then)
{
	unsigned char byte;

	begin();
	ck_assert_int_eq(kind_at(5 * CLUSTER), EXTENT_ABSENT);
	keeper_keep(f.device->keeper, 5 * CLUSTER + 100, CLUSTER);
	UNTIL(kind_at(6 * CLUSTER) == EXTENT_DATA);
	ck_assert_int_eq(kind_at(5 * CLUSTER), EXTENT_DATA);
	ck_assert_int_eq(kind_at(7 * CLUSTER), EXTENT_ABSENT);
	ck_assert_int_eq(guest_pread(guest, &byte, 5 * CLUSTER, 1), 0);
	ck_assert_int_eq(byte, 'b');
	end();
}
END_TEST

static size_t forgotten(void)
{
	struct qcow2_writes *writes = f.device->leaf->writes;
	size_t count;

	pthread_mutex_lock(&f.device->leaf->lock);
	count = writes->forgotten.count + writes->announced;
	pthread_mutex_unlock(&f.device->leaf->lock);
	return count;
}

START_TEST(what_a_guest_discarded_is_counted_lower_without_being_asked_for)
{
	begin();
	ck_assert_int_eq(guest_sync(guest), 0);
	ck_assert_int_eq(guest_discard(guest, 0, CLUSTER), 0);
	ck_assert_int_eq(guest_sync(guest), 0);
	UNTIL(forgotten() == 0);
	end();
}
END_TEST

static unsigned waiting(void)
{
	return atomic_load(&f.device->gate.waiters);
}

START_TEST(it_waits_for_requests_under_way_before_it_counts_lower)
{
	unsigned side;

	begin();
	ck_assert_int_eq(guest_sync(guest), 0);
	side = gate_enter(&f.device->gate);
	ck_assert_int_eq(guest_discard(guest, 0, CLUSTER), 0);
	ck_assert_int_eq(guest_sync(guest), 0);
	UNTIL(waiting() == 1);
	gate_leave(&f.device->gate, side);
	UNTIL(waiting() == 0);
	end();
}
END_TEST

START_TEST(what_fails_in_the_background_is_told_to_the_strand)
{
	int ends[2];
	unsigned side;

	/* A cluster of an earlier life: it is counted lower, not used again. */
	begin_with("qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2 && "
		   "qemu-io -c 'write -q 0 64k' leaf.qcow2");
	ck_assert_int_eq(guest_sync(guest), 0);
	side = gate_enter(&f.device->gate);
	ck_assert_int_eq(guest_discard(guest, 0, CLUSTER), 0);
	ck_assert_int_eq(guest_sync(guest), 0);
	UNTIL(waiting() == 1);
	ck_assert(!atomic_load(&f.device->is_suspect));
	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_ge(dup2(ends[0], f.device->leaf->fd), 0); /* nothing can be counted there */
	gate_leave(&f.device->gate, side);
	UNTIL(atomic_load(&f.device->is_suspect));
	ck_assert_int_ne(guest_pwrite(guest, "two", 0, 3), 0);
	close(ends[0]);
	close(ends[1]);
	end();
}
END_TEST

/* New clusters, as many as are sent to the disk before a flush asks for them. */
static void write_much(void)
{
	size_t bytes = (size_t)1 << 20;
	CLEANUP_FREE char *much = must_calloc(1, bytes);

	atomic_store(&sent_first, -1);
	memset(much, 'm', bytes);
	for (uint64_t i = 1; i <= 64; i++)
		ck_assert_int_eq(guest_pwrite(guest, much, i * bytes, bytes), 0);
}

START_TEST(what_guests_wrote_is_sent_to_the_disk_before_a_flush_asks_for_it)
{
	begin_with("qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2 1G");
	ck_assert_uint_eq(atomic_load(&sent), 0);
	write_much();
	/* Pieces of 2 MiB of the 64; up to 16 MiB are left to a flush. */
	UNTIL(atomic_load(&sent) >= 24);
	end();
}
END_TEST

START_TEST(a_write_back_does_not_wait_for_what_is_being_sent)
{
	begin_with("qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2 1G");
	atomic_store(&is_held, true);
	write_much();
	UNTIL(atomic_load(&sent) == 1);
	ck_assert_int_eq(qcow2_write_zeroes(f.device->leaf, 2048, PENDING_NEEDS_WRITE_BACK, false,
				 &f.trouble.err),
		0);
	atomic_store(&is_held, false);
	UNTIL(atomic_load(&sent_first) >= 0);
	ck_assert_int_eq(atomic_load(&sent_first), 1);
	end();
}
END_TEST

START_TEST(what_comes_beside_a_full_list_is_not_kept)
{
	begin();
	/* Nothing is kept while the image's lock is held; one may be taken off the list. */
	pthread_mutex_lock(&f.device->leaf->lock);
	for (unsigned i = 0; i < 66; i++)
		keeper_keep(f.device->keeper, CLUSTER, 1);
	keeper_keep(f.device->keeper, 9 * CLUSTER, 1);
	pthread_mutex_unlock(&f.device->leaf->lock);
	UNTIL(kind_at(CLUSTER) == EXTENT_DATA);
	/* By the time this is done so is all that stood before it. */
	while (kind_at(2 * CLUSTER) != EXTENT_DATA)
		keeper_keep(f.device->keeper, 2 * CLUSTER, 1);
	ck_assert_int_eq(kind_at(9 * CLUSTER), EXTENT_ABSENT);
	end();
}
END_TEST

START_TEST(it_ends_with_work_on_its_list)
{
	struct keeper *keeper;
	struct err err;

	begin();
	for (unsigned round = 0; round < 50; round++) {
		keeper = keeper_new(f.device, &err);
		ck_assert_ptr_nonnull(keeper);
		keeper_wake(keeper);
		for (uint64_t i = 1; i < 16; i++)
			keeper_keep(keeper, i * CLUSTER, CLUSTER);
		keeper_free(keeper);
	}
	keeper_free(NULL);
	end();
}
END_TEST

DEVICE_MAIN("keeper", what_it_is_told_to_keep_is_in_the_leaf_then,
	what_a_guest_discarded_is_counted_lower_without_being_asked_for,
	it_waits_for_requests_under_way_before_it_counts_lower,
	what_fails_in_the_background_is_told_to_the_strand,
	what_guests_wrote_is_sent_to_the_disk_before_a_flush_asks_for_it,
	a_write_back_does_not_wait_for_what_is_being_sent,
	what_comes_beside_a_full_list_is_not_kept, it_ends_with_work_on_its_list)
