/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of the write side, on images made by hand; whole images are judged by qemu-img in tests/interop/engine_write.py. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"
#include "schemas/errors.gen.h"
#include "tests/unit/temporary.h"
#include "tests/unit/tiny_image.h"
#include "tests/unit/unit.h"

#define BITS	12
#define CLUSTER (UINT64_C(1) << BITS)

static struct err err;

/* An empty disk of 16 MiB; the file is gone when it is closed. */
static struct qcow2 *open_empty(const struct tiny_image *tiny)
{
	char path[64];
	struct qcow2 *image;
	int fd;

	snprintf(path, sizeof(path), "%s/sluice-update-%d.qcow2", temporary_place(), (int)getpid());
	fd = tiny_image_make(path, tiny);
	unlink(path);
	for (uint64_t i = 0; i < TINY_L2 + tiny->tables; i++) {
		uint16_t one = htobe16(1);

		ck_assert_int_eq(pwrite_full(fd, &one, 2, tiny_cluster(tiny, 2) + i * 2), 0);
	}
	tiny_image_store(fd, tiny_cluster(tiny, 1), tiny_cluster(tiny, 2));
	ck_assert_msg(qcow2_open(fd, "tiny", &image, &err) == 0, "%s", err.text);
	ck_assert_msg(qcow2_make_writable(image, &err) == 0, "%s", err.text);
	return image;
}

static struct qcow2 *empty(void)
{
	return open_empty(
		&(struct tiny_image){.version = 3, .cluster_bits = BITS, .disk_size = 16 << 20});
}

/* One reservation of that many clusters in one run. */
static uint64_t reserve(struct qcow2 *image, uint64_t clusters)
{
	struct cluster_run run;
	unsigned count;

	ck_assert_msg(qcow2_reserve(image, clusters * CLUSTER, &run, 1, &count, &err) == 0, "%s",
		err.text);
	ck_assert_uint_eq(count, 1);
	ck_assert_uint_eq(run.length, clusters * CLUSTER);
	return run.offset;
}

static uint64_t count_on_disk(struct qcow2 *image, uint64_t offset)
{
	uint64_t block, cluster = offset >> BITS;
	uint16_t count;

	ck_assert_int_eq(pread_full(image->fd, &block, 8, image->header.refcount_table_offset), 0);
	ck_assert_int_eq(pread_full(image->fd, &count, 2, be64toh(block) + cluster * 2), 0);
	return be16toh(count);
}

START_TEST(what_is_reserved_is_counted_in_the_file_and_has_space)
{
	struct qcow2 *image = empty();
	uint64_t offset = reserve(image, 16);
	struct stat status;

	for (uint64_t i = 0; i < 16; i++)
		ck_assert_uint_eq(count_on_disk(image, offset + i * CLUSTER), 1);
	ck_assert_int_eq(fstat(image->fd, &status), 0);
	ck_assert_uint_ge((uint64_t)status.st_size, offset + 16 * CLUSTER);
	ck_assert_uint_ge((uint64_t)status.st_blocks * 512, 16 * CLUSTER);
	qcow2_free(image);
}
END_TEST

START_TEST(nothing_is_reserved_twice_until_it_is_released)
{
	struct qcow2 *image = empty();
	uint64_t first = reserve(image, 3), second = reserve(image, 3);

	ck_assert(second >= first + 3 * CLUSTER || first >= second + 3 * CLUSTER);
	qcow2_release(image, first, 3 * CLUSTER);
	ck_assert_uint_eq(reserve(image, 3), first);
	qcow2_free(image);
}
END_TEST

START_TEST(only_what_the_leaf_lacks_is_mapped)
{
	struct qcow2 *image = empty();
	uint64_t zero = 2 * CLUSTER, one = reserve(image, 1), four = reserve(image, 4), mapped;
	unsigned char bitmap[1];
	struct extent extent;

	ck_assert_int_eq(qcow2_prepare_tables(image, 0, 4 * CLUSTER, &err), 0);
	ck_assert_int_eq(
		qcow2_map_clusters(image, 0, CLUSTER, one, NULL, NULL, &mapped, NULL, &err), 0);
	ck_assert_uint_eq(mapped, CLUSTER);
	ck_assert_int_eq(qcow2_map_zeroes(image, zero, CLUSTER, NULL, NULL, &mapped, &err), 0);
	ck_assert_uint_eq(mapped, CLUSTER);
	ck_assert_int_eq(
		qcow2_map_clusters(image, 0, 4 * CLUSTER, four, NULL, NULL, &mapped, bitmap, &err),
		0);
	ck_assert_uint_eq(mapped, 2 * CLUSTER);
	ck_assert_uint_eq(bitmap[0], 0x0a);
	ck_assert_int_eq(qcow2_map(image, 0, CLUSTER, &extent, &err), 0);
	ck_assert_uint_eq(extent.host_offset, one);
	ck_assert_int_eq(qcow2_map(image, CLUSTER, CLUSTER, &extent, &err), 0);
	ck_assert_uint_eq(extent.host_offset, four + CLUSTER);
	ck_assert_int_eq(qcow2_map(image, zero, CLUSTER, &extent, &err), 0);
	ck_assert_int_eq(extent.kind, EXTENT_ZERO);
	qcow2_free(image);
}
END_TEST

static bool skip_second(void *owner, uint64_t guest_offset)
{
	++*(int *)owner;
	return guest_offset == CLUSTER;
}

START_TEST(what_was_touched_meanwhile_is_left_out)
{
	struct qcow2 *image = empty();
	uint64_t host = reserve(image, 3), mapped;
	unsigned char bitmap[1];
	int asked = 0;

	ck_assert_int_eq(qcow2_prepare_tables(image, 0, 3 * CLUSTER, &err), 0);
	ck_assert_int_eq(qcow2_map_clusters(image, 0, 3 * CLUSTER, host, skip_second, &asked,
				 &mapped, bitmap, &err),
		0);
	ck_assert_int_eq(asked, 3);
	ck_assert_uint_eq(mapped, 2 * CLUSTER);
	ck_assert_uint_eq(bitmap[0], 0x05);
	qcow2_free(image);
}
END_TEST

START_TEST(nothing_is_mapped_where_no_table_was_prepared)
{
	struct qcow2 *image = empty();
	uint64_t mapped;

	ck_assert_int_eq(qcow2_map_clusters(image, 0, CLUSTER, reserve(image, 1), NULL, NULL,
				 &mapped, NULL, &err),
		-1);
	ck_assert_ptr_nonnull(strstr(err.text, "prepared"));
	ck_assert(!image->failed);
	qcow2_free(image);
}
END_TEST

START_TEST(version_2_has_no_zero_clusters)
{
	struct qcow2 *image = open_empty(
		&(struct tiny_image){.version = 2, .cluster_bits = BITS, .disk_size = 1 << 20});
	uint64_t mapped;

	ck_assert_int_eq(qcow2_prepare_tables(image, 0, CLUSTER, &err), 0);
	ck_assert_int_eq(qcow2_map_zeroes(image, 0, CLUSTER, NULL, NULL, &mapped, &err), -1);
	ck_assert_uint_eq(err.kind, ERROR_CLASS_NOT_SUPPORTED);
	qcow2_free(image);
}
END_TEST

START_TEST(table_that_is_counted_as_free_is_not_written)
{
	const struct tiny_image tiny = {
		.version = 3, .cluster_bits = BITS, .disk_size = 16 << 20, .tables = 1};
	struct qcow2 *image = open_empty(&tiny);

	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(qcow2_refcount_write(image, TINY_L2, 1, 0, &err), 0);
	pthread_mutex_unlock(&image->lock);
	ck_assert_int_eq(qcow2_prepare_tables(image, 0, CLUSTER, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "counted as free"));
	qcow2_free(image);
}
END_TEST

START_TEST(table_that_claims_to_be_ours_alone_is_copied_if_its_count_says_otherwise)
{
	const struct tiny_image tiny = {
		.version = 3, .cluster_bits = BITS, .disk_size = 16 << 20, .tables = 1};
	struct qcow2 *image = open_empty(&tiny);
	uint64_t count, old = image->l1[0] & QCOW2_OFFSET_MASK;

	image->l1[0] |= QCOW2_COPIED;
	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(qcow2_refcount_write(image, TINY_L2, 1, 2, &err), 0);
	pthread_mutex_unlock(&image->lock);
	ck_assert_msg(qcow2_prepare_tables(image, 0, CLUSTER, &err) == 0, "%s", err.text);
	ck_assert_uint_ne(image->l1[0] & QCOW2_OFFSET_MASK, old);
	pthread_mutex_lock(&image->lock);
	ck_assert_int_eq(qcow2_refcount_read(image, TINY_L2, &count, &err), 0);
	pthread_mutex_unlock(&image->lock);
	ck_assert_uint_eq(count, 1);
	qcow2_free(image);
}
END_TEST

START_TEST(flush_that_failed_is_never_tried_again)
{
	struct qcow2 *image = empty();
	struct cluster_run run;
	int file = dup(image->fd), ends[2];
	unsigned count;

	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_ge(dup2(ends[1], image->fd), 0); /* which cannot be flushed */
	ck_assert_int_eq(qcow2_flush(image, &err), -1);
	ck_assert_int_ge(dup2(file, image->fd), 0);
	ck_assert_int_eq(qcow2_flush(image, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "opened anew"));
	ck_assert_int_eq(qcow2_reserve(image, CLUSTER, &run, 1, &count, &err), -1);
	ck_assert_int_eq(qcow2_prepare_tables(image, 0, CLUSTER, &err), -1);
	close(file);
	close(ends[0]);
	close(ends[1]);
	qcow2_free(image);
}
END_TEST

START_TEST(what_was_not_used_is_given_back)
{
	struct qcow2 *image = empty();
	uint64_t host, mapped;
	struct stat before, after;

	ck_assert_int_eq(fstat(image->fd, &before), 0);
	host = reserve(image, 2);
	ck_assert_int_eq(qcow2_prepare_tables(image, 0, CLUSTER, &err), 0);
	ck_assert_int_eq(
		qcow2_map_clusters(image, 0, CLUSTER, host, NULL, NULL, &mapped, NULL, &err), 0);
	qcow2_release(image, host + CLUSTER, CLUSTER);
	ck_assert_int_eq(qcow2_trim(image, false, &err), 0);
	ck_assert_int_eq(fstat(image->fd, &after), 0);
	/* the cluster, its table, what lies between them, and blocks of counts for four times as many clusters as the disk has */
	ck_assert_int_le(after.st_size, before.st_size + (3 + 4) * (off_t)CLUSTER);
	ck_assert_uint_eq(count_on_disk(image, host), 1);
	ck_assert_uint_eq(count_on_disk(image, host + CLUSTER), 0);
	qcow2_free(image);
}
END_TEST

START_TEST(reserved_clusters_survive_a_trim)
{
	struct qcow2 *image = empty();
	uint64_t held = reserve(image, 5);
	struct stat status;

	ck_assert_int_eq(qcow2_trim(image, true, &err), 0);
	ck_assert_int_eq(fstat(image->fd, &status), 0);
	ck_assert_int_eq(status.st_size, (off_t)(held + 5 * CLUSTER));
	for (uint64_t i = 0; i < 5; i++)
		ck_assert_uint_eq(count_on_disk(image, held + i * CLUSTER), 1);
	ck_assert_uint_ge(reserve(image, 5), held + 5 * CLUSTER);
	qcow2_free(image);
}
END_TEST

UNIT_MAIN("qcow2_update", what_is_reserved_is_counted_in_the_file_and_has_space,
	nothing_is_reserved_twice_until_it_is_released, only_what_the_leaf_lacks_is_mapped,
	what_was_touched_meanwhile_is_left_out, nothing_is_mapped_where_no_table_was_prepared,
	version_2_has_no_zero_clusters, table_that_is_counted_as_free_is_not_written,
	table_that_claims_to_be_ours_alone_is_copied_if_its_count_says_otherwise,
	flush_that_failed_is_never_tried_again, what_was_not_used_is_given_back,
	reserved_clusters_survive_a_trim)
