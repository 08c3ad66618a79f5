/* SPDX-License-Identifier: Apache-2.0 */
/* Making a zone:
 *
 *   hint names it, space allocated, new refcount blocks (and table) written   flush
 *   counts in old blocks                                                      flush, if new blocks are among the counted
 *   entries of the refcount table, or the header's pointer to a new one       flush, the old table's counts lowered
 *   its clusters are free to use
 *
 * A crash before the end leaves a range that nothing refers to, named by the hint. */
#include "imaged/qcow2_zone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/check.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"
#include "schemas/errors.gen.h"

/* A reservation is not cut into more pieces than this as long as a new zone can be made. */
#define RUNS_WITHOUT_NEED 16
/* So many bytes past a zone's end are named in the hint as well. */
#define NAMED_AHEAD (UINT64_C(4) << 30)

int qcow2_zones_load(struct qcow2 *image, struct err *err)
{
	struct qcow2_zones *zones = must_calloc(1, sizeof(*zones));
	uint64_t cluster = image->header.cluster_size, used = 0;
	struct stat status;
	int outcome;

	pthread_mutex_lock(&image->lock);
	outcome = qcow2_refcounts_end(image, &used, err);
	pthread_mutex_unlock(&image->lock);
	if (outcome == 0 && fstat(image->fd, &status) < 0)
		outcome = err_set_errno(err, errno, "%s: cannot ask for its size", image->path);
	if (outcome == 0) {
		zones->end = ((uint64_t)status.st_size + cluster - 1) / cluster;
		if (zones->end < used)
			zones->end = used;
		if (zones->end > QCOW2_HOST_BYTES_MAX >> image->header.cluster_bits)
			outcome = err_set(err,
				"%s is corrupt: it counts clusters that no table entry can name",
				image->path);
	}
	if (outcome < 0) {
		free(zones);
		return -1;
	}
	zones->begin = zones->floor = zones->end;
	zones->next_bytes = ZONE_BYTES_MIN;
	if (zones->next_bytes < ZONE_CLUSTERS_MIN * cluster)
		zones->next_bytes = ZONE_CLUSTERS_MIN * cluster;
	zones->left_behind = must_calloc(ZONE_WINDOWS_MAX, sizeof(*zones->left_behind));
	zones->left_behind_count = qcow2_head_windows(image, zones->left_behind);
	image->zones = zones;
	return 0;
}

void qcow2_zones_free(struct qcow2_zones *zones)
{
	if (!zones)
		return;
	run_set_done(&zones->free);
	run_set_done(&zones->fresh);
	free(zones->zones);
	free(zones->left_behind);
	free(zones);
}

/* The zone that holds the cluster, or NULL. */
static struct zone *find_zone(const struct qcow2_zones *zones, uint64_t cluster)
{
	size_t low = 0, high = zones->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (zones->zones[middle].end > cluster)
			high = middle;
		else
			low = middle + 1;
	}
	if (low == zones->count || zones->zones[low].first > cluster)
		return NULL;
	return &zones->zones[low];
}

static struct zone *zone_of(const struct qcow2_zones *zones, uint64_t cluster)
{
	struct zone *zone = find_zone(zones, cluster);

	bug_if(!zone);
	return zone;
}

/* Behind all others. */
static void insert_zone(struct qcow2_zones *zones, struct zone zone)
{
	if (zones->count == zones->capacity) {
		zones->capacity = zones->capacity ? zones->capacity * 2 : 8;
		zones->zones = must_realloc(zones->zones, zones->capacity, sizeof(*zones->zones));
	}
	zones->zones[zones->count++] = zone;
}

static void no_longer_outstanding(struct qcow2_zones *zones, uint64_t first, uint64_t count)
{
	while (count > 0) {
		struct zone *zone = zone_of(zones, first);
		uint64_t here = zone->end - first < count ? zone->end - first : count;

		bug_if(zone->outstanding < here);
		zone->outstanding -= here;
		first += here;
		count -= here;
	}
}

void qcow2_zone_mapped(struct qcow2 *image, uint64_t first, uint64_t count)
{
	bug_if(run_set_overlaps(&image->zones->free, first, count) ||
		run_set_overlaps(&image->zones->fresh, first, count));
	no_longer_outstanding(image->zones, first, count);
}

void qcow2_zone_mapped_if_known(struct qcow2 *image, uint64_t cluster)
{
	if (find_zone(image->zones, cluster))
		qcow2_zone_mapped(image, cluster, 1);
}

/* A zone that begins at the cluster or reaches to it: the one before grows, or the one behind, or there is none yet. */
static struct zone *zone_around(struct qcow2_zones *zones, uint64_t first, uint64_t *count)
{
	size_t next = 0;

	while (next < zones->count && zones->zones[next].first <= first)
		next++;
	if (next<zones->count && * count> zones->zones[next].first - first)
		*count = zones->zones[next].first - first;
	if (next > 0) {
		zones->zones[next - 1].end = first + *count;
		return &zones->zones[next - 1];
	}
	if (zones->count == 0)
		insert_zone(zones, (struct zone){.first = first, .end = first + *count});
	zones->zones[0].first = first;
	return &zones->zones[0];
}

void qcow2_zone_take_back(struct qcow2 *image, uint64_t first, uint64_t count)
{
	struct qcow2_zones *zones = image->zones;

	run_set_add(&zones->fresh, first, count);
	while (count > 0) {
		struct zone *zone = find_zone(zones, first);
		uint64_t here = count;

		if (zone && zone->end - first < here)
			here = zone->end - first;
		if (!zone)
			zone = zone_around(zones, first, &here);
		zone->outstanding += here;
		first += here;
		count -= here;
	}
}

void qcow2_zone_shed(struct qcow2 *image, uint64_t first, uint64_t count)
{
	run_set_remove(&image->zones->free, first, count);
	no_longer_outstanding(image->zones, first, count);
}

void qcow2_zone_end_at(struct qcow2 *image, uint64_t end)
{
	struct qcow2_zones *zones = image->zones;

	while (zones->count > 0 && zones->zones[zones->count - 1].first >= end)
		bug_if(zones->zones[--zones->count].outstanding != 0);
	if (zones->count > 0 && zones->zones[zones->count - 1].end > end)
		zones->zones[zones->count - 1].end = end;
	zones->end = end;
}

/* In one run, or in a few large ones. */
static bool can_serve(const struct run_set *set, uint64_t clusters, unsigned runs_max)
{
	struct run largest[RUNS_WITHOUT_NEED];
	uint64_t total = 0;
	size_t count;

	if (run_set_best(set, clusters))
		return true;
	if (set->total < clusters)
		return false;
	count = run_set_largest(
		set, largest, runs_max < RUNS_WITHOUT_NEED ? runs_max : RUNS_WITHOUT_NEED);
	for (size_t i = 0; i < count; i++)
		total += largest[i].count;
	return total >= clusters;
}

bool qcow2_zone_can_serve(
	struct qcow2 *image, uint64_t clusters, unsigned runs_max, enum zone_kind kind)
{
	return can_serve(&image->zones->free, clusters, runs_max) ||
	       (kind == ZONE_FRESH && can_serve(&image->zones->fresh, clusters, runs_max));
}

static uint64_t take(struct run_set *set, uint64_t count, uint64_t *ret_first)
{
	const struct run *best = run_set_best(set, count);
	struct run taken;

	if (best)
		taken = (struct run){best->first, count};
	else if (run_set_largest(set, &taken, 1) == 0)
		return 0;
	run_set_remove(set, taken.first, taken.count);
	*ret_first = taken.first;
	return taken.count;
}

/* Workers can use only what is durable: guests take of that only where nothing else is left. */
uint64_t qcow2_zone_take(
	struct qcow2 *image, uint64_t count, enum zone_kind kind, uint64_t *ret_first)
{
	struct qcow2_zones *zones = image->zones;
	bool fits = kind == ZONE_FRESH &&
		    (run_set_best(&zones->fresh, count) || zones->fresh.total >= zones->free.total);
	uint64_t taken = fits ? take(&zones->fresh, count, ret_first) : 0;

	return taken > 0 ? taken : take(&zones->free, count, ret_first);
}

void qcow2_zone_before_flush(struct qcow2 *image, struct run_set *ret_fresh)
{
	*ret_fresh = (struct run_set){.runs = NULL};
	if (image->zones)
		run_set_copy(&image->zones->fresh, ret_fresh);
}

void qcow2_zone_after_flush(struct qcow2 *image, struct run_set *fresh)
{
	if (image->zones)
		run_set_move(&image->zones->fresh, fresh, &image->zones->free);
	run_set_done(fresh);
}

void qcow2_zone_end_freshness(struct qcow2 *image)
{
	struct run_set all;

	run_set_copy(&image->zones->fresh, &all);
	run_set_move(&image->zones->fresh, &all, &image->zones->free);
	run_set_done(&all);
}

static void add_zone(struct qcow2 *image, uint64_t first, uint64_t end, enum zone_kind kind)
{
	struct qcow2_zones *zones = image->zones;

	insert_zone(zones, (struct zone){.first = first, .end = end, .outstanding = end - first});
	zones->last_clusters = end - first;
	run_set_add(kind == ZONE_FRESH ? &zones->fresh : &zones->free, first, end - first);
}

void qcow2_zone_expect_leaks(struct qcow2 *image, uint64_t offset, uint64_t length)
{
	struct qcow2_zones *zones = image->zones;

	zones->passing[zones->passing_count++] = (struct zone_window){offset, length};
	zones->passing_count =
		zone_windows_join(zones->passing, zones->passing_count, ZONE_WINDOWS_MAX);
	zones->lowering++;
}

void qcow2_zone_leaks_over(struct qcow2 *image)
{
	bug_if(image->zones->lowering == 0);
	image->zones->lowering--;
}

void qcow2_zone_begin_settling(struct qcow2 *image)
{
	struct qcow2_zones *zones = image->zones;

	if (zones->lowering == 0 && zones->settling_count == 0) {
		memcpy(zones->settling, zones->passing, sizeof(zones->settling));
		zones->settling_count = zones->passing_count;
		zones->passing_count = 0;
	}
	pthread_mutex_lock(&image->lock);
	for (size_t i = 0; i < zones->count; i++)
		zones->zones[i].is_settling = zones->zones[i].outstanding == 0;
	pthread_mutex_unlock(&image->lock);
}

void qcow2_zone_settled(struct qcow2 *image)
{
	struct qcow2_zones *zones = image->zones;
	size_t kept = 0;

	zones->settling_count = 0;
	pthread_mutex_lock(&image->lock);
	for (size_t i = 0; i < zones->count; i++) {
		if (!zones->zones[i].is_settling)
			zones->zones[kept++] = zones->zones[i];
	}
	zones->count = kept;
	pthread_mutex_unlock(&image->lock);
}

int qcow2_zone_write_hint(struct qcow2 *image, const struct zone_window *more, struct err *err)
{
	struct qcow2_zones *zones = image->zones;
	unsigned bits = image->header.cluster_bits;
	struct zone_window *windows;
	unsigned count = 0;
	int outcome;

	pthread_mutex_lock(&image->lock);
	windows = must_calloc(zones->count + zones->left_behind_count + 2 * ZONE_WINDOWS_MAX + 2,
		sizeof(*windows));
	for (size_t i = 0; i < zones->count; i++)
		windows[count++] = (struct zone_window){zones->zones[i].first << bits,
			(zones->zones[i].end - zones->zones[i].first) << bits};
	if (zones->named_until > zones->end)
		windows[count++] = (struct zone_window){
			zones->end << bits, (zones->named_until - zones->end) << bits};
	pthread_mutex_unlock(&image->lock);
	for (unsigned i = 0; i < zones->left_behind_count; i++)
		windows[count++] = zones->left_behind[i];
	for (unsigned i = 0; i < zones->passing_count; i++)
		windows[count++] = zones->passing[i];
	for (unsigned i = 0; i < zones->settling_count; i++)
		windows[count++] = zones->settling[i];
	if (more)
		windows[count++] = *more;
	outcome = qcow2_head_set_windows(image, windows, count, err);
	free(windows);
	return outcome;
}

/* How large the zone should be, in clusters: what was asked for, at least the next size, at most an eighth of what is free. */
static uint64_t clusters_for_zone(struct qcow2 *image, uint64_t want)
{
	uint64_t bytes = image->zones->next_bytes, wanted = want << image->header.cluster_bits;
	struct statvfs file_system;

	while (bytes < wanted && bytes < ZONE_BYTES_MAX)
		bytes *= 2;
	if (bytes > ZONE_BYTES_MAX)
		bytes = ZONE_BYTES_MAX;
	if (fstatvfs(image->fd, &file_system) == 0) {
		uint64_t share = (uint64_t)file_system.f_bavail * file_system.f_frsize / 8;

		if (bytes > share)
			bytes = share;
	}
	return bytes >> image->header.cluster_bits ? bytes >> image->header.cluster_bits : 1;
}

/* Space for [first, end): allocated where the file system can, else only the file's length. */
static int extend_file(struct qcow2 *image, uint64_t first, uint64_t end)
{
	off_t from = (off_t)(first << image->header.cluster_bits);
	off_t to = (off_t)(end << image->header.cluster_bits);

	if (fallocate(image->fd, 0, from, to - from) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -1;
	return ftruncate(image->fd, to);
}

/* What a failed attempt added goes again; the file is no shorter than before. */
static void cut_back(struct qcow2 *image, uint64_t size_before)
{
	struct stat status;

	if (fstat(image->fd, &status) == 0 && (uint64_t)status.st_size > size_before &&
		ftruncate(image->fd, (off_t)size_before) < 0)
		return; /* longer than needed does no harm */
}

static int no_space(struct qcow2 *image, struct err *err)
{
	err_set_kind(err, ERROR_CLASS_NO_SPACE,
		"no room for another cluster in %s: No space left on device", image->path);
	if (err)
		err->number = ENOSPC;
	return -1;
}

/* Plans the range and gets space for it, smaller where the file system is short. */
static int find_room(
	struct qcow2 *image, uint64_t want, struct refcount_growth *growth, struct err *err)
{
	uint64_t clusters = clusters_for_zone(image, want);
	uint64_t size_before = image->zones->end << image->header.cluster_bits;

	for (;; clusters /= 2) {
		struct zone_window window;
		int outcome;

		if (clusters == 0)
			return no_space(image, err);
		pthread_mutex_lock(&image->lock);
		outcome = qcow2_refcount_plan(
			image, image->zones->end, clusters, NULL, 0, growth, err);
		pthread_mutex_unlock(&image->lock);
		if (outcome < 0)
			return -1;
		window.offset = growth->first << image->header.cluster_bits;
		window.length =
			((growth->end - growth->first) << image->header.cluster_bits) + NAMED_AHEAD;
		if (growth->table_clusters > 0) {
			qcow2_zone_expect_leaks(image, image->header.refcount_table_offset,
				image->header.refcount_table_clusters * image->header.cluster_size);
			qcow2_zone_leaks_over(image); /* nothing settles before this zone is made */
		}
		if (qcow2_zone_write_hint(image, &window, err) < 0)
			return -1;
		if (extend_file(image, growth->first, growth->end) == 0)
			return 0;
		if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG)
			return err_set_errno(err, errno, "%s: cannot allocate space", image->path);
		cut_back(image, size_before);
	}
}

static bool has_failed(struct qcow2 *image)
{
	bool failed;

	pthread_mutex_lock(&image->lock);
	failed = image->failed;
	pthread_mutex_unlock(&image->lock);
	return failed;
}

static void zone_is_made(struct qcow2 *image, const struct refcount_growth *growth, uint64_t want,
	enum zone_kind kind)
{
	struct qcow2_zones *zones = image->zones;
	uint64_t most = ZONE_BYTES_MAX >> image->header.cluster_bits;

	zones->end = growth->end;
	add_zone(image, growth->usable, growth->end, kind);
	zones->is_tight = growth->end - growth->usable < (want < most ? want : most);
	if (zones->next_bytes < ZONE_BYTES_MAX)
		zones->next_bytes *= 2;
}

/* One that needs no flush, where no block of counts is missing and the hint names the place already. 1: it was made; 0: it can't be; -1
 * and err: the image has failed. */
static int make_fresh(struct qcow2 *image, uint64_t want, struct err *err)
{
	struct qcow2_zones *zones = image->zones;
	uint64_t clusters = clusters_for_zone(image, want), first = zones->end;
	struct refcount_growth growth;
	int r;

	pthread_mutex_lock(&image->lock);
	r = qcow2_refcount_plan(image, first, clusters, NULL, 0, &growth, NULL);
	pthread_mutex_unlock(&image->lock);
	if (r < 0 || growth.usable != first || growth.end > zones->named_until)
		return 0;
	if (extend_file(image, first, growth.end) < 0) {
		cut_back(image, first << image->header.cluster_bits);
		return 0;
	}
	pthread_mutex_lock(&image->lock);
	r = image->failed ? -1 : qcow2_refcount_write(image, first, growth.end - first, 1, err);
	if (r == 0)
		zone_is_made(image, &growth, want, ZONE_FRESH);
	pthread_mutex_unlock(&image->lock);
	return r < 0 ? -1 : 1;
}

static int make_durable(struct qcow2 *image, uint64_t want, struct err *err)
{
	struct qcow2_zones *zones = image->zones;
	struct refcount_growth growth;

	qcow2_zone_begin_settling(image);
	if (find_room(image, want, &growth, err) < 0)
		return -1;
	if (qcow2_refcount_grow(image, &growth, err) < 0) {
		if (!has_failed(image))
			cut_back(image, zones->end << image->header.cluster_bits);
		return -1;
	}
	qcow2_zone_settled(image);
	pthread_mutex_lock(&image->lock);
	zones->named_until = growth.end + (NAMED_AHEAD >> image->header.cluster_bits);
	zone_is_made(image, &growth, want, ZONE_DURABLE);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

static int make_locked(struct qcow2 *image, uint64_t want, enum zone_kind kind, struct err *err)
{
	int r = 0;

	if (has_failed(image))
		return err_set_errno(
			err, EIO, "%s has failed and must be opened anew", image->path);
	if (kind == ZONE_FRESH)
		r = make_fresh(image, want, err);
	return r == 0 ? make_durable(image, want, err) : r < 0 ? -1 : 0;
}

int qcow2_zone_make(struct qcow2 *image, uint64_t want, enum zone_kind kind, struct err *err)
{
	bool is_there;
	int outcome = 0;

	pthread_mutex_lock(&image->head->lock);
	pthread_mutex_lock(&image->lock); /* somebody else may have made one meanwhile */
	is_there = run_set_best(&image->zones->free, want) != NULL ||
		   (kind == ZONE_FRESH && run_set_best(&image->zones->fresh, want) != NULL);
	pthread_mutex_unlock(&image->lock);
	if (!is_there)
		outcome = make_locked(image, want, kind, err);
	pthread_mutex_unlock(&image->head->lock);
	return outcome;
}

/* The size of the next zone where it is time for it, else 0. */
static uint64_t clusters_wanted(struct qcow2 *image)
{
	const struct qcow2_zones *zones = image->zones;
	uint64_t wanted = 0;

	pthread_mutex_lock(&image->lock);
	if (!image->failed && !zones->is_tight &&
		zones->free.total + zones->fresh.total < zones->last_clusters / 2)
		wanted = zones->last_clusters;
	pthread_mutex_unlock(&image->lock);
	return wanted;
}

bool qcow2_zone_wanted(struct qcow2 *image)
{
	return clusters_wanted(image) > 0;
}

int qcow2_zone_make_ready(struct qcow2 *image, enum zone_kind kind, struct err *err)
{
	uint64_t wanted = clusters_wanted(image);

	if (wanted == 0 || qcow2_zone_make(image, wanted, kind, err) == 0)
		return 0;
	if (has_failed(image))
		return -1;
	pthread_mutex_lock(&image->lock);
	image->zones->is_tight = true;
	pthread_mutex_unlock(&image->lock);
	return 0;
}
