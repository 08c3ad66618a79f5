/* SPDX-License-Identifier: Apache-2.0 */
/* Packing of counts of every width; the arithmetic of growing. */
#include <stdlib.h>
#include <string.h>

#include "imaged/qcow2_refcount.h"
#include "tests/unit/unit.h"

static uint64_t mixed(uint64_t i)
{
	i = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
	return i ^ i >> 29;
}

static uint64_t most(unsigned order)
{
	return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1U << order)) - 1;
}

START_TEST(what_is_packed_is_unpacked_in_every_width)
{
	static unsigned char block[4096];

	for (unsigned order = 0; order <= 6; order++) {
		uint64_t entries = (sizeof(block) * 8) >> order;

		memset(block, 0xa5, sizeof(block));
		for (uint64_t i = 0; i < entries; i++)
			refcount_pack(block, order, i, mixed(i) & most(order));
		for (uint64_t i = 0; i < entries; i++)
			ck_assert_uint_eq(refcount_unpack(block, order, i), mixed(i) & most(order));
	}
}
END_TEST

START_TEST(an_entry_changes_no_neighbour)
{
	for (unsigned order = 0; order <= 6; order++) {
		for (unsigned fill = 0; fill < 256; fill += 255) {
			unsigned char block[64], before[64];

			memset(block, (int)fill, sizeof(block));
			memcpy(before, block, sizeof(block));
			refcount_pack(block, order, 5, fill ? 0 : most(order));
			for (uint64_t i = 0; i < (sizeof(block) * 8) >> order; i++) {
				uint64_t old = refcount_unpack(before, order, i);

				ck_assert_uint_eq(
					refcount_unpack(block, order, i), i != 5 ? old
									  : fill ? 0
										 : most(order));
			}
		}
	}
}
END_TEST

START_TEST(narrow_counts_begin_at_the_low_bits)
{
	unsigned char block[2] = {0, 0};

	refcount_pack(block, 0, 0, 1);
	refcount_pack(block, 0, 9, 1);
	ck_assert_uint_eq(block[0], 0x01);
	ck_assert_uint_eq(block[1], 0x02);
	refcount_pack(block, 2, 1, 0xc);
	ck_assert_uint_eq(block[0], 0xc1);
	refcount_pack(block, 4, 0, 0x1234);
	ck_assert_uint_eq(block[0], 0x12);
	ck_assert_uint_eq(block[1], 0x34);
}
END_TEST

/* An image of `entries` table entries, of which the first `blocks` have a block. */
static struct qcow2 image_with(
	unsigned cluster_bits, unsigned order, uint64_t entries, uint64_t blocks)
{
	struct qcow2 image = {.header = {.cluster_bits = cluster_bits,
				      .cluster_size = UINT64_C(1) << cluster_bits,
				      .refcount_order = order}};

	image.refcounts = calloc(1, sizeof(*image.refcounts));
	image.refcounts->table = calloc(entries, 8);
	image.refcounts->entries = entries;
	image.refcounts->order = order;
	image.refcounts->block_entries = (image.header.cluster_size * 8) >> order;
	for (uint64_t i = 0; i < blocks; i++)
		image.refcounts->table[i] = 1;
	return image;
}

static struct refcount_growth plan(struct qcow2 *image, uint64_t first, uint64_t want)
{
	const struct refcount_wish wish = {.first = first, .want = want};
	struct refcount_growth growth;
	struct err err = {.text = ""};

	ck_assert_msg(qcow2_refcount_plan(image, &wish, &growth, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(growth.first, first);
	ck_assert_uint_eq(growth.usable, first + growth.blocks + growth.table_clusters);
	ck_assert_uint_ge(growth.end - growth.usable, want);
	return growth;
}

START_TEST(a_range_that_old_blocks_count_needs_nothing)
{
	struct qcow2 image = image_with(16, 4, 8192, 1);
	struct refcount_growth growth = plan(&image, 1000, 4096);

	ck_assert_uint_eq(growth.blocks, 0);
	ck_assert_uint_eq(growth.table_clusters, 0);
	ck_assert_uint_eq(growth.end, 5096);
	qcow2_refcounts_free(image.refcounts);
}
END_TEST

START_TEST(new_blocks_count_themselves)
{
	struct qcow2 image = image_with(9, 6, 64, 3);
	/* 64 clusters a block; the last old block ends right where the range begins */
	struct refcount_growth growth = plan(&image, 192, 64);

	/* 64 + its own blocks is more than one block counts */
	ck_assert_uint_eq(growth.blocks, 2);
	ck_assert_uint_eq(growth.end, 192 + 2 + 64);
	qcow2_refcounts_free(image.refcounts);
}
END_TEST

START_TEST(a_table_that_is_too_small_is_replaced_by_one_that_counts_all)
{
	for (unsigned order = 0; order <= 6; order++) {
		for (uint64_t want = 1; want < 3000; want = want * 3 + 1) {
			struct qcow2 image = image_with(9, order, 64, 64);
			uint64_t per_block = image.refcounts->block_entries;
			struct refcount_growth growth = plan(&image, 64 * per_block - 1, want);
			uint64_t last = (growth.end - 1) / per_block;

			ck_assert_uint_eq(growth.table_clusters > 0, last >= 64);
			if (growth.table_clusters > 0)
				ck_assert_uint_gt(growth.table_entries, last);
			ck_assert_uint_eq(growth.blocks, last - 63);
			qcow2_refcounts_free(image.refcounts);
		}
	}
}
END_TEST

START_TEST(what_comes_behind_the_range_gets_its_blocks_with_it)
{
	struct qcow2 image = image_with(9, 6, 64, 3);
	const struct refcount_wish wish = {.first = 100, .want = 50, .ahead = 200};
	struct refcount_growth growth;

	/* Old blocks count up to 192; the range, new blocks included, ends at 153, and what comes behind at 353. */
	ck_assert_int_eq(qcow2_refcount_plan(&image, &wish, &growth, NULL), 0);
	ck_assert_uint_eq(growth.blocks, 3);
	ck_assert_uint_eq(growth.end, 100 + 3 + 50);
	ck_assert_uint_eq(growth.table_clusters, 0);
	qcow2_refcounts_free(image.refcounts);
}
END_TEST

START_TEST(missing_blocks_of_old_clusters_are_made_too)
{
	struct qcow2 image = image_with(9, 6, 64, 3);
	const uint64_t missing[] = {1, 2};
	const struct refcount_wish wish = {.first = 192, .extra = missing, .extra_count = 2};
	struct refcount_growth growth;

	image.refcounts->table[1] = image.refcounts->table[2] = 0;
	ck_assert_int_eq(qcow2_refcount_plan(&image, &wish, &growth, NULL), 0);
	/* two for them, and one that counts the three */
	ck_assert_uint_eq(growth.blocks, 3);
	ck_assert_uint_eq(growth.end, 195);
	qcow2_refcounts_free(image.refcounts);
}
END_TEST

START_TEST(a_table_grows_as_far_as_other_programs_read_it)
{
	struct qcow2 image = image_with(9, 6, 64, 64);
	/* 900,000 of 1,048,576 entries; half as many more would be too many. */
	const struct refcount_wish wish = {.first = UINT64_C(900000) * 64, .want = 1};
	struct refcount_growth growth;
	struct err err = {.text = ""};

	ck_assert_msg(qcow2_refcount_plan(&image, &wish, &growth, &err) == 0, "%s", err.text);
	ck_assert_uint_eq(growth.table_entries, 1 << 20);
	qcow2_refcounts_free(image.refcounts);
}
END_TEST

START_TEST(a_file_too_large_for_any_table_is_refused)
{
	struct qcow2 image = image_with(9, 6, 64, 64);
	const struct refcount_wish wish = {.first = UINT64_C(1) << 30, .want = 1};
	struct refcount_growth growth;
	struct err err;

	ck_assert_int_eq(qcow2_refcount_plan(&image, &wish, &growth, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "too large"));
	qcow2_refcounts_free(image.refcounts);
}
END_TEST

UNIT_MAIN("qcow2_refcount", what_is_packed_is_unpacked_in_every_width,
	an_entry_changes_no_neighbour, narrow_counts_begin_at_the_low_bits,
	a_range_that_old_blocks_count_needs_nothing, new_blocks_count_themselves,
	a_table_that_is_too_small_is_replaced_by_one_that_counts_all,
	what_comes_behind_the_range_gets_its_blocks_with_it,
	missing_blocks_of_old_clusters_are_made_too, a_table_grows_as_far_as_other_programs_read_it,
	a_file_too_large_for_any_table_is_refused)
