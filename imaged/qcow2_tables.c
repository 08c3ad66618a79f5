/* SPDX-License-Identifier: Apache-2.0 */
/* Making L2 tables: new ones, and copies of those that an internal snapshot uses too.
 *
 *   clusters from a zone; content written      flush
 *   L1 entries written, in memory too          (copies: flush, then the old tables' counts are lowered)
 *
 * A copy refers to the clusters that the old table refers to; the snapshot counted those when it was taken, so their counts
 * are 2 or more and stay: they are copied before they are written, by whoever writes them. */
#include "imaged/qcow2_tables.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"
#include "imaged/qcow2_vet.h"
#include "imaged/qcow2_zone.h"

#define BATCH_BYTES  (UINT64_C(8) << 20)
#define RUNS_AT_ONCE 16

/* One table to be made. */
struct new_table {
	uint64_t index; /* in L1 */
	uint64_t old;	/* offset of the shared table that it is a copy of; 0: an empty one */
	uint64_t host;	/* where it goes; 0 as long as it has no place */
};

struct batch {
	struct new_table *tables; /* owned */
	uint64_t count, most;
	bool has_copies;
};

void qcow2_tables_load(struct qcow2 *image)
{
	struct qcow2_tables *tables = must_calloc(1, sizeof(*tables));

	pthread_mutex_init(&tables->lock, NULL);
	tables->owned = must_calloc(image->header.l1_entries / 8 + 1, 1);
	image->tables = tables;
}

void qcow2_tables_free(struct qcow2_tables *tables)
{
	if (!tables)
		return;
	pthread_mutex_destroy(&tables->lock);
	free(tables->owned);
	free(tables);
}

bool qcow2_table_is_owned(const struct qcow2 *image, uint64_t l1_index)
{
	return image->tables->owned[l1_index / 8] >> (l1_index % 8) & 1;
}

static void now_owned(struct qcow2 *image, uint64_t index)
{
	image->tables->owned[index / 8] |= (unsigned char)(1U << (index % 8));
}

/* The L1 entries [first, end) as they are in memory. */
static int write_l1(struct qcow2 *image, uint64_t first, uint64_t end, struct err *err)
{
	CLEANUP_FREE uint64_t *entries = must_calloc(end - first, 8);

	for (uint64_t i = first; i < end; i++)
		entries[i - first] = htobe64(image->l1[i]);
	if (pwrite_full(
		    image->fd, entries, (end - first) * 8, image->header.l1_offset + first * 8) < 0)
		return qcow2_fail(image, errno, "cannot write the L1 table", err);
	return 0;
}

/* A table that is a refcount block as well: what is written into one changes the other. */
static bool is_refcount_block(const struct qcow2 *image, uint64_t offset)
{
	for (uint64_t i = 0; i < image->refcounts->entries; i++) {
		if (image->refcounts->table[i] == offset)
			return true;
	}
	return false;
}

/* Looks at one entry of L1: owned already, owned as its count shows, or to be made. */
static int look_at(struct qcow2 *image, uint64_t index, struct batch *batch, struct err *err)
{
	uint64_t old = image->l1[index] & QCOW2_OFFSET_MASK;
	uint64_t count = 0;
	const uint64_t *table;

	if (qcow2_table_is_owned(image, index))
		return 0;
	if (old != 0 && is_refcount_block(image, old))
		return err_set(err,
			"%s is corrupt: the L2 table at offset 0x%llx is a refcount block",
			image->path, (unsigned long long)old);
	/* Its place in the file is checked where tables are read. */
	if (old != 0 && qcow2_l2_table(image, index << (image->header.cluster_bits * 2 - 3), &table,
				err) < 0)
		return -1;
	if (old != 0 &&
		qcow2_refcount_read(image, old >> image->header.cluster_bits, &count, err) < 0)
		return -1;
	if (old != 0 && count == 0)
		return err_set(err,
			"%s is corrupt: the L2 table at offset 0x%llx is counted as free",
			image->path, (unsigned long long)old);
	if (count == 1) {
		now_owned(image, index);
		if (image->l1[index] & QCOW2_COPIED)
			return 0;
		image->l1[index] |= QCOW2_COPIED;
		return write_l1(image, index, index + 1, err);
	}
	batch->tables[batch->count++] = (struct new_table){.index = index, .old = old};
	batch->has_copies |= old != 0;
	return 0;
}

/* Entries of L1, ascending: those of a list, or all of a range. */
struct wanted {
	const uint64_t *list; /* NULL: a range */
	uint64_t next, end;   /* positions in the list, or the entries themselves */
};

/* The tables that wanted L1 entries lack, as many as the batch takes. */
static int collect(struct qcow2 *image, struct wanted *wanted, struct batch *batch, struct err *err)
{
	int outcome = 0;

	batch->count = 0;
	batch->has_copies = false;
	pthread_mutex_lock(&image->lock);
	if (image->failed)
		outcome = qcow2_say_failed(image, err);
	while (outcome == 0 && wanted->next < wanted->end && batch->count < batch->most) {
		uint64_t at = wanted->next++;

		outcome = look_at(image, wanted->list ? wanted->list[at] : at, batch, err);
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

/* Gives back what has a place. */
static void give_up(struct qcow2 *image, const struct batch *batch)
{
	for (uint64_t i = 0; i < batch->count && batch->tables[i].host != 0; i++)
		qcow2_release_fresh(image, batch->tables[i].host, image->header.cluster_size);
}

static int find_places(struct qcow2 *image, struct batch *batch, struct err *err)
{
	uint64_t cluster = image->header.cluster_size;
	struct cluster_run runs[RUNS_AT_ONCE];
	uint64_t placed = 0;

	while (placed < batch->count) {
		unsigned count;

		/* The flush before they are linked makes their counts durable, too. */
		if (qcow2_reserve_fresh(image, (batch->count - placed) * cluster, runs,
			    RUNS_AT_ONCE, &count, err) < 0)
			return -1;
		for (unsigned i = 0; i < count; i++) {
			for (uint64_t at = 0; at < runs[i].length; at += cluster)
				batch->tables[placed++].host = runs[i].offset + at;
		}
	}
	return 0;
}

/* The shared table's content for its copy; every cluster in it is shared as well. */
static int copy_table(
	struct qcow2 *image, const struct new_table *table, uint64_t *entries, struct err *err)
{
	uint64_t cluster = image->header.cluster_size;
	int outcome = 0;

	if (pread_full(image->fd, entries, cluster, table->old) < 0)
		return err_set_errno(err, errno, "%s: cannot read the L2 table at offset 0x%llx",
			image->path, (unsigned long long)table->old);
	pthread_mutex_lock(&image->lock);
	for (uint64_t i = 0; i < cluster / 8 && outcome == 0; i++) {
		uint64_t entry = be64toh(entries[i]), host = entry & QCOW2_OFFSET_MASK, count;

		if (entry & QCOW2_COMPRESSED || host == 0)
			continue;
		outcome =
			qcow2_refcount_read(image, host >> image->header.cluster_bits, &count, err);
		if (outcome == 0 && count < 2)
			outcome = err_set(err,
				"%s is corrupt: the cluster at offset 0x%llx of a snapshot is counted %llu times",
				image->path, (unsigned long long)host, (unsigned long long)count);
		entries[i] = htobe64(entry & ~QCOW2_COPIED);
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

/* One write for neighbours. */
static int write_tables(struct qcow2 *image, const struct batch *batch, struct err *err)
{
	uint64_t cluster = image->header.cluster_size;
	CLEANUP_FREE unsigned char *bytes = must_calloc(batch->count, cluster);
	uint64_t first = 0;

	for (uint64_t i = 0; i < batch->count; i++) {
		const struct new_table *table = &batch->tables[i];

		if (table->old != 0 && copy_table(image, table,
					       (uint64_t *)(void *)(bytes + i * cluster), err) < 0)
			return -1;
	}
	for (uint64_t i = 1; i <= batch->count; i++) {
		if (i < batch->count &&
			batch->tables[i].host == batch->tables[i - 1].host + cluster)
			continue;
		if (pwrite_full(image->fd, bytes + first * cluster, (i - first) * cluster,
			    batch->tables[first].host) < 0)
			return err_set_errno(
				err, errno, "%s: cannot write an L2 table", image->path);
		first = i;
	}
	return 0;
}

/* The counts of the old tables will be lowered: a crash before that leaves leaks, which the hint names. */
static int announce_leaks(struct qcow2 *image, const struct batch *batch, struct err *err)
{
	uint64_t first = UINT64_MAX, end = 0;
	int outcome;

	for (uint64_t i = 0; i < batch->count; i++) {
		uint64_t old = batch->tables[i].old;

		if (old != 0 && old < first)
			first = old;
		if (old != 0 && old + image->header.cluster_size > end)
			end = old + image->header.cluster_size;
	}
	pthread_mutex_lock(&image->head->lock);
	qcow2_zone_expect_leaks(image, first, end - first);
	outcome = qcow2_zone_write_hint(image, NULL, err);
	if (outcome < 0)
		qcow2_zone_leaks_over(image);
	pthread_mutex_unlock(&image->head->lock);
	return outcome;
}

static int link_tables(struct qcow2 *image, const struct batch *batch, struct err *err)
{
	int outcome;

	pthread_mutex_lock(&image->lock);
	for (uint64_t i = 0; i < batch->count; i++) {
		const struct new_table *table = &batch->tables[i];

		image->l1[table->index] = table->host | QCOW2_COPIED;
		qcow2_l2_forget(image, table->host);
		qcow2_vet_made(image, table->index);
		qcow2_zone_mapped(image, table->host >> image->header.cluster_bits, 1);
		now_owned(image, table->index);
	}
	outcome = write_l1(
		image, batch->tables[0].index, batch->tables[batch->count - 1].index + 1, err);
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

static int lower_old(struct qcow2 *image, const struct batch *batch, struct err *err)
{
	int outcome = qcow2_flush(image, err);

	pthread_mutex_lock(&image->lock);
	for (uint64_t i = 0; i < batch->count && outcome == 0; i++) {
		if (batch->tables[i].old != 0)
			outcome = qcow2_refcount_lower(
				image, batch->tables[i].old >> image->header.cluster_bits, err);
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

static int make_batch(struct qcow2 *image, struct batch *batch, struct err *err)
{
	int outcome = 0;

	if (find_places(image, batch, err) < 0 || write_tables(image, batch, err) < 0) {
		give_up(image, batch);
		return -1;
	}
	if (batch->has_copies && announce_leaks(image, batch, err) < 0)
		return -1;
	if (qcow2_flush(image, err) < 0 || link_tables(image, batch, err) < 0)
		outcome = -1;
	if (batch->has_copies) {
		if (outcome == 0)
			outcome = lower_old(image, batch, err);
		pthread_mutex_lock(&image->head->lock);
		qcow2_zone_leaks_over(image);
		pthread_mutex_unlock(&image->head->lock);
	}
	return outcome;
}

static int prepare(
	struct qcow2 *image, struct wanted *wanted, bool *ret_has_flushed, struct err *err)
{
	struct batch batch = {.most = BATCH_BYTES / image->header.cluster_size};
	int outcome = 0;

	if (batch.most > wanted->end - wanted->next)
		batch.most = wanted->end - wanted->next;
	batch.tables = must_calloc(batch.most + 1, sizeof(*batch.tables));
	*ret_has_flushed = false;
	pthread_mutex_lock(&image->tables->lock);
	while (outcome == 0 && wanted->next < wanted->end) {
		outcome = collect(image, wanted, &batch, err);
		if (outcome == 0 && batch.count > 0) {
			outcome = make_batch(image, &batch, err);
			*ret_has_flushed = true;
		}
	}
	pthread_mutex_unlock(&image->tables->lock);
	free(batch.tables);
	return outcome;
}

int qcow2_prepare_tables(struct qcow2 *image, uint64_t offset, uint64_t length, struct err *err)
{
	unsigned span_bits = image->header.cluster_bits * 2 - 3;
	struct wanted wanted = {
		.next = offset >> span_bits, .end = ((offset + length - 1) >> span_bits) + 1};
	bool has_flushed;

	bug_if(length == 0 || wanted.end > image->header.l1_entries);
	return prepare(image, &wanted, &has_flushed, err);
}

int qcow2_prepare_listed_tables(struct qcow2 *image, const uint64_t *indices, uint64_t count,
	bool *ret_has_flushed, struct err *err)
{
	struct wanted wanted = {.list = indices, .end = count};

	return prepare(image, &wanted, ret_has_flushed, err);
}
