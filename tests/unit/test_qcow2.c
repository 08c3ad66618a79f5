/* SPDX-License-Identifier: Apache-2.0 */
/* What each kind of table entry says, and what is refused. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "imaged/qcow2.h"
#include "tests/unit/folder.h"
#include "tests/unit/tiny_image.h"
#include "tests/unit/unit.h"

#define CLUSTER	   512u
#define PER_TABLE  64u
#define TABLE_SPAN (CLUSTER * PER_TABLE)

DEFINE_CLEANUP(qcow2, qcow2_free)

static struct err err;

/* Eight L2 tables' worth of disk, the first two of them there, 16 data clusters. */
static struct tiny_image plain_image(uint32_t version)
{
	return (struct tiny_image){.version = version,
		.cluster_bits = 9,
		.disk_size = 8 * TABLE_SPAN,
		.tables = 2,
		.data_clusters = 16};
}

static struct qcow2 *open_image(int fd)
{
	struct qcow2 *image = NULL;

	ck_assert_msg(qcow2_open(dup(fd), "test.qcow2", &image, &err) == 0, "%s", err.text);
	return image;
}

static struct extent map(struct qcow2 *image, uint64_t offset, uint64_t length)
{
	struct extent extent;

	ck_assert_msg(qcow2_map(image, offset, length, &extent, &err) == 0, "%s", err.text);
	return extent;
}

static void expect(struct qcow2 *image, uint64_t offset, uint64_t length, enum extent_kind kind,
	uint64_t extent_length, uint64_t host)
{
	struct extent extent = map(image, offset, length);

	ck_assert_int_eq(extent.kind, kind);
	ck_assert_uint_eq(extent.length, extent_length);
	ck_assert_uint_eq(extent.host_offset, host);
}

static void expect_refusal(struct qcow2 *image, uint64_t offset, const char *words)
{
	struct extent extent;

	ck_assert_int_eq(qcow2_map(image, offset, 1, &extent, &err), -1);
	ck_assert_msg(strstr(err.text, words), "\"%s\" is not in \"%s\"", words, err.text);
}

START_TEST(each_kind_of_entry_is_understood)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	tiny_image_set(fd, &plan, 1, tiny_data(&plan, 3) | QCOW2_COPIED);
	tiny_image_set(fd, &plan, 2, QCOW2_ZERO);
	tiny_image_set(fd, &plan, 3, tiny_data(&plan, 4) | QCOW2_ZERO | QCOW2_COPIED);
	tiny_image_set(fd, &plan, 4, tiny_data(&plan, 5)); /* shared: no COPIED */
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect(image, 0, 4096, EXTENT_ABSENT, CLUSTER, 0);
	expect(image, CLUSTER + 7, 4096, EXTENT_DATA, CLUSTER - 7, tiny_data(&plan, 3) + 7);
	expect(image, 2 * CLUSTER, 4096, EXTENT_ZERO, CLUSTER, 0);
	expect(image, 3 * CLUSTER + 1, 4096, EXTENT_ZERO, CLUSTER - 1, tiny_data(&plan, 4) + 1);
	expect(image, 4 * CLUSTER, 100, EXTENT_DATA, 100, tiny_data(&plan, 5));
}
END_TEST

START_TEST(compressed_cluster_is_one_extent_with_its_stream)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);
	uint64_t host = tiny_data(&plan, 2) + 100;

	/* Clusters of 512 bytes: 61 bits of offset, then one bit of further sectors. */
	tiny_image_set(fd, &plan, 0, QCOW2_COMPRESSED | UINT64_C(1) << 61 | host);
	tiny_image_set(fd, &plan, 1, QCOW2_COMPRESSED | (tiny_data(&plan, 15) + 500));
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	struct extent extent = map(image, 5, 4096);
	ck_assert_int_eq(extent.kind, EXTENT_COMPRESSED);
	ck_assert_uint_eq(extent.length, CLUSTER - 5);
	ck_assert_uint_eq(extent.host_offset, host);
	ck_assert_uint_eq(extent.host_length, 1024 - 100);
	ck_assert_uint_eq(extent.cluster_skip, 5);
	ck_assert_uint_eq(extent.cluster_size, CLUSTER);
	ck_assert_int_eq(extent.codec, EXTENT_DEFLATE);
	ck_assert_uint_eq(map(image, CLUSTER, 512).host_length, 12);
}
END_TEST

START_TEST(neighbours_are_merged_also_across_tables)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	for (uint64_t i = 0; i < 4; i++)
		tiny_image_set(fd, &plan, PER_TABLE - 2 + i, tiny_data(&plan, i));
	tiny_image_set(fd, &plan, PER_TABLE + 2, tiny_data(&plan, 9)); /* elsewhere */
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect(image, (PER_TABLE - 2) * CLUSTER, 8 * CLUSTER, EXTENT_DATA, 4 * CLUSTER,
		tiny_data(&plan, 0));
	expect(image, (PER_TABLE + 3) * CLUSTER, plan.disk_size - (PER_TABLE + 3) * CLUSTER,
		EXTENT_ABSENT, plan.disk_size - (PER_TABLE + 3) * CLUSTER, 0);
}
END_TEST

START_TEST(entries_that_point_astray_are_refused)
{
	static const struct {
		uint64_t entry;
		const char *words;
	} wrong[] = {
		{0x7ffffe00, "outside the file"},
		{QCOW2_OFFSET_MASK, "outside the file"},
		{QCOW2_OFFSET_MASK | QCOW2_ZERO, "outside the file"},
		{CLUSTER, "refcount table"},
		{TINY_L1 * CLUSTER, "L1 table"},
		{TINY_L2 * CLUSTER, "names itself"},
		{UINT64_C(1) << 61, "reserved bits"},
		{2 | TINY_L2 * CLUSTER, "reserved bits"},
		{QCOW2_COMPRESSED | 100, "header"},
		{QCOW2_COMPRESSED | (CLUSTER + 1), "refcount table"},
		{QCOW2_COMPRESSED | ((UINT64_C(1) << 61) - 1), "outside"},
		/* Two sectors, of which the second is behind the end of the file. */
		{QCOW2_COMPRESSED | UINT64_C(1) << 61 | 21 * CLUSTER, "outside the file"},
		{QCOW2_COMPRESSED | 22 * CLUSTER, "outside the file"},
	};
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = NULL;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		tiny_image_set(fd, &plan, i, wrong[i].entry);
	image = open_image(fd);

	ck_assert_uint_eq(image->file_size, 22 * CLUSTER);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		expect_refusal(image, i * CLUSTER, wrong[i].words);
}
END_TEST

START_TEST(cluster_offsets_are_aligned_to_clusters)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = {.version = 3,
		.cluster_bits = 12,
		.disk_size = 1 << 20,
		.tables = 1,
		.data_clusters = 4};
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	tiny_image_set(fd, &plan, 0, tiny_data(&plan, 0) + 512);
	tiny_image_set(fd, &plan, 1, (tiny_data(&plan, 0) + 512) | QCOW2_ZERO);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect_refusal(image, 0, "start of a cluster");
	expect_refusal(image, 4096, "start of a cluster");
}
END_TEST

START_TEST(zero_flag_in_version_2_is_corruption)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(2);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	tiny_image_set(fd, &plan, 0, QCOW2_ZERO);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect_refusal(image, 0, "reserved bits");
}
END_TEST

START_TEST(l2_tables_that_are_astray_are_refused)
{
	static const struct {
		uint64_t entry;
		const char *words;
	} wrong[] = {
		{0, NULL}, /* none: absent */
		{22 * CLUSTER, "outside the file"},
		{CLUSTER, "refcount table"},
		{TINY_L1 * CLUSTER, "L1 table"},
		{UINT64_C(1) << 60 | TINY_L2 * CLUSTER, "reserved bits"},
		{1 | TINY_L2 * CLUSTER, "reserved bits"},
		{QCOW2_OFFSET_MASK, "outside the file"},
	};
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		tiny_image_store(fd, TINY_L1 * CLUSTER + i * 8, wrong[i].entry);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect(image, 0, plan.disk_size, EXTENT_ABSENT, TABLE_SPAN, 0);
	for (size_t i = 1; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		expect_refusal(image, i * TABLE_SPAN, wrong[i].words);
}
END_TEST

START_TEST(good_entries_before_a_bad_one_are_still_told)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	tiny_image_set(fd, &plan, 0, tiny_data(&plan, 0));
	tiny_image_set(fd, &plan, 1, QCOW2_OFFSET_MASK);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect(image, 0, 4096, EXTENT_DATA, CLUSTER, tiny_data(&plan, 0));
	expect_refusal(image, CLUSTER, "outside the file");
}
END_TEST

START_TEST(cluster_cut_by_the_end_of_the_file_ends_in_zeroes)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

	tiny_image_set(fd, &plan, 0, tiny_data(&plan, 14));
	tiny_image_set(fd, &plan, 1, tiny_data(&plan, 15));
	tiny_image_set(fd, &plan, 2, QCOW2_ZERO);
	ck_assert_int_eq(ftruncate(fd, (off_t)tiny_data(&plan, 15) + 100), 0);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);

	expect(image, 0, 4096, EXTENT_DATA, CLUSTER + 100, tiny_data(&plan, 14));
	expect(image, CLUSTER + 100, 4096, EXTENT_ZERO, 2 * CLUSTER - 100, 0);

	/* It grows: what is there now is believed. */
	ck_assert_int_eq(ftruncate(fd, (off_t)tiny_data(&plan, 16)), 0);
	expect(image, 0, 4096, EXTENT_DATA, 2 * CLUSTER, tiny_data(&plan, 14));
}
END_TEST

START_TEST(cached_table_follows_what_is_noted)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);
	CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);
	const uint64_t entries[2] = {tiny_data(&plan, 0), tiny_data(&plan, 1)};

	expect(image, 0, CLUSTER, EXTENT_ABSENT, CLUSTER, 0);
	qcow2_l2_changed(image, tiny_cluster(&plan, TINY_L2), 0, 2, entries);
	expect(image, 0, 4096, EXTENT_DATA, 2 * CLUSTER, tiny_data(&plan, 0));
	qcow2_l2_forget(image, tiny_cluster(&plan, TINY_L2)); /* the file never had them */
	expect(image, 0, CLUSTER, EXTENT_ABSENT, CLUSTER, 0);
}
END_TEST

START_TEST(short_files_are_refused)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct tiny_image plan = plain_image(3);
	CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);
	struct qcow2 *image = NULL;

	for (off_t size = 3 * CLUSTER; size >= 0; size -= 37) {
		ck_assert_int_eq(ftruncate(fd, size), 0);
		ck_assert_int_eq(qcow2_open(dup(fd), "short", &image, &err), -1);
		ck_assert_ptr_null(image);
		ck_assert_ptr_nonnull(strstr(err.text, "short"));
	}
}
END_TEST

/* Whatever stands in the tables: an extent that is told lies within the file and within what was asked for. */
static void check_all(struct qcow2 *image, const struct tiny_image *plan)
{
	for (uint64_t offset = 0; offset < plan->disk_size;) {
		struct extent extent;

		if (qcow2_map(image, offset, plan->disk_size - offset, &extent, &err) < 0) {
			offset += CLUSTER;
			continue;
		}
		ck_assert_uint_ge(extent.length, 1);
		ck_assert_uint_le(extent.length, plan->disk_size - offset);
		if (extent.kind == EXTENT_DATA)
			ck_assert_uint_le(extent.host_offset + extent.length, image->file_size);
		if (extent.kind == EXTENT_COMPRESSED)
			ck_assert_uint_le(
				extent.host_offset + extent.host_length, image->file_size);
		offset += extent.length;
	}
}

START_TEST(random_tables_never_lead_outside_the_file)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	unsigned seed =
		getenv("SLUICE_SEED") ? (unsigned)strtoul(getenv("SLUICE_SEED"), NULL, 0) : 1;

	for (unsigned round = 0; round < 300; round++) {
		struct tiny_image plan = plain_image(round % 2 + 2);
		CLEANUP_CLOSE int fd = tiny_image_make(folder_name(&folder, "a"), &plan);

		for (unsigned i = 0; i < 2 * PER_TABLE; i++) {
			uint64_t entry = (uint64_t)rand_r(&seed) << 33 ^
					 (uint64_t)rand_r(&seed) << 16 ^ (uint64_t)rand_r(&seed);

			if (rand_r(&seed) % 4)
				entry &= UINT64_C(0xe000000000007e01);
			tiny_image_set(fd, &plan, i, entry);
		}
		if (round % 3 == 0)
			tiny_image_store(fd, TINY_L1 * CLUSTER + (unsigned)rand_r(&seed) % 64,
				(uint64_t)rand_r(&seed));
		CLEANUP(qcow2_cleanup) struct qcow2 *image = open_image(fd);
		check_all(image, &plan);
	}
}
END_TEST

UNIT_MAIN("qcow2", each_kind_of_entry_is_understood,
	compressed_cluster_is_one_extent_with_its_stream, neighbours_are_merged_also_across_tables,
	entries_that_point_astray_are_refused, cluster_offsets_are_aligned_to_clusters,
	zero_flag_in_version_2_is_corruption, l2_tables_that_are_astray_are_refused,
	good_entries_before_a_bad_one_are_still_told,
	cluster_cut_by_the_end_of_the_file_ends_in_zeroes, cached_table_follows_what_is_noted,
	short_files_are_refused, random_tables_never_lead_outside_the_file)
