/* SPDX-License-Identifier: Apache-2.0 */
/* The everyday part of the write side: making an image writable, handing clusters out, pointing L2 entries at them, flushing. */
#include "imaged/qcow2_update.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/qcow2_bitmaps.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_repair.h"
#include "imaged/qcow2_tables.h"
#include "imaged/qcow2_vet.h"
#include "imaged/qcow2_write_out.h"
#include "imaged/qcow2_zone.h"
#include "schemas/errors.gen.h"

static int check_file(struct qcow2 *image, struct err *err)
{
	struct stat status;
	int flags = fcntl(image->fd, F_GETFL);

	if (flags < 0 || fstat(image->fd, &status) < 0)
		return err_set_errno(err, errno, "%s: cannot ask for its state", image->path);
	if ((flags & O_ACCMODE) != O_RDWR)
		return err_set_errno(err, EBADF, "%s is open for reading only", image->path);
	if (!S_ISREG(status.st_mode))
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"%s is no regular file: a qcow2 image there cannot grow", image->path);
	return 0;
}

static int load_all(struct qcow2 *image, struct err *err)
{
	if (qcow2_refcounts_load(image, err) < 0 || qcow2_head_load(image, err) < 0)
		return -1;
	pthread_mutex_lock(&image->head->lock);
	/* "may only write to an image with unknown auto-clear features if it clears the respective bits first" */
	if (qcow2_bitmaps_before_writing(image, err) < 0 ||
		((image->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY) &&
			qcow2_repair(image, err) < 0)) {
		pthread_mutex_unlock(&image->head->lock);
		return -1;
	}
	pthread_mutex_unlock(&image->head->lock);
	qcow2_tables_load(image);
	if (qcow2_zones_load(image, err) < 0)
		return -1;
	return qcow2_vet_load(image, err);
}

int qcow2_make_writable(struct qcow2 *image, struct err *err)
{
	bug_if(image->writable);
	if (check_file(image, err) < 0)
		return -1;
	if (load_all(image, err) < 0) {
		qcow2_stop_writing(image);
		return -1;
	}
	image->writable = true;
	return 0;
}

void qcow2_stop_writing(struct qcow2 *image)
{
	qcow2_writes_end(image);
	qcow2_vet_free(image->vet);
	image->vet = NULL;
	qcow2_zones_free(image->zones);
	qcow2_tables_free(image->tables);
	qcow2_head_free(image->head);
	qcow2_refcounts_free(image->refcounts);
	image->zones = NULL;
	image->tables = NULL;
	image->head = NULL;
	image->refcounts = NULL;
	image->writable = false;
}

static int flush_locked(struct qcow2 *image, struct err *err)
{
	struct run_set fresh;
	bool failed;
	int number;

	pthread_mutex_lock(&image->lock);
	failed = image->failed;
	if (!failed) {
		qcow2_zone_before_flush(image, &fresh);
		if (image->writes)
			qcow2_write_out_is_flushed(image);
	}
	pthread_mutex_unlock(&image->lock);
	if (failed)
		return qcow2_say_failed(image, err);
	number = fdatasync(image->fd) < 0 ? errno : 0;
	pthread_mutex_lock(&image->lock);
	if (number == 0)
		qcow2_zone_after_flush(image, &fresh);
	else
		qcow2_fail(image, number, "cannot flush", err);
	pthread_mutex_unlock(&image->lock);
	if (number != 0)
		run_set_done(&fresh);
	return number == 0 ? 0 : -1;
}

/* The kernel tells a descriptor of a failed write-back once: two flushes at a time could both be wrong about it. */
int qcow2_flush(struct qcow2 *image, struct err *err)
{
	int outcome;

	pthread_mutex_lock(&image->flush_lock);
	outcome = flush_locked(image, err);
	pthread_mutex_unlock(&image->flush_lock);
	return outcome;
}

static unsigned take_runs(struct qcow2 *image, uint64_t clusters, enum zone_kind kind,
	struct cluster_run *ret_runs, unsigned runs_max)
{
	unsigned bits = image->header.cluster_bits, count = 0;

	while (clusters > 0 && count < runs_max) {
		uint64_t first, taken = qcow2_zone_take(image, clusters, kind, &first);

		if (taken == 0)
			break;
		ret_runs[count++] = (struct cluster_run){first << bits, taken << bits};
		clusters -= taken;
	}
	return count;
}

/* What a guest's zone has left is durable after a flush, in which no guest waits for anything: a new zone would need two, with
 * the structure lock held.  Taken before, or guests would take it meanwhile. */
static int take_fresh_and_flush(struct qcow2 *image, uint64_t clusters,
	struct cluster_run *ret_runs, unsigned runs_max, unsigned *ret_count, struct err *err)
{
	pthread_mutex_lock(&image->lock);
	if (qcow2_zone_can_serve(image, clusters, runs_max, ZONE_FRESH))
		*ret_count = take_runs(image, clusters, ZONE_FRESH, ret_runs, runs_max);
	pthread_mutex_unlock(&image->lock);
	return *ret_count > 0 ? qcow2_flush(image, err) : 0;
}

static int take_or_make(struct qcow2 *image, uint64_t clusters, enum zone_kind kind,
	struct cluster_run *ret_runs, unsigned runs_max, unsigned *ret_count, struct err *err)
{
	bool was_made = false, is_full = false;

	for (;;) {
		unsigned count = 0;
		bool failed;

		pthread_mutex_lock(&image->lock);
		failed = image->failed;
		/* A new zone may be smaller than what is asked for: what there is then is given. */
		if (!failed && (was_made || qcow2_zone_can_serve(image, clusters, runs_max, kind)))
			count = take_runs(image, clusters, kind, ret_runs, runs_max);
		pthread_mutex_unlock(&image->lock);
		if (failed)
			return qcow2_say_failed(image, err);
		*ret_count = count;
		if (count == 0 && kind == ZONE_DURABLE &&
			take_fresh_and_flush(image, clusters, ret_runs, runs_max, ret_count, err) <
				0)
			return -1;
		if (*ret_count > 0)
			return 0;
		if (is_full)
			return -1;
		if (qcow2_zone_make(image, clusters, kind, err) < 0) {
			if (err->number != ENOSPC)
				return -1;
			is_full = true;
		}
		was_made = true;
	}
}

int qcow2_reserve(struct qcow2 *image, uint64_t bytes, struct cluster_run *ret_runs,
	unsigned runs_max, unsigned *ret_count, struct err *err)
{
	uint64_t clusters = bytes >> image->header.cluster_bits;
	struct err why;
	unsigned count = 0;

	bug_if(clusters == 0 || runs_max == 0);
	if (take_or_make(image, clusters, ZONE_DURABLE, ret_runs, runs_max, &count, &why) == 0) {
		if (qcow2_zone_make_ready(image, ZONE_DURABLE, &why) == 0) {
			*ret_count = count;
			return 0;
		}
		for (unsigned i = 0; i < count; i++)
			qcow2_release(image, ret_runs[i].offset, ret_runs[i].length);
	}
	if (err)
		*err = why;
	return -1;
}

int qcow2_reserve_fresh(struct qcow2 *image, uint64_t bytes, struct cluster_run *ret_runs,
	unsigned runs_max, unsigned *ret_count, struct err *err)
{
	uint64_t clusters = bytes >> image->header.cluster_bits;

	bug_if(clusters == 0 || runs_max == 0);
	return take_or_make(image, clusters, ZONE_FRESH, ret_runs, runs_max, ret_count, err);
}

void qcow2_release(struct qcow2 *image, uint64_t offset, uint64_t length)
{
	unsigned bits = image->header.cluster_bits;

	pthread_mutex_lock(&image->lock);
	run_set_add(&image->zones->free, offset >> bits, length >> bits);
	pthread_mutex_unlock(&image->lock);
}

void qcow2_release_fresh(struct qcow2 *image, uint64_t offset, uint64_t length)
{
	unsigned bits = image->header.cluster_bits;

	pthread_mutex_lock(&image->lock);
	run_set_add(&image->zones->fresh, offset >> bits, length >> bits);
	pthread_mutex_unlock(&image->lock);
}

/* What a call to map wants. */
struct mapping {
	uint64_t offset, length; /* guest */
	bool is_data;
	uint64_t host; /* data: where the first cluster of the range is */
	qcow2_skip *skip;
	void *owner;
	unsigned char *bitmap;
	uint64_t mapped; /* bytes */
};

/* The entry that cluster number `i` of the range gets; 0: it stays as it is. */
static uint64_t new_entry(
	const struct qcow2 *image, const struct mapping *mapping, uint64_t i, uint64_t old)
{
	uint64_t guest = mapping->offset + (i << image->header.cluster_bits);

	if (old & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED | QCOW2_ZERO))
		return 0;
	if (qcow2_write_is_under_way(image, guest >> image->header.cluster_bits))
		return 0;
	if (mapping->skip && mapping->skip(mapping->owner, guest))
		return 0;
	if (!mapping->is_data)
		return QCOW2_ZERO;
	return (mapping->host + (i << image->header.cluster_bits)) | QCOW2_COPIED;
}

static void note_mapped(struct qcow2 *image, struct mapping *mapping, uint64_t i)
{
	mapping->mapped += image->header.cluster_size;
	if (mapping->bitmap)
		mapping->bitmap[i / 8] |= (unsigned char)(1U << (i % 8));
	if (mapping->is_data)
		qcow2_zone_mapped(image, (mapping->host >> image->header.cluster_bits) + i, 1);
}

int qcow2_write_entries(struct qcow2 *image, uint64_t table_offset, uint64_t first, uint64_t count,
	uint64_t *entries, struct err *err)
{
	qcow2_l2_changed(image, table_offset, (unsigned)first, (unsigned)count, entries);
	for (uint64_t i = 0; i < count; i++)
		entries[i] = htobe64(entries[i]);
	if (pwrite_full(image->fd, entries, count * 8, table_offset + first * 8) < 0) {
		qcow2_l2_forget(image, table_offset);
		return qcow2_fail(image, errno, "cannot write an L2 table", err);
	}
	return 0;
}

/* Clusters [from, to) of the range, all served by one table: one write from the first entry that changes to the last. */
static int map_in_table(
	struct qcow2 *image, struct mapping *mapping, uint64_t from, uint64_t to, struct err *err)
{
	unsigned bits = image->header.cluster_bits;
	uint64_t guest = mapping->offset + (from << bits);
	uint64_t index = guest >> (bits * 2 - 3);
	uint64_t slot = (guest >> bits) % (image->header.cluster_size / 8);
	uint64_t changed_first = UINT64_MAX, changed_end = 0;
	CLEANUP_FREE uint64_t *entries = must_calloc(to - from, 8);
	const uint64_t *table;

	if (!qcow2_table_is_owned(image, index))
		return err_set(err, "%s: no L2 table was prepared at %llu", image->path,
			(unsigned long long)guest);
	if (qcow2_l2_table(image, guest, &table, err) < 0)
		return -1;
	memcpy(entries, table + slot, (to - from) * 8);
	for (uint64_t i = from; i < to; i++) {
		uint64_t entry = new_entry(image, mapping, i, entries[i - from]);

		if (entry == 0)
			continue;
		entries[i - from] = entry;
		note_mapped(image, mapping, i);
		if (changed_first == UINT64_MAX)
			changed_first = i;
		changed_end = i + 1;
	}
	if (changed_end == 0)
		return 0;
	return qcow2_write_entries(image, image->l1[index] & QCOW2_OFFSET_MASK,
		slot + changed_first - from, changed_end - changed_first,
		entries + (changed_first - from), err);
}

static int map_locked(struct qcow2 *image, struct mapping *mapping, struct err *err)
{
	unsigned bits = image->header.cluster_bits;
	uint64_t per_table = image->header.cluster_size / 8;
	uint64_t first = mapping->offset >> bits;
	uint64_t count = (mapping->length + image->header.cluster_size - 1) >> bits;

	bug_if(mapping->offset > image->header.disk_size ||
		mapping->length >
			image->header.disk_size - mapping->offset + image->header.cluster_size);
	if (image->failed)
		return qcow2_say_failed(image, err);
	for (uint64_t i = 0; i < count;) {
		uint64_t end = i + per_table - (first + i) % per_table;

		if (end > count)
			end = count;
		if (map_in_table(image, mapping, i, end, err) < 0)
			return -1;
		i = end;
	}
	return 0;
}

int qcow2_map_clusters(struct qcow2 *image, uint64_t offset, uint64_t length, uint64_t host_offset,
	qcow2_skip *skip, void *owner, uint64_t *ret_mapped, unsigned char *mapped_bitmap,
	struct err *err)
{
	struct mapping mapping = {.offset = offset,
		.length = length,
		.is_data = true,
		.host = host_offset,
		.skip = skip,
		.owner = owner,
		.bitmap = mapped_bitmap};
	int outcome;

	if (mapped_bitmap)
		memset(mapped_bitmap, 0,
			((length + image->header.cluster_size - 1) / image->header.cluster_size +
				7) /
				8);
	pthread_mutex_lock(&image->lock);
	outcome = map_locked(image, &mapping, err);
	pthread_mutex_unlock(&image->lock);
	if (outcome == 0)
		*ret_mapped = mapping.mapped;
	return outcome;
}

int qcow2_map_zeroes(struct qcow2 *image, uint64_t offset, uint64_t length, qcow2_skip *skip,
	void *owner, uint64_t *ret_mapped, struct err *err)
{
	struct mapping mapping = {.offset = offset, .length = length, .skip = skip, .owner = owner};
	int outcome;

	if (image->header.version < 3)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"%s is of qcow2 version 2, which has no zero clusters", image->path);
	pthread_mutex_lock(&image->lock);
	outcome = map_locked(image, &mapping, err);
	pthread_mutex_unlock(&image->lock);
	if (outcome == 0)
		*ret_mapped = mapping.mapped;
	return outcome;
}
