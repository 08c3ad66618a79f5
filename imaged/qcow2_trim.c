/* SPDX-License-Identifier: Apache-2.0 */
/* Gives back what was never used: free space of the zones, and leaks that the header's hint names from an earlier life.
 *
 *   counts lowered     flush     file cut, holes punched; hint shortened or gone     flush
 *
 * What is freed here was never referred to on disk since it was counted, so lowering needs no flush before it.  Leaks are
 * found by counting references: a cluster that somebody refers to is left alone, whatever the hint says. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "common/log.h"
#include "imaged/qcow2_counts.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_tables.h"
#include "imaged/qcow2_update.h"
#include "imaged/qcow2_walk.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/qcow2_zone.h"

/* Clusters whose counts this trim made 0, and whose space goes when that is durable. */
struct freed {
	struct run_set runs;
	bool is_changed;
};

/* The entry of a plain cluster has a flag that goes with its count; compressed ones have none, and share clusters. */
static bool must_keep_count(const struct cluster_count *cluster)
{
	return cluster->is_active && cluster->kind != REFERENCE_COMPRESSED;
}

static uint64_t refcount_table(struct qcow2 *image)
{
	uint64_t offset;

	pthread_mutex_lock(&image->lock);
	offset = image->header.refcount_table_offset;
	pthread_mutex_unlock(&image->lock);
	return offset;
}

#define HAS_MOVED 1

/* Lowers what is counted higher than it is used.  A plain cluster of the active disk keeps its count.  0, HAS_MOVED: since the
 * walk began the refcount table was replaced, or -1 and err. */
static int lower_leaks(struct qcow2 *image, const struct reference_counts *counts, uint64_t table,
	struct freed *freed, struct err *err)
{
	int outcome = 0;

	pthread_mutex_lock(&image->lock);
	if (image->header.refcount_table_offset != table)
		outcome = HAS_MOVED;
	for (uint64_t i = 0; i < counts->count && outcome == 0; i++) {
		const struct cluster_count *cluster = &counts->clusters[i];
		uint64_t on_disk;

		outcome = qcow2_refcount_read(image, counts->first + i, &on_disk, err);
		/* A hint is a stranger's bytes: what it names may be damaged, and must not be cut off then. */
		if (outcome == 0 && on_disk < cluster->count)
			outcome = err_set(err,
				"%s is corrupt: cluster %llu has %u users and is counted %llu times",
				image->path, (unsigned long long)(counts->first + i),
				cluster->count, (unsigned long long)on_disk);
		if (outcome < 0 || on_disk == cluster->count || must_keep_count(cluster))
			continue;
		outcome = qcow2_refcount_write(image, counts->first + i, 1, cluster->count, err);
		freed->is_changed = true;
		if (outcome == 0 && cluster->count == 0)
			run_set_add(&freed->runs, counts->first + i, 1);
	}
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

/* Space is made for guests and workers meanwhile, and what is old by then may be in the window: a refcount table that was
 * replaced.  Where it lies when the walk begins is durable then, and is so still when counts are lowered. */
static int reclaim_clusters(struct qcow2 *image, struct reference_counts *counts, uint64_t first,
	uint64_t count, struct freed *freed, struct err *err)
{
	int r;

	do {
		uint64_t table = refcount_table(image);

		/* What another program wrote last may not be durable either, and the walk sees it. */
		if (qcow2_flush(image, err) < 0 ||
			reference_counts_walk(counts, image, first, count, err) < 0)
			return -1;
		r = lower_leaks(image, counts, table, freed, err);
	} while (r == HAS_MOVED);
	return r;
}

static int reclaim_window(struct qcow2 *image, struct reference_counts *counts,
	const struct zone_window *window, struct freed *freed, struct err *err)
{
	unsigned bits = image->header.cluster_bits;
	uint64_t cluster = image->header.cluster_size;
	uint64_t first = window->offset >> bits;
	uint64_t end = (window->offset + window->length + cluster - 1) >> bits;

	/* What lies behind is of this life, or nothing. */
	if (end > image->zones->begin)
		end = image->zones->begin;
	while (first < end) {
		uint64_t count = end - first < COUNTS_WINDOW ? end - first : COUNTS_WINDOW;

		if (reclaim_clusters(image, counts, first, count, freed, err) < 0)
			return -1;
		first += count;
	}
	return 0;
}

/* References that we cannot see: then a cluster without a reference is no leak. */
static bool sees_all_references(const struct qcow2 *image)
{
	const struct qcow2_header *header = &image->header;

	return !header->has_unknown_extensions && !header->has_encryption_header &&
	       (!header->has_bitmaps || (header->autoclear & QCOW2_AUTOCLEAR_BITMAPS));
}

/* With the tables' lock held: no table is copied meanwhile, which would change counts that are being compared. */
static int reclaim(struct qcow2 *image, struct freed *freed, struct err *err)
{
	struct qcow2_zones *zones = image->zones;
	struct reference_counts counts = {.clusters = NULL};
	int outcome = 0;

	for (unsigned i = 0; i < zones->left_behind_count && outcome == 0; i++)
		outcome = reclaim_window(image, &counts, &zones->left_behind[i], freed, err);
	reference_counts_done(&counts);
	if (outcome < 0)
		return -1;
	pthread_mutex_lock(&image->head->lock);
	for (unsigned i = 0; i < zones->left_behind_count; i++) {
		uint64_t first = zones->left_behind[i].offset >> image->header.cluster_bits;
		uint64_t end = zones->left_behind[i].offset + zones->left_behind[i].length;

		/* The end of the file was named: so far it may be cut. */
		if (end >> image->header.cluster_bits >= zones->begin && first < zones->floor)
			zones->floor = first;
	}
	zones->left_behind_count = 0;
	pthread_mutex_unlock(&image->head->lock);
	return 0;
}

/* All that is free leaves its zone. */
static int shed_free(struct qcow2 *image, struct freed *freed, struct err *err)
{
	struct run_set *set = &image->zones->free;
	struct run_set shed = {.runs = NULL};
	int outcome;

	/* From here on nobody moves the end: there are no fresh zones, and the structure lock is held. */
	pthread_mutex_lock(&image->zones->end_lock);
	pthread_mutex_lock(&image->lock);
	image->zones->named_until = 0;
	pthread_mutex_unlock(&image->zones->end_lock);
	qcow2_zone_end_freshness(image);
	freed->is_changed |= set->count > 0;
	while (set->count > 0) {
		struct run run = set->runs[set->count - 1];

		qcow2_zone_shed(image, run.first, run.count);
		run_set_add(&shed, run.first, run.count);
		run_set_add(&freed->runs, run.first, run.count);
	}
	outcome = qcow2_refcount_write_runs(image, shed.runs, shed.count, 0, err);
	image->zones->is_tight = false;
	pthread_mutex_unlock(&image->lock);
	run_set_done(&shed);
	return outcome;
}

/* The file's end goes down to the last cluster in use, but not into what was there before and is not known to be ours. */
static int cut_file(struct qcow2 *image, struct err *err)
{
	struct qcow2_zones *zones = image->zones;
	struct stat status;
	uint64_t end, bytes;
	int outcome;

	pthread_mutex_lock(&image->lock);
	outcome = qcow2_refcounts_end(image, &end, err);
	if (outcome == 0) {
		if (end < zones->floor)
			end = zones->floor;
		bytes = end << image->header.cluster_bits;
		if (fstat(image->fd, &status) < 0 ||
			((uint64_t)status.st_size > bytes &&
				ftruncate(image->fd, (off_t)bytes) < 0))
			outcome = err_set_errno(err, errno, "%s: cannot cut its end", image->path);
		else if ((uint64_t)status.st_size > bytes)
			image->file_size = bytes;
	}
	if (outcome == 0 && end < zones->end)
		qcow2_zone_end_at(image, end);
	pthread_mutex_unlock(&image->lock);
	return outcome;
}

/* Space within the file; a file system without holes keeps it, which does no harm. */
static void punch_holes(struct qcow2 *image, const struct run_set *runs)
{
	unsigned bits = image->header.cluster_bits;

	for (size_t i = 0; i < runs->count && runs->runs[i].first < image->zones->end; i++) {
		if (fallocate(image->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    (off_t)(runs->runs[i].first << bits),
			    (off_t)(runs->runs[i].count << bits)) < 0)
			return;
	}
}

static int trim_locked(struct qcow2 *image, struct freed *freed, struct err *err)
{
	if (shed_free(image, freed, err) < 0)
		return -1;
	if (!freed->is_changed && image->head->hint_at == 0)
		return 0;
	qcow2_zone_begin_settling(image);
	if (qcow2_flush(image, err) < 0)
		return -1;
	qcow2_zone_settled(image);
	if (cut_file(image, err) < 0)
		return -1;
	punch_holes(image, &freed->runs);
	if (qcow2_zone_write_hint(image, NULL, err) < 0)
		return -1;
	return qcow2_flush(image, err);
}

static int trim(struct qcow2 *image, bool may_reclaim, struct err *err)
{
	struct freed freed = {.is_changed = false};
	struct err why;
	int outcome = 0;

	pthread_mutex_lock(&image->tables->lock);
	if (may_reclaim && image->zones->left_behind_count > 0 && sees_all_references(image) &&
		reclaim(image, &freed, &why) < 0) {
		if (image->failed) {
			if (err)
				*err = why;
			outcome = -1;
		} else {
			log_warn("leaks of an earlier crash stay for now: %s", why.text);
		}
	}
	if (outcome == 0) {
		pthread_mutex_lock(&image->head->lock);
		outcome = trim_locked(image, &freed, err);
		pthread_mutex_unlock(&image->head->lock);
	}
	pthread_mutex_unlock(&image->tables->lock);
	run_set_done(&freed.runs);
	return outcome;
}

int qcow2_trim(struct qcow2 *image, bool may_reclaim, struct err *err)
{
	int outcome;

	bug_if(!image->writable);
	/* What a guest's write has forgotten is counted lower first: reclaiming would do it a second time. */
	if (image->writes && qcow2_write_back_hold(image, err) < 0)
		return -1;
	outcome = trim(image, may_reclaim, err);
	if (image->writes)
		qcow2_write_back_release(image);
	return outcome;
}
