/* SPDX-License-Identifier: Apache-2.0 */
/* A write-back takes a copy of what is pending.  An entry that was replaced before its turn comes is written all the same, or what
 * came after it: the newest one may point to bytes that this flush has not seen, and the file must not stay behind the copy, which
 * somebody's flush has promised. */
#include "imaged/qcow2_write_back.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_tables.h"
#include "imaged/qcow2_write_out.h"
#include "imaged/qcow2_zone.h"

struct item {
	uint64_t cluster, entry, in_file;
	uint32_t version;
};

struct batch {
	struct item *items; /* owned; by ascending cluster */
	size_t count;
	uint64_t *tables; /* owned; numbers of the L2 tables, ascending */
	size_t table_count;
	struct run_list dropped; /* what the file named before */
	bool is_announced;
};

static void batch_done(struct batch *batch)
{
	free(batch->items);
	free(batch->tables);
	free(batch->dropped.runs);
}

static int compare_items(const void *left, const void *right)
{
	const struct item *a = left, *b = right;

	return (a->cluster > b->cluster) - (a->cluster < b->cluster);
}

void run_list_add(struct run_list *list, uint64_t first, uint64_t count)
{
	if (list->count > 0) {
		struct run *last = &list->runs[list->count - 1];

		if (last->first + last->count == first) {
			last->count += count;
			return;
		}
	}
	if (list->count == list->capacity) {
		list->capacity = list->capacity ? list->capacity * 2 : 16;
		list->runs = must_realloc(list->runs, list->capacity, sizeof(*list->runs));
	}
	list->runs[list->count++] = (struct run){first, count};
}

static bool is_same_place(const struct qcow2 *image, uint64_t entry, uint64_t other)
{
	struct run a = qcow2_entry_clusters(image, entry), b = qcow2_entry_clusters(image, other);

	return a.first == b.first && a.count == b.count;
}

/* With the lock held. */
static void copy_pending(const struct qcow2 *image, struct batch *batch)
{
	const struct pending *pending = image->pending;

	batch->items = must_calloc(pending->count + 1, sizeof(*batch->items));
	for (uint32_t i = 0; i < PENDING_SLOTS && batch->count < pending->count; i++) {
		const struct pending_slot *slot = &pending->slots[i];

		if (slot->cluster != 0)
			batch->items[batch->count++] = (struct item){slot->cluster - 1, slot->entry,
				slot->in_file, pending_version(pending, slot)};
	}
}

static void find_tables(const struct qcow2 *image, struct batch *batch)
{
	unsigned bits = image->header.cluster_bits - 3;

	batch->tables = must_calloc(batch->count + 1, sizeof(*batch->tables));
	for (size_t i = 0; i < batch->count; i++) {
		uint64_t table = batch->items[i].cluster >> bits;

		if (batch->table_count == 0 || batch->tables[batch->table_count - 1] != table)
			batch->tables[batch->table_count++] = table;
	}
}

/* What the file will no longer name may leak until it is counted lower: the header says where. */
static int announce(struct qcow2 *image, struct batch *batch, struct err *err)
{
	uint64_t first = UINT64_MAX, end = 0;
	int outcome;

	for (size_t i = 0; i < batch->count; i++) {
		struct run run = qcow2_entry_clusters(image, batch->items[i].in_file);

		if (run.count == 0 ||
			is_same_place(image, batch->items[i].entry, batch->items[i].in_file))
			continue;
		if (run.first < first)
			first = run.first;
		if (run.first + run.count > end)
			end = run.first + run.count;
	}
	if (end == 0)
		return 0;
	pthread_mutex_lock(&image->head->lock);
	qcow2_zone_expect_leaks(image, first << image->header.cluster_bits,
		(end - first) << image->header.cluster_bits);
	outcome = qcow2_zone_write_hint(image, NULL, err);
	pthread_mutex_unlock(&image->head->lock);
	batch->is_announced = true;
	return outcome;
}

/* Which entry goes into the file.  Where bytes were put into effect again since the copy, even in the same place, a guest had zeroed
 * the cluster in between: a place that only the slot names was given back then, and may have been anybody's. */
static uint64_t choose_entry(const struct qcow2 *image, const struct item *item, uint64_t before,
	const struct pending_slot *slot)
{
	bool is_same = pending_version(image->pending, slot) == item->version;

	if (is_same || (item->entry & QCOW2_OFFSET_MASK) == 0 ||
		is_same_place(image, item->entry, before))
		return item->entry;
	return QCOW2_ZERO;
}

/* Of one entry of a table. */
struct change {
	struct pending_slot *slot;
	uint64_t before, entry;
};

/* The file has the entry from now on. */
static void settle(struct qcow2 *image, struct batch *batch, const struct change *change)
{
	struct run now = qcow2_entry_clusters(image, change->entry);
	struct run old = qcow2_entry_clusters(image, change->before);

	if (!is_same_place(image, change->entry, change->before)) {
		if (now.count > 0)
			qcow2_zone_mapped_if_known(image, now.first);
		if (old.count > 0)
			run_list_add(&batch->dropped, old.first, old.count);
	}
	pending_in_file(image->pending, change->slot, change->entry);
}

/* Items [first, end) are served by one table, which is our own. */
static int write_table(
	struct qcow2 *image, struct batch *batch, size_t first, size_t end, struct err *err)
{
	uint64_t per_table = image->header.cluster_size / 8;
	uint64_t index = batch->items[first].cluster / per_table;
	uint64_t low = batch->items[first].cluster % per_table;
	uint64_t count = batch->items[end - 1].cluster % per_table - low + 1;
	CLEANUP_FREE uint64_t *entries = must_calloc(count, 8);
	CLEANUP_FREE struct change *changes = must_calloc(end - first, sizeof(*changes));
	const uint64_t *table;

	bug_if(!qcow2_table_is_owned(image, index));
	if (qcow2_l2_table(image, batch->items[first].cluster << image->header.cluster_bits, &table,
		    err) < 0)
		return -1;
	memcpy(entries, table + low, count * 8);
	for (size_t i = first; i < end; i++) {
		const struct item *item = &batch->items[i];
		uint64_t *entry = &entries[item->cluster % per_table - low];
		struct change *change = &changes[i - first];

		change->slot = pending_find(image->pending, item->cluster);
		change->before = *entry;
		change->entry = choose_entry(image, item, *entry, change->slot);
		change->slot->on_its_way = change->entry;
		*entry = change->entry;
	}
	if (qcow2_write_entries(
		    image, image->l1[index] & QCOW2_OFFSET_MASK, low, count, entries, err) < 0)
		return -1;
	for (size_t i = first; i < end; i++)
		settle(image, batch, &changes[i - first]);
	return 0;
}

/* The lock is given up between tables: a guest waits for one small write at most. */
static int write_entries(struct qcow2 *image, struct batch *batch, struct err *err)
{
	unsigned bits = image->header.cluster_bits - 3;
	size_t first = 0;
	int outcome = 0;

	while (first < batch->count && outcome == 0) {
		uint64_t table = batch->items[first].cluster >> bits;
		size_t end = first;

		while (end < batch->count && batch->items[end].cluster >> bits == table)
			end++;
		pthread_mutex_lock(&image->lock);
		if (image->failed)
			outcome = qcow2_say_failed(image, err);
		else
			outcome = write_table(image, batch, first, end, err);
		pthread_mutex_unlock(&image->lock);
		first = end;
	}
	return outcome;
}

/* What was dropped, now that this is durable. */
static void hand_over(struct qcow2 *image, struct batch *batch)
{
	struct qcow2_writes *writes = image->writes;
	size_t left_out = 0;

	pthread_mutex_lock(&image->lock);
	for (size_t i = 0; i < batch->dropped.count; i++) {
		if (writes->forgotten.count < FORGOTTEN_MAX)
			run_list_add(&writes->forgotten, batch->dropped.runs[i].first,
				batch->dropped.runs[i].count);
		else
			left_out++;
	}
	writes->announced += batch->is_announced;
	if (writes->hooks.wake && (batch->is_announced || writes->forgotten.count > 0))
		writes->hooks.wake(writes->hooks.owner);
	pthread_mutex_unlock(&image->lock);
	if (left_out > 0)
		log_warn(
			"%s: %zu runs of clusters that guests gave up leak", image->path, left_out);
}

static int write_back_batch(
	struct qcow2 *image, struct batch *batch, enum write_back how, struct err *err)
{
	bool has_flushed;

	find_tables(image, batch);
	if (announce(image, batch, err) < 0 || qcow2_prepare_listed_tables(image, batch->tables,
						       batch->table_count, &has_flushed, err) < 0)
		return -1;
	/* The bytes behind the entries; and a table's link may become durable after what is in the table. */
	if ((!has_flushed && qcow2_flush(image, err) < 0) || write_entries(image, batch, err) < 0)
		return -1;
	if (how == WRITE_BACK_LAZY && batch->dropped.count == 0)
		return 0;
	return qcow2_flush(image, err);
}

static int run_once(struct qcow2 *image, enum write_back how, struct err *err)
{
	struct qcow2_writes *writes = image->writes;
	struct batch batch = {.items = NULL};
	bool has_unflushed;
	int outcome;

	has_unflushed = atomic_exchange(&writes->has_unflushed, false);
	pthread_mutex_lock(&image->lock);
	copy_pending(image, &batch);
	pthread_mutex_unlock(&image->lock);
	if (batch.count > 0) {
		qsort(batch.items, batch.count, sizeof(*batch.items), compare_items);
		outcome = write_back_batch(image, &batch, how, err);
	} else {
		outcome = how == WRITE_BACK_DURABLE && has_unflushed ? qcow2_flush(image, err) : 0;
	}
	if (outcome < 0)
		batch.dropped.count = 0; /* not known to be forgotten by what is on disk */
	/* Written, but not yet known to be durable. */
	if (outcome < 0 || (how == WRITE_BACK_LAZY && has_unflushed))
		atomic_store(&writes->has_unflushed, true);
	hand_over(image, &batch);
	batch_done(&batch);
	return outcome;
}

static int check_failed(struct qcow2 *image, struct err *err)
{
	bool failed;

	pthread_mutex_lock(&image->lock);
	failed = image->failed;
	pthread_mutex_unlock(&image->lock);
	return failed ? qcow2_say_failed(image, err) : 0;
}

static int take_turn(
	struct qcow2 *image, enum write_back how, uint64_t *ret_served, struct err *err)
{
	struct qcow2_writes *writes = image->writes;
	int outcome;

	*ret_served = writes->asked;
	writes->is_running = true;
	pthread_mutex_unlock(&writes->turn_lock);
	pthread_mutex_lock(&writes->running);
	outcome = run_once(image, how, err);
	pthread_mutex_unlock(&writes->running);
	pthread_mutex_lock(&writes->turn_lock);
	writes->is_running = false;
	pthread_cond_broadcast(&writes->turned);
	return outcome;
}

bool qcow2_write_back_is_due(const struct qcow2 *image)
{
	uint32_t count = image->pending->count;

	return count >= PENDING_NEEDS_WRITE_BACK ||
	       (count >= PENDING_WANTS_WRITE_BACK && qcow2_write_out_is_done(image));
}

/* Everybody who asked before a durable turn began is served by it; who was not served takes a turn himself. */
int qcow2_write_back(struct qcow2 *image, enum write_back how, struct err *err)
{
	struct qcow2_writes *writes = image->writes;
	uint64_t number, served;
	bool is_served;
	int outcome = 0;

	pthread_mutex_lock(&writes->turn_lock);
	/* Whose turn it is makes room for those who only want that. */
	is_served = how == WRITE_BACK_LAZY && writes->is_running;
	number = how == WRITE_BACK_DURABLE ? ++writes->asked : UINT64_MAX;
	while (writes->is_running && writes->done < number) {
		pthread_cond_wait(&writes->turned, &writes->turn_lock);
		if (is_served)
			break;
	}
	if (writes->done < number && !is_served) {
		outcome = take_turn(image, how, &served, err);
		if (outcome == 0 && how == WRITE_BACK_DURABLE)
			writes->done = served;
	}
	pthread_mutex_unlock(&writes->turn_lock);
	return outcome < 0 ? -1 : check_failed(image, err);
}
