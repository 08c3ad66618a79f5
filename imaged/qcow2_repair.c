/* SPDX-License-Identifier: Apache-2.0 */
/* Window by window: count the references, make blocks where counts have none, raise, flush, lower, flush.  The walk is repeated
 * for each window, which bounds memory, not time; images are seldom left dirty. */
#include "imaged/qcow2_repair.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "imaged/qcow2_counts.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"

#define COUNTS_AT_ONCE 4096

static int file_clusters(struct qcow2 *image, uint64_t *ret_clusters, struct err *err)
{
	struct stat status;

	if (fstat(image->fd, &status) < 0)
		return err_set_errno(err, errno, "%s: cannot ask for its size", image->path);
	*ret_clusters = ((uint64_t)status.st_size + image->header.cluster_size - 1) >>
			image->header.cluster_bits;
	return 0;
}

/* Blocks for counts that have none.  1 where some were made: then there are new references. */
static int make_missing_blocks(
	struct qcow2 *image, const struct reference_counts *counts, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	CLEANUP_FREE uint64_t *missing =
		must_calloc(counts->count / refcounts->block_entries + 2, 8);
	struct refcount_wish wish;
	struct refcount_growth growth;
	uint64_t end = 0, used = 0;
	size_t count = 0;
	int outcome;

	for (uint64_t i = 0; i < counts->count; i++) {
		uint64_t block = (counts->first + i) / refcounts->block_entries;

		if (counts->clusters[i].count == 0 ||
			(block < refcounts->entries && refcounts->table[block] != 0))
			continue;
		if (count == 0 || missing[count - 1] != block)
			missing[count++] = block;
	}
	if (count == 0)
		return 0;
	pthread_mutex_lock(&image->lock);
	outcome = qcow2_refcounts_end(image, &used, err);
	pthread_mutex_unlock(&image->lock);
	if (outcome < 0 || file_clusters(image, &end, err) < 0)
		return -1;
	wish = (struct refcount_wish){
		.first = end > used ? end : used, .extra = missing, .extra_count = count};
	if (qcow2_refcount_plan(image, &wish, &growth, err) < 0 ||
		qcow2_refcount_grow(image, &growth, err) < 0)
		return -1;
	return 1;
}

enum direction { RAISE, LOWER };

/* Makes the counts on disk those of the window, where that is in this direction; 1 where something changed. */
static int move_counts(struct qcow2 *image, const struct reference_counts *counts,
	enum direction direction, struct err *err)
{
	uint64_t on_disk[COUNTS_AT_ONCE];
	int outcome = 0;

	pthread_mutex_lock(&image->lock);
	for (uint64_t i = 0; i < counts->count && outcome >= 0; i++) {
		uint64_t wanted = counts->clusters[i].count, have;
		uint64_t left = counts->count - i;

		if (i % COUNTS_AT_ONCE == 0 &&
			qcow2_refcount_read_many(image, counts->first + i,
				left < COUNTS_AT_ONCE ? left : COUNTS_AT_ONCE, on_disk, err) < 0) {
			outcome = -1;
			break;
		}
		have = on_disk[i % COUNTS_AT_ONCE];
		if (direction == RAISE ? wanted <= have : wanted >= have)
			continue;
		if (wanted > image->refcounts->most)
			outcome = err_set(err,
				"%s: a cluster has %llu users, more than its counts can hold",
				image->path, (unsigned long long)wanted);
		else
			outcome = qcow2_refcount_write(image, counts->first + i, 1, wanted, err) < 0
					  ? -1
					  : 1;
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

static int repair_window(struct qcow2 *image, struct reference_counts *counts, uint64_t first,
	uint64_t count, struct err *err)
{
	int made;

	do {
		if (reference_counts_walk(counts, image, first, count, err) < 0)
			return -1;
		made = make_missing_blocks(image, counts, err);
	} while (made > 0);
	if (made < 0 || move_counts(image, counts, RAISE, err) < 0 || qcow2_flush(image, err) < 0)
		return -1;
	return move_counts(image, counts, LOWER, err) < 0 ? -1 : qcow2_flush(image, err);
}

/* Nothing past the file's end is referred to: the walk refuses such references. */
static int clear_past_end(struct qcow2 *image, uint64_t end, struct err *err)
{
	struct qcow2_refcounts *refcounts = image->refcounts;
	int outcome = 0;

	pthread_mutex_lock(&image->lock);
	for (uint64_t block = end / refcounts->block_entries;
		block < refcounts->entries && outcome == 0; block++) {
		uint64_t first = block * refcounts->block_entries, count = refcounts->block_entries;

		if (first < end) {
			count -= end - first;
			first = end;
		}
		if (refcounts->table[block] != 0)
			outcome = qcow2_refcount_write(image, first, count, 0, err);
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

static int repair_counts(struct qcow2 *image, struct err *err)
{
	struct reference_counts counts = {.clusters = NULL};
	uint64_t first = 0, end = 0;
	int outcome;

	while ((outcome = file_clusters(image, &end, err)) == 0 && first < end) {
		uint64_t count = end - first < COUNTS_WINDOW ? end - first : COUNTS_WINDOW;

		outcome = repair_window(image, &counts, first, count, err);
		if (outcome < 0)
			break;
		first += count;
	}
	reference_counts_done(&counts);
	return outcome < 0 ? -1 : clear_past_end(image, end, err);
}

/* What the entry should be, given the count of what it points to. */
static int mended(struct qcow2 *image, uint64_t entry, uint64_t *ret_entry, struct err *err)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK, count;

	*ret_entry = entry & ~QCOW2_COPIED;
	if (host == 0 || (entry & QCOW2_COMPRESSED))
		return 0;
	if (qcow2_refcount_read(image, host >> image->header.cluster_bits, &count, err) < 0)
		return -1;
	if (count == 1)
		*ret_entry |= QCOW2_COPIED;
	return 0;
}

static int mend_l2_table(struct qcow2 *image, uint64_t offset, uint64_t *table, struct err *err)
{
	uint64_t entries = image->header.cluster_size / 8;
	bool changed = false;

	if (pread_full(image->fd, table, entries * 8, offset) < 0)
		return err_set_errno(err, errno, "%s: cannot read an L2 table", image->path);
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t entry = be64toh(table[i]), wanted;

		if (mended(image, entry, &wanted, err) < 0)
			return -1;
		changed |= wanted != entry;
		table[i] = htobe64(wanted);
	}
	if (!changed)
		return 0;
	qcow2_l2_forget(image, offset);
	if (pwrite_full(image->fd, table, entries * 8, offset) < 0)
		return qcow2_fail(image, errno, "cannot write an L2 table", err);
	return 0;
}

static int mend_flags_locked(struct qcow2 *image, uint64_t *table, struct err *err)
{
	uint64_t count = image->header.l1_entries;
	CLEANUP_FREE uint64_t *l1 = must_calloc(count + 1, 8);
	bool changed = false;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t wanted, offset = image->l1[i] & QCOW2_OFFSET_MASK;

		if (mended(image, image->l1[i], &wanted, err) < 0 ||
			(offset != 0 && mend_l2_table(image, offset, table, err) < 0))
			return -1;
		changed |= wanted != image->l1[i];
		image->l1[i] = wanted;
		l1[i] = htobe64(wanted);
	}
	if (changed && pwrite_full(image->fd, l1, count * 8, image->header.l1_offset) < 0)
		return qcow2_fail(image, errno, "cannot write the L1 table", err);
	return 0;
}

static int mend_flags(struct qcow2 *image, struct err *err)
{
	CLEANUP_FREE uint64_t *table = must_calloc(1, image->header.cluster_size);
	int outcome;

	pthread_mutex_lock(&image->lock);
	outcome = mend_flags_locked(image, table, err);
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

int qcow2_repair(struct qcow2 *image, struct err *err)
{
	log_warn("%s was not closed by the program that used it last, counting its references anew",
		image->path);
	if (repair_counts(image, err) < 0 || mend_flags(image, err) < 0 ||
		qcow2_flush(image, err) < 0)
		return err_wrap(err, "the image is dirty and cannot be repaired");
	if (qcow2_head_set_features(image, image->header.incompatible & ~QCOW2_INCOMPATIBLE_DIRTY,
		    image->header.autoclear, err) < 0)
		return -1;
	return qcow2_flush(image, err);
}
