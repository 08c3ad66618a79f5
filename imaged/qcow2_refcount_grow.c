/* SPDX-License-Identifier: Apache-2.0 */
/* Counts for clusters past all that the image has: new blocks, and where the table is full a new table, at the front of the
 * range that they count themselves.
 *
 * Nothing on disk points to them until they are durable, so each step may be the last one before a crash: at worst the range
 * is a leak.  A block's entry in the table comes after the count of the block's own cluster: in an old block, or in a new one
 * whose entry stands in the same sector or was durable before.
 *
 * The number of blocks depends on the range's end and the end on the number of blocks; both only grow, so repeating the sum
 * until it stands still finds the least that works. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"

#define WRITE_AT_ONCE	  (UINT64_C(1) << 20)
#define ENTRIES_IN_SECTOR (512 / 8)

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

/* Of a table that has this entry, and half as much to spare where other programs would still read it then. */
static uint64_t table_clusters(const struct qcow2 *image, uint64_t last)
{
	uint64_t per_cluster = image->header.cluster_size / 8;
	uint64_t most = QCOW2_REFCOUNT_TABLE_BYTES_MAX / image->header.cluster_size;
	uint64_t least = last / per_cluster + 1, usual = (last + last / 2) / per_cluster + 1;

	if (usual > most)
		usual = most;
	return usual > least ? usual : least;
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
			growth.table_clusters = table_clusters(image, last);
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

/* One growth under way. */
struct growing {
	struct qcow2 *image;
	const struct refcount_growth *growth;
	uint64_t *numbers; /* owned; of the new blocks in the table, in the order of their places */
	uint64_t linked;   /* of those that count new blocks: so many have their entry */
	bool is_linked;	   /* all blocks have */
};

/* The table in memory changes with the structure lock held only: with that, reading it needs no other. */
static void list_new_blocks(struct growing *growing)
{
	const struct refcount_growth *growth = growing->growth;
	const struct qcow2_refcounts *refcounts = growing->image->refcounts;
	uint64_t position = 0;

	growing->numbers = must_calloc(growth->blocks + 1, sizeof(*growing->numbers));
	for (; position < growth->extra_count; position++)
		growing->numbers[position] = growth->extra[position];
	for (uint64_t block = growth->first / refcounts->block_entries; position < growth->blocks;
		block++) {
		if (block_is_missing(refcounts, block))
			growing->numbers[position++] = block;
	}
}

static uint64_t place_of(const struct growing *growing, uint64_t position)
{
	return (growing->growth->first + position) << growing->image->header.cluster_bits;
}

static void fill_block(const struct growing *growing, uint64_t block, unsigned char *bytes)
{
	const struct refcount_growth *growth = growing->growth;
	const struct qcow2_refcounts *refcounts = growing->image->refcounts;
	uint64_t block_first = block * refcounts->block_entries;
	uint64_t from = growth->first > block_first ? growth->first - block_first : 0;
	uint64_t to = growth->end > block_first ? growth->end - block_first : 0;

	memset(bytes, 0, growing->image->header.cluster_size);
	for (uint64_t i = from; i < to && i < refcounts->block_entries; i++)
		refcount_pack(bytes, refcounts->order, i, 1);
}

static int write_new_blocks(const struct growing *growing, struct err *err)
{
	struct qcow2 *image = growing->image;
	uint64_t cluster = image->header.cluster_size, blocks = growing->growth->blocks;
	uint64_t most = cluster < WRITE_AT_ONCE ? WRITE_AT_ONCE / cluster : 1;
	CLEANUP_FREE unsigned char *bytes = must_calloc(blocks < most ? blocks + 1 : most, cluster);

	for (uint64_t position = 0; position < blocks;) {
		uint64_t some = blocks - position < most ? blocks - position : most;

		for (uint64_t i = 0; i < some; i++)
			fill_block(growing, growing->numbers[position + i], bytes + i * cluster);
		if (pwrite_full(image->fd, bytes, some * cluster, place_of(growing, position)) < 0)
			return err_set_errno(
				err, errno, "%s: cannot write new refcounts", image->path);
		position += some;
	}
	return 0;
}

/* The larger table, whole, as it will stand in the file. */
static uint64_t *new_table(const struct growing *growing)
{
	const struct qcow2_refcounts *refcounts = growing->image->refcounts;
	uint64_t *table = must_calloc(growing->growth->table_entries, 8);

	memcpy(table, refcounts->table, refcounts->entries * 8);
	for (uint64_t i = 0; i < growing->growth->blocks; i++)
		table[growing->numbers[i]] = place_of(growing, i);
	return table;
}

static int write_new_table(const struct growing *growing, struct err *err)
{
	struct qcow2 *image = growing->image;
	const struct refcount_growth *growth = growing->growth;
	CLEANUP_FREE uint64_t *table = new_table(growing);

	for (uint64_t i = 0; i < growth->table_entries; i++)
		qcow2_store64(&table[i], table[i]);
	if (pwrite_full(image->fd, table, growth->table_entries * 8,
		    place_of(growing, growth->blocks)) < 0)
		return err_set_errno(
			err, errno, "%s: cannot write the new refcount table", image->path);
	return 0;
}

static int write_new(struct growing *growing, struct err *err)
{
	list_new_blocks(growing);
	if (write_new_blocks(growing, err) < 0)
		return -1;
	return growing->growth->table_clusters > 0 ? write_new_table(growing, err) : 0;
}

/* The counts of the range in blocks that were there before. */
static int raise_existing(struct growing *growing, struct err *err)
{
	struct qcow2 *image = growing->image;
	uint64_t per_block = image->refcounts->block_entries;
	uint64_t cluster = growing->growth->first, end = growing->growth->end;

	while (cluster < end) {
		uint64_t next = (cluster / per_block + 1) * per_block;

		if (next > end)
			next = end;
		if (!block_is_missing(image->refcounts, cluster / per_block) &&
			qcow2_refcount_write(image, cluster, next - cluster, 1, err) < 0)
			return -1;
		cluster = next;
	}
	return 0;
}

/* The places of the new blocks end before this one. */
static uint64_t blocks_end(const struct refcount_growth *growth)
{
	return growth->first + growth->blocks;
}

/* Whether one of the new blocks is counted by an old one: then that count comes before the block's entry. */
static bool blocks_need_old_counts(const struct growing *growing)
{
	const struct refcount_growth *growth = growing->growth;
	const struct qcow2_refcounts *refcounts = growing->image->refcounts;

	if (growth->blocks == 0)
		return false;
	for (uint64_t block = growth->first / refcounts->block_entries;
		block <= (blocks_end(growth) - 1) / refcounts->block_entries; block++) {
		if (!block_is_missing(refcounts, block))
			return true;
	}
	return false;
}

/* The new blocks at these positions, with one write where they follow one another in the table. */
static int link_some(struct growing *growing, uint64_t from, uint64_t to, struct err *err)
{
	struct qcow2 *image = growing->image;
	const uint64_t *numbers = growing->numbers;

	for (uint64_t i = from; i < to; i++)
		image->refcounts->table[numbers[i]] = place_of(growing, i);
	while (from < to) {
		uint64_t some = 1;

		while (from + some < to && numbers[from + some] == numbers[from] + some)
			some++;
		if (qcow2_refcount_table_write(image, numbers[from], some, err) < 0)
			return -1;
		from += some;
	}
	return 0;
}

/* What may be written in one go: of the blocks that count new blocks those in one sector, or else all the others.  In ascending order
 * each is counted by one that comes before it, or by itself (not so beside extra ones; but those are for an image that stays
 * dirty until it is repaired). */
static int link_next(struct growing *growing, struct err *err)
{
	const struct refcount_growth *growth = growing->growth;
	const uint64_t *numbers = growing->numbers;
	uint64_t last = growth->blocks == 0 ? 0
					    : (blocks_end(growth) - 1) /
						      growing->image->refcounts->block_entries;
	uint64_t from = growth->extra_count + growing->linked, to = from;

	while (to < growth->blocks && numbers[to] <= last &&
		numbers[to] / ENTRIES_IN_SECTOR == numbers[from] / ENTRIES_IN_SECTOR)
		to++;
	growing->is_linked = to == from || (to == growth->blocks && growth->extra_count == 0);
	if (to > from) {
		growing->linked += to - from;
		return link_some(growing, from, to, err);
	}
	if (link_some(growing, 0, growth->extra_count, err) < 0)
		return -1;
	return link_some(growing, from, growth->blocks, err);
}

static int link_table(struct growing *growing, struct err *err)
{
	struct qcow2 *image = growing->image;
	const struct refcount_growth *growth = growing->growth;
	struct qcow2_refcounts *refcounts = image->refcounts;
	uint64_t *table = new_table(growing);
	uint64_t offset = place_of(growing, growth->blocks);

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

typedef int grow_step(struct growing *growing, struct err *err);

/* One step under the image's lock, then a flush. */
static int take_step(struct growing *growing, grow_step *step, struct err *err)
{
	int outcome;

	pthread_mutex_lock(&growing->image->lock);
	outcome = step(growing, err);
	pthread_mutex_unlock(&growing->image->lock);
	return outcome < 0 ? -1 : qcow2_flush(growing->image, err);
}

/* Counts in old blocks and entries of new ones in one go, where neither needs the other. */
static int raise_and_link(struct growing *growing, struct err *err)
{
	return raise_existing(growing, err) < 0 ? -1 : link_next(growing, err);
}

static int link_blocks(struct growing *growing, struct err *err)
{
	bool is_apart = blocks_need_old_counts(growing);

	if (is_apart && take_step(growing, raise_existing, err) < 0)
		return -1;
	if (take_step(growing, is_apart ? link_next : raise_and_link, err) < 0)
		return -1;
	while (!growing->is_linked) {
		if (take_step(growing, link_next, err) < 0)
			return -1;
	}
	return 0;
}

static int replace_table(struct growing *growing, struct err *err)
{
	struct qcow2 *image = growing->image;
	uint64_t old_first = image->header.refcount_table_offset >> image->header.cluster_bits;
	uint64_t old_clusters = image->header.refcount_table_clusters;
	int outcome;

	if (take_step(growing, raise_existing, err) < 0 || take_step(growing, link_table, err) < 0)
		return -1;
	pthread_mutex_lock(&image->lock);
	outcome = qcow2_refcount_write(image, old_first, old_clusters, 0, err);
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

/* What has been raised or linked cannot be taken back. */
static void fail(struct qcow2 *image)
{
	pthread_mutex_lock(&image->lock);
	qcow2_mark_failed(image);
	pthread_mutex_unlock(&image->lock);
}

int qcow2_refcount_grow(struct qcow2 *image, struct refcount_growth *growth, struct err *err)
{
	struct growing growing = {.image = image, .growth = growth};
	int outcome = write_new(&growing, err);

	/* Nobody knows what was written: no look-up need wait for it. */
	if (outcome == 0)
		outcome = qcow2_flush(image, err);
	if (outcome == 0) {
		outcome = growth->table_clusters > 0 ? replace_table(&growing, err)
						     : link_blocks(&growing, err);
		if (outcome < 0)
			fail(image);
	}
	free(growing.numbers);
	return outcome;
}
