/* SPDX-License-Identifier: Apache-2.0 */
/* What zones there are, which of their clusters are free, and what the hint says about them. */
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
	pthread_mutex_init(&zones->end_lock, NULL);
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
	pthread_mutex_destroy(&zones->end_lock);
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

static void insert_zone(struct qcow2_zones *zones, struct zone zone)
{
	size_t at = zones->count;

	if (zones->count == zones->capacity) {
		zones->capacity = zones->capacity ? zones->capacity * 2 : 8;
		zones->zones = must_realloc(zones->zones, zones->capacity, sizeof(*zones->zones));
	}
	while (at > 0 && zones->zones[at - 1].first > zone.first)
		at--;
	memmove(&zones->zones[at + 1], &zones->zones[at],
		(zones->count - at) * sizeof(*zones->zones));
	zones->zones[at] = zone;
	zones->count++;
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

void qcow2_zone_add(struct qcow2 *image, uint64_t first, uint64_t end, enum zone_kind kind)
{
	struct qcow2_zones *zones = image->zones;

	insert_zone(zones, (struct zone){.first = first, .end = end, .outstanding = end - first});
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
