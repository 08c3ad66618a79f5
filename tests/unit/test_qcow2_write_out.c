/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent to the disk before a flush asks for it: new clusters, when there are many, and by whom. */
#include <errno.h>

#include "tests/unit/write_fixture.h"

#define PIECE	  (UINT64_C(2) << 20)
#define ENOUGH	  ((UINT64_C(16) << 20) / CLUSTER) /* so many that it begins */
#define CALLS_MAX 256

static struct qcow2 *image;
static uint64_t sent[CALLS_MAX];
static unsigned calls;

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags)
{
	ck_assert_uint_lt(calls, CALLS_MAX);
	ck_assert_uint_eq((uint64_t)length, PIECE);
	ck_assert_uint_eq((uint64_t)offset % PIECE, 0);
	ck_assert_uint_eq(flags,
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
	/* Of a description of its own: else they would have one position. */
	ck_assert_int_eq(lseek(image->fd, 5, SEEK_SET), 5);
	ck_assert_int_eq(lseek(fd, 7, SEEK_SET), 7);
	ck_assert_int_eq(lseek(image->fd, 0, SEEK_CUR), 5);
	sent[calls++] = (uint64_t)offset;
	errno = EIO;
	return -1;
}

/* A guest's write of one cluster, whichever way it goes; where its bytes are. */
static uint64_t write_one(uint64_t cluster)
{
	struct write_step step;
	struct cluster_run run;
	unsigned count;

	ck_assert_int_eq(qcow2_write_begin(image, cluster * CLUSTER, CLUSTER, &step, &err), 0);
	if (step.is_in_place)
		return step.host;
	run = (struct cluster_run){step.reused, CLUSTER};
	if (!step.reused)
		ck_assert_int_eq(qcow2_reserve_fresh(image, CLUSTER, &run, 1, &count, &err), 0);
	ck_assert_int_eq(qcow2_write_end(image, &step, &run, 1, &err), 0);
	return run.offset;
}

/* What comes behind the file's end is named: no zone flushes any more. */
static void begin_large(void)
{
	calls = 0;
	image = begin_tiny(&(struct tiny_image){
		.version = 3, .cluster_bits = BITS, .disk_size = 256 << 20, .tables = 1});
	write_one(0);
	write_back(image, WRITE_BACK_DURABLE);
}

static bool was_sent(uint64_t host)
{
	for (unsigned i = 0; i < calls; i++) {
		if (sent[i] == host / PIECE * PIECE)
			return true;
	}
	return false;
}

/* Whether it was time. */
static bool send_all(void)
{
	if (!qcow2_write_out_begin(image))
		return false;
	while (qcow2_write_out_next(image))
		;
	return true;
}

static void write_clusters(uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		write_one(first + i);
}

START_TEST(many_new_clusters_are_sent_once)
{
	uint64_t hosts[ENOUGH];

	begin_large();
	for (uint64_t i = 0; i < ENOUGH; i++) {
		ck_assert(!send_all());
		wakes = 0;
		hosts[i] = write_one(1 + i * 3);
	}
	ck_assert_uint_gt(wakes, 0);
	ck_assert(send_all());
	for (uint64_t i = 0; i < ENOUGH; i++)
		ck_assert(was_sent(hosts[i]));
	for (unsigned i = 1; i < calls; i++)
		ck_assert_uint_gt(sent[i], sent[i - 1]); /* they lie one behind another */
	calls = 0;
	ck_assert(!send_all());
	ck_assert(!qcow2_write_out_next(image));
	ck_assert_uint_eq(calls, 0);
	/* That it failed is for the next flush to say. */
	write_back(image, WRITE_BACK_DURABLE);
	end(image);
}
END_TEST

START_TEST(what_is_in_place_or_has_no_bytes_is_not_sent)
{
	begin_large();
	write_clusters(1, ENOUGH - 1);
	write_clusters(1, ENOUGH - 1);
	ck_assert_int_eq(qcow2_write_zeroes(image, 0, 100, true, &err), 0);
	ck_assert_int_eq(qcow2_write_zeroes(image, ENOUGH, 100, false, &err), 0);
	ck_assert(!send_all());
	write_clusters(2 * ENOUGH, 1);
	ck_assert(send_all());
	end(image);
}
END_TEST

START_TEST(what_a_flush_takes_along_is_not_sent)
{
	begin_large();
	write_clusters(1, ENOUGH - 1);
	write_back(image, WRITE_BACK_DURABLE);
	write_clusters(ENOUGH, 1);
	ck_assert(!send_all());
	write_clusters(ENOUGH + 1, ENOUGH);
	ck_assert(qcow2_write_out_begin(image));
	ck_assert(qcow2_write_out_next(image));
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert(!qcow2_write_out_next(image));
	ck_assert_uint_eq(calls, 1);
	end(image);
}
END_TEST

START_TEST(a_failed_image_is_left_alone)
{
	begin_large();
	write_clusters(1, ENOUGH);
	ck_assert(qcow2_write_out_begin(image));
	pthread_mutex_lock(&image->lock);
	qcow2_fail(image, EIO, "test", &err);
	pthread_mutex_unlock(&image->lock);
	ck_assert(!qcow2_write_out_next(image));
	ck_assert_uint_eq(calls, 0);
	end(image);
}
END_TEST

UNIT_MAIN("qcow2_write_out", many_new_clusters_are_sent_once,
	what_is_in_place_or_has_no_bytes_is_not_sent, what_a_flush_takes_along_is_not_sent,
	a_failed_image_is_left_alone)
