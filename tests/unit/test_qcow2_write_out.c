/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent to the disk before a flush asks for it: new clusters, each piece of the file once, and what becomes of failures. */
#include <errno.h>

#include "tests/unit/write_fixture.h"

#define PIECE	  (UINT64_C(2) << 20)
#define DISK	  (UINT64_C(256) << 20)
#define CALLS_MAX 256

static uint64_t sent[CALLS_MAX];
static unsigned calls;
static int fails_with; /* an errno, once */

int sync_file_range(int fd UNUSED, off64_t offset, off64_t length, unsigned flags)
{
	ck_assert_uint_lt(calls, CALLS_MAX);
	ck_assert_uint_eq((uint64_t)length, PIECE);
	ck_assert_uint_eq((uint64_t)offset % PIECE, 0);
	ck_assert_uint_eq(flags,
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
	sent[calls++] = (uint64_t)offset;
	errno = fails_with;
	fails_with = 0;
	return errno ? -1 : 0;
}

static struct qcow2 *begin_large(void)
{
	calls = 0;
	fails_with = 0;
	return begin_tiny(&(struct tiny_image){
		.version = 3, .cluster_bits = BITS, .disk_size = DISK, .tables = 1});
}

static bool is_wanted(struct qcow2 *image)
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

static int send_all(struct qcow2 *image)
{
	int r;

	qcow2_write_out_begin(image);
	while ((r = qcow2_write_out_next(image, &err)) > 0)
		;
	return r;
}

START_TEST(where_new_clusters_are_is_sent_once)
{
	struct qcow2 *image = begin_large();
	uint64_t hosts[3000];

	for (unsigned i = 0; i < 3000; i++)
		hosts[i] = write_cluster(image, i * 7);
	ck_assert_int_eq(send_all(image), 0);
	for (unsigned i = 0; i < 3000; i++)
		ck_assert(was_sent(hosts[i]));
	for (unsigned i = 1; i < calls; i++)
		ck_assert_uint_gt(sent[i], sent[i - 1]); /* they lie one behind another */
	calls = 0;
	ck_assert_int_eq(send_all(image), 0);
	ck_assert_uint_eq(calls, 0);
	end(image);
}
END_TEST

START_TEST(only_new_clusters_are_sent)
{
	struct qcow2 *image = begin_large();
	uint64_t host = write_cluster(image, 1);

	ck_assert_int_eq(send_all(image), 0);
	ck_assert_uint_eq(calls, 1);
	ck_assert_uint_eq(write_cluster(image, 1), host);
	ck_assert_int_eq(qcow2_write_zeroes(image, 1, 1, true, &err), 0);
	ck_assert_int_eq(qcow2_write_zeroes(image, 2, 5, false, &err), 0);
	ck_assert_int_eq(send_all(image), 0);
	ck_assert_uint_eq(calls, 1);
	end(image);
}
END_TEST

START_TEST(it_is_asked_for_when_there_is_enough)
{
	struct qcow2 *image = begin_large();
	uint64_t enough = (UINT64_C(64) << 20) / CLUSTER;

	for (uint64_t i = 0; i < enough; i++) {
		ck_assert(!is_wanted(image));
		wakes = 0;
		write_cluster(image, i);
	}
	ck_assert(is_wanted(image));
	ck_assert_uint_gt(wakes, 0);
	qcow2_write_out_begin(image);
	ck_assert(!is_wanted(image));
	end(image);
}
END_TEST

START_TEST(what_was_not_sent_is_left_to_a_flush)
{
	struct qcow2 *image = begin_large();

	write_cluster(image, 1);
	atomic_store(&image->flushing, 1);
	ck_assert_int_eq(send_all(image), 0);
	ck_assert_uint_eq(calls, 0);
	atomic_store(&image->flushing, 0);
	ck_assert_int_eq(send_all(image), 0);
	ck_assert_uint_eq(calls, 0);
	write_back(image, WRITE_BACK_DURABLE);
	ck_assert_uint_eq(atomic_load(&image->flushing), 0);
	end(image);
}
END_TEST

START_TEST(a_write_that_fails_there_fails_the_image)
{
	struct qcow2 *image = begin_large();
	struct write_step step;

	write_cluster(image, 1);
	fails_with = EIO;
	ck_assert_int_eq(send_all(image), -1);
	ck_assert_int_eq(err.number, EIO);
	/* The kernel has told of it: a flush would be believed. */
	ck_assert_int_lt(qcow2_write_back(image, WRITE_BACK_DURABLE, &err), 0);
	ck_assert_int_lt(qcow2_write_begin(image, 5 * CLUSTER, CLUSTER, &step, &err), 0);
	end(image);
}
END_TEST

START_TEST(where_it_cannot_be_done_the_flush_does_it)
{
	static const int cannot[] = {ENOSYS, EINVAL, ESPIPE};
	struct qcow2 *image = begin_large();

	for (unsigned i = 0; i < sizeof cannot / sizeof cannot[0]; i++) {
		write_cluster(image, i);
		fails_with = cannot[i];
		ck_assert_int_eq(send_all(image), 0);
		ck_assert_uint_eq(calls, i + 1);
	}
	write_back(image, WRITE_BACK_DURABLE);
	end(image);
}
END_TEST

UNIT_MAIN("qcow2_write_out", where_new_clusters_are_is_sent_once, only_new_clusters_are_sent,
	it_is_asked_for_when_there_is_enough, what_was_not_sent_is_left_to_a_flush,
	a_write_that_fails_there_fails_the_image, where_it_cannot_be_done_the_flush_does_it)
