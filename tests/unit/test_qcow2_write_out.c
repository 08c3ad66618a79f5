/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent to the disk before a flush asks for it: new clusters, when there are many, and by whom. */
#include <errno.h>

#include "imaged/qcow2_write_out.h"
#include "tests/unit/write_fixture.h"

#define PIECE	  (UINT64_C(2) << 20)
#define ENOUGH	  ((UINT64_C(16) << 20) / CLUSTER) /* so many that it begins */
#define CALLS_MAX 256

static struct qcow2 *image;
static uint64_t sent[CALLS_MAX];
static unsigned calls;
static int fails_with; /* an errno */
static bool is_unknown;

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags)
{
	errno = is_unknown ? ENOSYS : fails_with;
	if (flags == 0)
		return is_unknown ? -1 : 0;
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
	errno = fails_with;
	return fails_with ? -1 : 0;
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

static bool is_wanted(void)
{
	bool is_so;

	pthread_mutex_lock(&image->lock);
	is_so = qcow2_write_out_wanted(image);
	pthread_mutex_unlock(&image->lock);
	return is_so;
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
	int r;

	if (!qcow2_write_out_begin(image))
		return false;
	while ((r = qcow2_write_out_next(image, &err)) > 0)
		;
	ck_assert_int_eq(r, 0);
	return true;
}

static void write_clusters(uint64_t first, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		write_one(first + i);
}

/* With half of the clusters twice: fewer are pending than would have it written back. */
START_TEST(many_new_clusters_are_sent_once)
{
	uint64_t hosts[ENOUGH];

	begin_large();
	for (uint64_t i = 0; i < ENOUGH; i++) {
		uint64_t cluster = 1 + i % (ENOUGH / 2) * 3;

		ck_assert(!send_all());
		if (i >= ENOUGH / 2)
			ck_assert_int_eq(qcow2_write_zeroes(image, cluster, 1, false, &err), 0);
		wakes = 0;
		hosts[i] = write_one(cluster);
		ck_assert_uint_le(wakes, 1); /* for a zone, if anything */
	}
	ck_assert(is_wanted());
	wakes = 0;
	hosts[0] = write_one(4 * ENOUGH);
	ck_assert_uint_gt(wakes, 0);
	ck_assert(send_all());
	for (uint64_t i = 0; i < ENOUGH; i++)
		ck_assert(was_sent(hosts[i]));
	for (unsigned i = 1; i < calls; i++)
		ck_assert_uint_gt(sent[i], sent[i - 1]); /* they lie one behind another */
	calls = 0;
	ck_assert(!send_all());
	ck_assert_int_eq(qcow2_write_out_next(image, &err), 0);
	ck_assert_uint_eq(calls, 0);
	end(image);
}
END_TEST

START_TEST(what_is_in_place_or_has_no_bytes_is_not_sent)
{
	begin_large();
	write_clusters(1, ENOUGH - 1);
	write_clusters(1, ENOUGH - 1);
	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 100, true, &err), 0);
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
	ck_assert_int_eq(qcow2_write_out_next(image, &err), 1);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_int_eq(qcow2_write_out_next(image, &err), 0);
	ck_assert_uint_eq(calls, 1);
	end(image);
}
END_TEST

static bool is_due(void)
{
	bool is_so;

	pthread_mutex_lock(&image->lock);
	is_so = qcow2_write_back_is_due(image);
	pthread_mutex_unlock(&image->lock);
	return is_so;
}

START_TEST(a_write_back_is_due_when_little_is_left_for_its_flush_or_much_is_pending)
{
	begin_large();
	write_clusters(1, PENDING_WANTS_WRITE_BACK);
	ck_assert(!is_due());
	ck_assert(send_all());
	ck_assert(is_due());
	write_clusters(1 + PENDING_WANTS_WRITE_BACK, ENOUGH);
	ck_assert(is_due());
	write_back(image, WRITE_BACK_LAZY);
	ck_assert(!is_due());
	/* What has no bytes is never sent. */
	ck_assert_int_eq(
		qcow2_write_zeroes(image, 20000, PENDING_NEEDS_WRITE_BACK - 1, false, &err), 0);
	ck_assert(!is_due());
	ck_assert_int_eq(qcow2_write_zeroes(image, 40000, 1, false, &err), 0);
	ck_assert(is_due());
	end(image);
}
END_TEST

START_TEST(a_write_that_fails_there_fails_the_image)
{
	struct write_step step;

	begin_large();
	write_clusters(1, ENOUGH);
	ck_assert(qcow2_write_out_begin(image));
	fails_with = EIO;
	ck_assert_int_eq(qcow2_write_out_next(image, &err), -1);
	ck_assert_int_eq(err.number, EIO);
	fails_with = 0;
	ck_assert_int_eq(qcow2_write_out_next(image, &err), 0);
	ck_assert_uint_eq(calls, 1);
	/* The kernel has told of it: to the next process a flush would be believed. */
	ck_assert_int_lt(qcow2_write_back(image, WRITE_BACK_DURABLE, &err), 0);
	ck_assert_int_lt(qcow2_write_begin(image, 5 * CLUSTER, CLUSTER, &step, &err), 0);
	end(image);
}
END_TEST

START_TEST(where_it_is_unknown_the_flush_does_it)
{
	is_unknown = true;
	begin_large();
	write_clusters(1, ENOUGH);
	ck_assert(!send_all());
	write_back(image, WRITE_BACK_DURABLE);
	end(image);
}
END_TEST

UNIT_MAIN("qcow2_write_out", many_new_clusters_are_sent_once,
	what_is_in_place_or_has_no_bytes_is_not_sent, what_a_flush_takes_along_is_not_sent,
	a_write_back_is_due_when_little_is_left_for_its_flush_or_much_is_pending,
	a_write_that_fails_there_fails_the_image, where_it_is_unknown_the_flush_does_it)
