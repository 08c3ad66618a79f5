/* SPDX-License-Identifier: Apache-2.0 */
/* Space for clusters: who gets which, where the file ends, and what happens when there is too little of it. */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "tests/unit/write_fixture.h"

/* ---- a file system as tests want it */

static bool cannot_allocate;	   /* it has no fallocate() */
static off_t room_end = INT64_MAX; /* no bytes are written past it */
static uint64_t free_bytes;	   /* it says that so much is free; 0: what there is */
static off_t watched = -1;	   /* before bytes from here are read ... */
static void (*happens)(void);	   /* ... this happens, once */

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	if (cannot_allocate) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
	if (offset + (off_t)length > room_end) {
		errno = ENOSPC;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, bytes, length, offset);
}

ssize_t pread(int fd, void *bytes, size_t length, off_t offset)
{
	if (offset == watched) {
		watched = -1;
		happens();
	}
	return syscall(SYS_pread64, fd, bytes, length, offset);
}

int fstatvfs(int fd, struct statvfs *status)
{
	(void)fd;
	*status = (struct statvfs){
		.f_frsize = 512, .f_bavail = (free_bytes ? free_bytes : UINT64_C(1) << 40) / 512};
	return 0;
}

/* ---- fresh clusters */

START_TEST(fresh_clusters_are_for_guests_alone_until_a_flush)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	unsigned count;
	uint64_t fresh;

	/* The first zone makes the hint name what comes behind it: the next needs no flush. */
	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_uint_eq(image->zones->fresh.total, 0);
	ck_assert_int_eq(qcow2_zone_make(image, 600, ZONE_FRESH, &err), 0);
	fresh = image->zones->fresh.total;
	ck_assert_uint_ge(fresh, 600);
	ck_assert_uint_eq(count_of(image, image->zones->fresh.runs[0].first << BITS), 1);
	ck_assert_int_eq(qcow2_reserve(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert(!run_set_overlaps(&image->zones->fresh, run.offset >> BITS, 1));
	ck_assert_int_eq(qcow2_flush(image, &err), 0);
	ck_assert_uint_eq(image->zones->fresh.total, 0);
	end(image);
}
END_TEST

static void *make_fresh(void *image)
{
	struct cluster_run run;
	struct err why;
	unsigned count;

	return qcow2_zone_make(image, 600, ZONE_FRESH, &why) == 0 &&
			       qcow2_reserve_fresh(image, 600 * CLUSTER, &run, 1, &count, &why) == 0
		       ? image
		       : NULL;
}

START_TEST(fresh_clusters_are_made_while_another_holds_the_structure_lock)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	struct timespec until;
	pthread_t guest;
	unsigned count;
	void *result;

	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	pthread_mutex_lock(&image->head->lock);
	ck_assert_int_eq(pthread_create(&guest, NULL, make_fresh, image), 0);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	ck_assert_int_eq(pthread_timedjoin_np(guest, &result, &until), 0);
	ck_assert_ptr_eq(result, image);
	pthread_mutex_unlock(&image->head->lock);
	end(image);
}
END_TEST

/* The hint, and with it blocks of counts, go ahead of the zones by twice the disk, 8192 clusters: half of it is always left. */
START_TEST(the_end_is_named_ahead_again_before_it_is_reached)
{
	struct qcow2 *image = begin(3);
	const struct qcow2_zones *zones = image->zones;
	struct cluster_run run;
	uint64_t first;
	unsigned count;

	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_uint_eq(zones->named_until, zones->end + 8192);
	for (int i = 0; i < 6; i++) {
		uint64_t named = zones->named_until;

		ck_assert_int_eq(
			qcow2_zone_make(image, zones->free.total + 300, ZONE_FRESH, &err), 0);
		ck_assert_uint_eq(zones->named_until, named);
		ck_assert_uint_le(zones->end, named);
		ck_assert(!run_set_overlaps(&zones->free, zones->end - 300, 300));
		ck_assert_int_eq(qcow2_zone_look_ahead(image, &err), 0);
		ck_assert_uint_ge(zones->named_until, zones->end + 4096);
		pthread_mutex_lock(&image->lock);
		while (qcow2_zone_take(image, UINT64_MAX, ZONE_FRESH, &first) > 0)
			;
		pthread_mutex_unlock(&image->lock);
	}
	end(image);
}
END_TEST

START_TEST(what_is_fresh_serves_workers_and_tables_behind_a_flush)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	size_t zones;
	unsigned count;

	/* All of the first zone is taken. */
	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_int_eq(qcow2_reserve_fresh(
				 image, image->zones->free.total * CLUSTER, &run, 1, &count, &err),
		0);
	ck_assert_int_eq(qcow2_zone_make(image, 600, ZONE_FRESH, &err), 0);
	ck_assert_uint_eq(image->zones->free.total, 0);
	zones = image->zones->count;
	ck_assert_int_eq(qcow2_reserve(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_uint_eq(image->zones->count, zones);
	ck_assert_uint_eq(image->zones->fresh.total, 0);
	ck_assert_uint_eq(count_of(image, run.offset), 1);
	ck_assert(!run_set_overlaps(&image->zones->free, run.offset >> BITS, 1));
	end(image);
}
END_TEST

/* ---- too little room, and what fails */

/* Blocks of counts for later are not worth that a write fails now. */
START_TEST(a_little_room_is_enough_for_a_cluster)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	struct rlimit limit;
	struct stat status;
	unsigned count;

	ck_assert_int_eq(fstat(image->fd, &status), 0);
	limit = (struct rlimit){(rlim_t)status.st_size + 2 * CLUSTER, RLIM_INFINITY};
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_msg(
		qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err) == 0, "%s", err.text);
	ck_assert_int_eq(qcow2_zone_look_ahead(image, &err), 0);
	end(image);
}
END_TEST

/* What was begun may be on disk in part: nobody may take the place again. */
START_TEST(a_zone_that_cannot_be_counted_to_its_end_fails_the_image)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	unsigned count;

	image->refcounts->table[0] = UINT64_C(1) << 40; /* where nothing can be read */
	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), -1);
	ck_assert(image->failed);
	end(image);
}
END_TEST

START_TEST(where_only_writing_shows_that_there_is_no_room_blocks_ahead_are_given_up)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	struct stat status;
	unsigned count;

	ck_assert_int_eq(fstat(image->fd, &status), 0);
	cannot_allocate = true;
	room_end = status.st_size + 2 * (off_t)CLUSTER;
	ck_assert_msg(
		qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err) == 0, "%s", err.text);
	ck_assert(!image->failed);
	ck_assert_uint_eq(image->refcounts->table[1], 0);
	end(image);
}
END_TEST

/* Five blocks of 4 KiB: they may be had where 160 KiB are free, and not where it is less. */
START_TEST(blocks_ahead_are_not_made_out_of_the_last_room)
{
	for (uint64_t room = 64; room <= 256; room *= 2) {
		struct qcow2 *image = begin(3);
		struct cluster_run run;
		unsigned count;

		free_bytes = room << 10;
		ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
		ck_assert_uint_eq(image->refcounts->table[1] != 0, room == 256);
		ck_assert_uint_le(image->zones->end << BITS, (room << 10) / 8 + 12 * CLUSTER);
		end(image);
	}
}
END_TEST

START_TEST(a_fresh_zone_that_is_counted_in_part_fails_the_image)
{
	struct qcow2 *image = begin(3);
	struct cluster_run run;
	unsigned count;

	ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	image->refcounts->table[0] = UINT64_C(1) << 40;
	ck_assert_int_eq(qcow2_zone_make(image, 600, ZONE_FRESH, &err), -1);
	ck_assert(image->failed);
	ck_assert_ptr_null(strstr(err.text, "cannot count")); /* it says what could not be read */
	end(image);
}
END_TEST

/* ---- reclaiming */

static struct qcow2 *growing;

static void grow_past_the_table(void)
{
	struct err why;

	ck_assert_int_eq(qcow2_zone_make(growing, 20000, ZONE_DURABLE, &why), 0);
}

/* The table is found in use, then it is replaced and counted lower.  The leak beside it is found when all is looked at again. */
START_TEST(a_refcount_table_that_is_replaced_meanwhile_is_neither_a_leak_nor_damage)
{
	const struct tiny_image tiny = {.version = 3,
		.cluster_bits = 9,
		.disk_size = 1 << 20,
		.tables = 1,
		.data_clusters = 1};
	struct qcow2 *image = begin_tiny(&tiny);
	uint64_t table = image->header.refcount_table_offset, leak = tiny_data(&tiny, 0);

	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(qcow2_refcount_write(image, leak >> 9, 1, 1, &err), 0);
	pthread_mutex_unlock(&image->lock);
	growing = image;
	image->zones->left_behind[0] = (struct zone_window){table, leak + 512 - table};
	image->zones->left_behind_count = 1;
	happens = grow_past_the_table;
	watched = (off_t)(image->l1[0] & QCOW2_OFFSET_MASK);
	ck_assert_int_eq(qcow2_trim(image, true, &err), 0);
	ck_assert_int_eq(watched, -1);
	ck_assert_uint_ne(image->header.refcount_table_offset, table);
	ck_assert_uint_eq(image->zones->left_behind_count, 0);
	ck_assert_uint_eq(count_of(image, table), 0);
	ck_assert_uint_eq(count_of(image, leak), 0);
	end(image);
}
END_TEST

/* A guest that discards here and there, and flushes: what is free moves between two sets, with the lock held. */
START_TEST(free_space_is_kept_in_few_pieces)
{
	const uint64_t disk = UINT64_C(64) << 20, clusters = disk / CLUSTER, part = 3000;
	struct qcow2 *image = begin_tiny(&(struct tiny_image){
		.version = 3, .cluster_bits = BITS, .disk_size = disk, .tables = 8});
	uint64_t discarded = 0;

	for (uint64_t i = 0; i < clusters; i++)
		write_cluster(image, i);
	write_back(image, WRITE_BACK_DURABLE);
	for (uint64_t i = 0; i < clusters; i += 2) {
		ck_assert_int_eq(qcow2_write_zeroes(image, i, 1, false, &err), 0);
		if (++discarded % part == 0) {
			write_back(image, WRITE_BACK_DURABLE);
			ck_assert_int_eq(qcow2_forget(image, &err), 0);
			write_back(image, WRITE_BACK_DURABLE);
		}
	}
	ck_assert_uint_gt(discarded, 2 * part);
	ck_assert_uint_gt(image->zones->free.count, part / 2);
	ck_assert_uint_le(image->zones->free.count + image->zones->fresh.count, 4096 + 64);
	end(image);
}
END_TEST

UNIT_MAIN("qcow2_zone", fresh_clusters_are_for_guests_alone_until_a_flush,
	fresh_clusters_are_made_while_another_holds_the_structure_lock,
	the_end_is_named_ahead_again_before_it_is_reached,
	what_is_fresh_serves_workers_and_tables_behind_a_flush,
	a_little_room_is_enough_for_a_cluster,
	a_zone_that_cannot_be_counted_to_its_end_fails_the_image,
	where_only_writing_shows_that_there_is_no_room_blocks_ahead_are_given_up,
	blocks_ahead_are_not_made_out_of_the_last_room,
	a_fresh_zone_that_is_counted_in_part_fails_the_image,
	a_refcount_table_that_is_replaced_meanwhile_is_neither_a_leak_nor_damage,
	free_space_is_kept_in_few_pieces)
