/* SPDX-License-Identifier: Apache-2.0 */
/* Counts for clusters past all that the image has: new blocks, and where the table is full a new table, at the front of the
 * range that they count themselves.
 *
 * Nothing on disk points to them until they are durable, so each step may be the last one before a crash: at worst the range
 * is a leak.  The number of blocks depends on the range's end and the end on the number of blocks; both only grow, so
 * repeating the sum until it stands still finds the least that works. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/io.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"

#define WRITE_AT_ONCE (UINT64_C(1) << 20)

static bool block_is_missing(const struct qcow2_refcounts *refcounts, uint64_t block)
{
	return block >= refcounts->entries || refcounts->table[block] == 0;
}

static uint64_t missing_blocks(
	const struct qcow2_refcounts *refcounts, uint64_t first, uint64_t end)
{
	uint64_t missing = 0;

	for (uint64_t block = first / refcounts->block_entries;
		block <= (end - 1) / refcounts->block_entries; block++)
		missing += block_is_missing(refcounts, block);
	return missing;
}

/* One past the last cluster that gets a block. */
static uint64_t covered_end(const struct refcount_growth *growth)
{
	return growth->end + growth->ahead;
}

int qcow2_refcount_plan(const struct qcow2 *image, const struct refcount_wish *wish,
	struct refcount_growth *ret_growth, struct err *err)
{
	const struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t per_cluster = image->header.cluster_size / 8, first = wish->first;
	struct refcount_growth growth = {.first = first,
		.end = first + wish->want,
		.ahead = wish->ahead,
		.extra = wish->extra,
		.extra_count = wish->extra_count};
	uint64_t before;

	/* An extra block that the range itself needs is counted once only. */
	while (growth.extra_count > 0 &&
		growth.extra[growth.extra_count - 1] >= first / refcounts->block_entries)
		growth.extra_count--;
	if (growth.extra_count < wish->extra_count && growth.end == first)
		growth.end++;
	do {
		uint64_t last = growth.end > first
					? (covered_end(&growth) - 1) / refcounts->block_entries
					: 0;

		before = growth.end;
		growth.blocks = growth.extra_count;
		if (growth.end > first)
			growth.blocks += missing_blocks(refcounts, first, covered_end(&growth));
		if (last >= refcounts->entries) {
			growth.table_clusters = (last + last / 2) / per_cluster + 1;
			growth.table_entries = growth.table_clusters * per_cluster;
		}
		growth.usable = first + growth.blocks + growth.table_clusters;
		growth.end = growth.usable + wish->want;
		if (growth.end < before)
			growth.end = before;
	} while (growth.end != before);
	if (growth.table_clusters * image->header.cluster_size > QCOW2_REFCOUNT_TABLE_BYTES_MAX)
		return err_set(err,
			"%s: the file is too large for a refcount table that other programs read",
			image->path);
	if (growth.end > QCOW2_HOST_BYTES_MAX >> image->header.cluster_bits)
		return err_set(err, "%s: no table entry can name a cluster past the file's end",
			image->path);
	*ret_growth = growth;
	return 0;
}

/* Calls for each block to be made: its number in the table; `position` counts from 0. */
typedef int each_block(struct qcow2 *image, const struct refcount_growth *growth, uint64_t block,
	uint64_t position, void *owner, struct err *err);

static int for_each_new_block(struct qcow2 *image, const struct refcount_growth *growth,
	each_block *each, void *owner, struct err *err)
{
	uint64_t per_block = image->refcounts->block_entries;
	uint64_t position = 0;

	for (size_t i = 0; i < growth->extra_count; i++) {
		if (each(image, growth, growth->extra[i], position++, owner, err) < 0)
			return -1;
	}
	for (uint64_t block = growth->first / per_block;
		growth->end > growth->first && block <= (covered_end(growth) - 1) / per_block;
		block++) {
		/* link_blocks enters numbers as it goes: a block of ours is no longer missing then. */
		if (position < growth->blocks && block_is_missing(image->refcounts, block) &&
			each(image, growth, block, position++, owner, err) < 0)
			return -1;
	}
	bug_if(position != growth->blocks);
	return 0;
}

struct pending_write {
	unsigned char *bytes;
	uint64_t offset, length, room;
};

static int write_pending(struct qcow2 *image, struct pending_write *pending, struct err *err)
{
	if (pending->length > 0 &&
		pwrite_full(image->fd, pending->bytes, pending->length, pending->offset) < 0)
		return err_set_errno(err, errno, "%s: cannot write new refcounts", image->path);
	pending->offset += pending->length;
	pending->length = 0;
	return 0;
}

static int write_block(struct qcow2 *image, const struct refcount_growth *growth, uint64_t block,
	uint64_t position, void *owner, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	struct pending_write *pending = owner;
	uint64_t block_first = block * refcounts->block_entries;
	unsigned char *bytes = pending->bytes + pending->length;
	uint64_t from = growth->first > block_first ? growth->first - block_first : 0;
	uint64_t to = growth->end > block_first ? growth->end - block_first : 0;

	(void)position;
	memset(bytes, 0, image->header.cluster_size);
	for (uint64_t i = from; i < to && i < refcounts->block_entries; i++)
		refcount_pack(bytes, refcounts->order, i, 1);
	pending->length += image->header.cluster_size;
	return pending->length == pending->room ? write_pending(image, pending, err) : 0;
}

static int enter_block(struct qcow2 *image, const struct refcount_growth *growth, uint64_t block,
	uint64_t position, void *owner, struct err *err)
{
	uint64_t *table = owner;

	(void)err;
	table[block] = (growth->first + position) << image->header.cluster_bits;
	return 0;
}

/* The larger table, whole, as it will stand in the file. */
static uint64_t *new_table(struct qcow2 *image, const struct refcount_growth *growth)
{
	uint64_t *table = must_calloc(growth->table_entries, 8);
	struct err impossible;

	memcpy(table, image->refcounts->table, image->refcounts->entries * 8);
	bug_if(for_each_new_block(image, growth, enter_block, table, &impossible) < 0);
	return table;
}

static int write_new_table(
	struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	uint64_t *table = new_table(image, growth);
	int outcome;

	for (uint64_t i = 0; i < growth->table_entries; i++)
		qcow2_store64(&table[i], table[i]);
	outcome = pwrite_full(image->fd, table, growth->table_entries * 8,
		(growth->first + growth->blocks) << image->header.cluster_bits);
	if (outcome < 0)
		err_set_errno(err, errno, "%s: cannot write the new refcount table", image->path);
	free(table);
	return outcome;
}

static int write_new(struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	uint64_t cluster = image->header.cluster_size;
	struct pending_write pending = {.offset = growth->first * cluster,
		.room = cluster < WRITE_AT_ONCE ? WRITE_AT_ONCE : cluster};
	int outcome;

	if (growth->blocks == 0)
		return 0;
	if (pending.room > growth->blocks * cluster)
		pending.room = growth->blocks * cluster;
	pending.bytes = must_calloc(1, pending.room);
	outcome = for_each_new_block(image, growth, write_block, &pending, err);
	if (outcome == 0)
		outcome = write_pending(image, &pending, err);
	free(pending.bytes);
	if (outcome == 0 && growth->table_clusters > 0)
		outcome = write_new_table(image, growth, err);
	return outcome;
}

/* The counts of the range in blocks that were there before. */
static int raise_existing(
	struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	uint64_t per_block = image->refcounts->block_entries;
	uint64_t cluster = growth->first;

	while (cluster < growth->end) {
		uint64_t next = (cluster / per_block + 1) * per_block;

		if (next > growth->end)
			next = growth->end;
		if (!block_is_missing(image->refcounts, cluster / per_block) &&
			qcow2_refcount_write(image, cluster, next - cluster, 1, err) < 0)
			return -1;
		cluster = next;
	}
	return 0;
}

static int write_entry(struct qcow2 *image, const struct refcount_growth *growth, uint64_t block,
	uint64_t position, void *owner, struct err *err)
{
	uint64_t *range =
		owner; /* first and one past the last entry that changed and is not written */

	if (range[1] != block && range[1] > range[0]) {
		if (qcow2_refcount_table_write(image, range[0], range[1] - range[0], err) < 0)
			return -1;
		range[0] = block;
	} else if (range[1] == range[0]) {
		range[0] = block;
	}
	range[1] = block + 1;
	return enter_block(image, growth, block, position, image->refcounts->table, err);
}

/* Whether one of the new blocks is counted by an old one: then that count comes before the block's entry. */
static bool blocks_need_old_counts(const struct qcow2 *image, const struct refcount_growth *growth)
{
	uint64_t per_block = image->refcounts->block_entries;

	return growth->blocks > 0 && !block_is_missing(image->refcounts, growth->first / per_block);
}

static int link_blocks(struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	uint64_t range[2] = {0, 0};

	if (growth->blocks == 0)
		return 0;
	if (for_each_new_block(image, growth, write_entry, range, err) < 0)
		return -1;
	return qcow2_refcount_table_write(image, range[0], range[1] - range[0], err);
}

/* Counts in old blocks and entries of new ones in one go, where neither needs the other. */
static int raise_and_link(
	struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	return raise_existing(image, growth, err) < 0 ? -1 : link_blocks(image, growth, err);
}

static int link_table(struct qcow2 *image, const struct refcount_growth *growth, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t *table = new_table(image, growth);
	uint64_t offset = (growth->first + growth->blocks) << image->header.cluster_bits;

	if (qcow2_head_set_refcount_table(image, offset, (uint32_t)growth->table_clusters, err) <
		0) {
		free(table);
		return -1;
	}
	image->header.refcount_table_offset = offset;
	image->header.refcount_table_clusters = (uint32_t)growth->table_clusters;
	free(refcounts->table);
	refcounts->table = table;
	refcounts->entries = growth->table_entries;
	return 0;
}

/* One step under the image's lock, then a flush. */
static int take_step(struct qcow2 *image, const struct refcount_growth *growth,
	int (*step)(struct qcow2 *, const struct refcount_growth *, struct err *), struct err *err)
{
	int outcome;

	pthread_mutex_lock(&image->lock);
	outcome = step(image, growth, err);
	pthread_mutex_unlock(&image->lock);
	return outcome < 0 ? -1 : qcow2_flush(image, err);
}

int qcow2_refcount_grow(struct qcow2 *image, struct refcount_growth *growth, struct err *err)
{
	uint64_t old_first = image->header.refcount_table_offset >> image->header.cluster_bits;
	uint64_t old_clusters = image->header.refcount_table_clusters;
	int outcome;

	if (take_step(image, growth, write_new, err) < 0)
		return -1;
	if (growth->table_clusters == 0 && !blocks_need_old_counts(image, growth))
		return take_step(image, growth, raise_and_link, err);
	if (take_step(image, growth, raise_existing, err) < 0)
		return -1;
	if (growth->table_clusters == 0)
		return take_step(image, growth, link_blocks, err);
	if (take_step(image, growth, link_table, err) < 0)
		return -1;
	pthread_mutex_lock(&image->lock);
	outcome = qcow2_refcount_write(image, old_first, old_clusters, 0, err);
	pthread_mutex_unlock(&image->lock);
	return outcome;
}
