/* SPDX-License-Identifier: Apache-2.0 */
/* Which way a write goes is decided by the entry in effect:
 *
 *   plain, and ours alone                        in place
 *   allocated, but read as zeroes, ours alone    its cluster is written whole, the entry loses its mark
 *   nothing, zeroes, compressed, shared          a new cluster
 *
 * "Ours alone": counted once.  The entry's flag says so where no internal snapshot exists; else the count itself is asked. */
#include "imaged/qcow2_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_vet.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/qcow2_write_out.h"
#include "imaged/qcow2_zone.h"

void qcow2_writes_begin(
	struct qcow2 *image, struct pending_slot *slots, const struct write_hooks *hooks)
{
	struct qcow2_writes *writes = must_calloc(1, sizeof(*writes));

	bug_if(image->writes || !image->writable);
	pthread_cond_init(&writes->released, NULL);
	pthread_mutex_init(&writes->turn_lock, NULL);
	pthread_cond_init(&writes->turned, NULL);
	pthread_mutex_init(&writes->running, NULL);
	pthread_mutex_init(&writes->forgetting, NULL);
	/* What an earlier process was told may not be durable. */
	atomic_init(&writes->has_unflushed, true);
	writes->hooks = *hooks;
	pthread_mutex_lock(&image->lock);
	image->pending = pending_new(slots, image->header.cluster_bits, image->header.l1_entries);
	image->writes = writes;
	qcow2_write_out_open(image);
	pthread_mutex_unlock(&image->lock);
}

void qcow2_writes_end(struct qcow2 *image)
{
	struct qcow2_writes *writes = image->writes;

	if (!writes)
		return;
	bug_if(writes->claims);
	qcow2_write_out_close(image);
	pending_free(image->pending);
	image->pending = NULL;
	image->writes = NULL;
	run_set_done(&writes->recycled);
	free(writes->forgotten.runs);
	pthread_mutex_destroy(&writes->forgetting);
	pthread_mutex_destroy(&writes->running);
	pthread_cond_destroy(&writes->turned);
	pthread_mutex_destroy(&writes->turn_lock);
	pthread_cond_destroy(&writes->released);
	free(writes);
}

static bool is_claimed(const struct qcow2_writes *writes, uint64_t cluster)
{
	for (const struct claim *claim = writes->claims; claim; claim = claim->next) {
		if (cluster >= claim->first && cluster < claim->end)
			return true;
	}
	return false;
}

/* The first claimed cluster in [first, end), or end. */
static uint64_t first_claimed(const struct qcow2_writes *writes, uint64_t first, uint64_t end)
{
	for (const struct claim *claim = writes->claims; claim; claim = claim->next) {
		if (claim->first < end && claim->end > first)
			end = claim->first > first ? claim->first : first;
	}
	return end;
}

static void add_claim(
	struct qcow2_writes *writes, struct claim *claim, uint64_t first, uint64_t end)
{
	*claim = (struct claim){.next = writes->claims, .first = first, .end = end};
	writes->claims = claim;
}

static void drop_claim(struct qcow2_writes *writes, struct claim *claim)
{
	struct claim **link = &writes->claims;

	while (*link != claim)
		link = &(*link)->next;
	*link = claim->next;
	pthread_cond_broadcast(&writes->released);
}

bool qcow2_write_is_under_way(const struct qcow2 *image, uint64_t cluster)
{
	return image->writes &&
	       (pending_find(image->pending, cluster) || is_claimed(image->writes, cluster));
}

static void wake(const struct qcow2 *image)
{
	if (image->writes->hooks.wake)
		image->writes->hooks.wake(image->writes->hooks.owner);
}

enum way { WAY_IN_PLACE, WAY_REUSE, WAY_NEW };

/* The way for one entry in effect. 0, or -1 and err. */
static int find_way(struct qcow2 *image, uint64_t entry, enum way *ret_way, struct err *err)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK, count = 1;

	*ret_way = WAY_NEW;
	if (qcow2_vet_entry(image, entry, err) < 0)
		return -1;
	if ((entry & QCOW2_COMPRESSED) || host == 0)
		return 0;
	if ((!(entry & QCOW2_COPIED) || image->header.snapshots > 0) &&
		qcow2_refcount_read(image, host >> image->header.cluster_bits, &count, err) < 0)
		return -1;
	if (count == 1)
		*ret_way = entry & QCOW2_ZERO ? WAY_REUSE : WAY_IN_PLACE;
	return 0;
}

/* What is asked for, in clusters, and what was found at its beginning. */
struct look {
	uint64_t offset, length;
	uint64_t first, end; /* guest clusters */
	uint64_t entry;
	enum way way;
};

static void bound(const struct qcow2 *image, const struct look *look, uint64_t clusters,
	struct write_step *step)
{
	uint64_t end = (look->first + clusters) << image->header.cluster_bits;

	step->offset = look->offset;
	step->length = look->length;
	if (end < look->offset + look->length)
		step->length = end - look->offset;
}

/* In place: as far as neighbours lie behind one another in the file. */
static int go_in_place(
	struct qcow2 *image, const struct look *look, struct write_step *step, struct err *err)
{
	uint64_t cluster_size = image->header.cluster_size;
	uint64_t host = look->entry & QCOW2_OFFSET_MASK, clusters = 1;
	uint64_t end = first_claimed(image->writes, look->first, look->end);

	while (look->first + clusters < end) {
		enum way way;
		uint64_t entry;

		if (qcow2_entry(image, look->first + clusters, &entry, err) < 0)
			return -1;
		if ((entry & QCOW2_OFFSET_MASK) != host + clusters * cluster_size)
			break;
		if (find_way(image, entry, &way, err) < 0)
			return -1;
		if (way != WAY_IN_PLACE)
			break;
		clusters++;
	}
	step->is_in_place = true;
	step->host = host + look->offset % cluster_size;
	bound(image, look, clusters, step);
	return 0;
}

/* How many clusters from the first on need new ones, as far as one claim goes. */
static int count_new(
	struct qcow2 *image, const struct look *look, uint64_t *ret_count, struct err *err)
{
	uint64_t most = WRITE_BYTES_MAX >> image->header.cluster_bits;
	uint64_t end = first_claimed(image->writes, look->first, look->end), count = 1;

	if (most > WRITE_CLUSTERS_MAX)
		most = WRITE_CLUSTERS_MAX;
	while (count < most && look->first + count < end) {
		enum way way;
		uint64_t entry;

		if (qcow2_entry(image, look->first + count, &entry, err) < 0 ||
			find_way(image, entry, &way, err) < 0)
			return -1;
		if (way != WAY_NEW)
			break;
		count++;
	}
	*ret_count = count;
	return 0;
}

#define NO_ROOM 1

/* 0, NO_ROOM: too much is pending, or -1 and err. */
static int go_claimed(
	struct qcow2 *image, const struct look *look, struct write_step *step, struct err *err)
{
	uint64_t count = 1;

	if (look->way == WAY_NEW && count_new(image, look, &count, err) < 0)
		return -1;
	count = pending_promise(image->pending, (uint32_t)count);
	if (count == 0)
		return NO_ROOM;
	step->is_in_place = false;
	step->reused = look->way == WAY_REUSE ? look->entry & QCOW2_OFFSET_MASK : 0;
	add_claim(image->writes, &step->claim, look->first, look->first + count);
	bound(image, look, count, step);
	return 0;
}

static int begin_locked(
	struct qcow2 *image, struct look *look, struct write_step *step, struct err *err)
{
	while (is_claimed(image->writes, look->first))
		pthread_cond_wait(&image->writes->released, &image->lock);
	if (image->failed)
		return qcow2_say_failed(image, err);
	if (qcow2_entry(image, look->first, &look->entry, err) < 0 ||
		find_way(image, look->entry, &look->way, err) < 0)
		return -1;
	if (look->way == WAY_IN_PLACE)
		return go_in_place(image, look, step, err);
	return go_claimed(image, look, step, err);
}

int qcow2_write_begin(struct qcow2 *image, uint64_t offset, uint64_t length,
	struct write_step *ret_step, struct err *err)
{
	unsigned bits = image->header.cluster_bits;
	struct look look = {.offset = offset,
		.length = length,
		.first = offset >> bits,
		.end = ((offset + length - 1) >> bits) + 1};

	bug_if(length == 0 || offset + length > image->header.disk_size);
	for (;;) {
		int r;

		pthread_mutex_lock(&image->lock);
		r = begin_locked(image, &look, ret_step, err);
		pthread_mutex_unlock(&image->lock);
		if (r <= 0)
			return r;
		if (qcow2_write_back(image, WRITE_BACK_LAZY, err) < 0)
			return -1;
	}
}

/* Puts an entry into effect; what only the pending map named goes back to the free set later. */
static int put(struct qcow2 *image, uint64_t cluster, uint64_t entry, struct err *err)
{
	const struct pending_slot *slot = pending_find(image->pending, cluster);
	uint64_t host = 0, before = 0;

	if (slot) {
		before = slot->in_file;
		host = slot->entry & QCOW2_OFFSET_MASK;
		if ((slot->entry & QCOW2_COMPRESSED) || host == (entry & QCOW2_OFFSET_MASK) ||
			(!(before & QCOW2_COMPRESSED) && host == (before & QCOW2_OFFSET_MASK)))
			host = 0;
	} else if (qcow2_entry(image, cluster, &before, err) < 0) {
		return -1;
	}
	pending_put(image->pending, cluster, entry, before);
	atomic_store(&image->writes->has_unflushed, true);
	if (host != 0)
		run_set_add(&image->writes->recycled, host >> image->header.cluster_bits, 1);
	if ((entry & QCOW2_OFFSET_MASK) != 0 && !(entry & QCOW2_ZERO))
		qcow2_write_out_note(image, entry & QCOW2_OFFSET_MASK);
	if (host != 0 || qcow2_write_back_is_due(image) || qcow2_write_out_wanted(image))
		wake(image);
	return 0;
}

int qcow2_write_end(struct qcow2 *image, struct write_step *step, const struct cluster_run *runs,
	unsigned run_count, struct err *err)
{
	uint64_t cluster = step->claim.first, cluster_size = image->header.cluster_size;
	int outcome = 0;

	pthread_mutex_lock(&image->lock);
	/* It failed meanwhile: the log is void, and whoever opens the image anew knows nothing of this. */
	if (run_count > 0 && image->failed) {
		outcome = qcow2_say_failed(image, err);
		run_count = 0;
	}
	for (unsigned i = 0; i < run_count; i++) {
		for (uint64_t at = 0; at < runs[i].length; at += cluster_size) {
			/* The old entry was read when the claim was made, and nobody has changed its table's cache since
			 * but through the lock: what can fail is only reading the table again. */
			if (put(image, cluster, (runs[i].offset + at) | QCOW2_COPIED, NULL) < 0) {
				outcome = qcow2_fail(
					image, EIO, "cannot read an L2 table again", err);
				pending_unpromise(image->pending, 1);
			}
			cluster++;
		}
	}
	bug_if(cluster > step->claim.end);
	pending_unpromise(image->pending, (uint32_t)(step->claim.end - cluster));
	drop_claim(image->writes, &step->claim);
	pthread_mutex_unlock(&image->lock);
	if (qcow2_zone_wanted(image))
		wake(image);
	return outcome;
}

void qcow2_write_abandon(struct qcow2 *image, struct write_step *step)
{
	bug_if(!step->is_in_place && qcow2_write_end(image, step, NULL, 0, NULL) < 0);
}

/* The entry that makes this one read as zeroes; the same where it does already. */
static int zero_entry(
	struct qcow2 *image, uint64_t entry, bool keeps_space, uint64_t *ret_entry, struct err *err)
{
	enum way way;

	*ret_entry = QCOW2_ZERO;
	if (find_way(image, entry, &way, err) < 0)
		return -1;
	if (way != WAY_NEW && keeps_space)
		*ret_entry = entry | QCOW2_ZERO | QCOW2_COPIED;
	return 0;
}

static int zero_claimed(struct qcow2 *image, struct claim *claim, bool keeps_space,
	uint32_t *promised, struct err *err)
{
	for (uint64_t cluster = claim->first; cluster < claim->end; cluster++) {
		uint64_t entry, zero;

		if (qcow2_entry(image, cluster, &entry, err) < 0 ||
			zero_entry(image, entry, keeps_space, &zero, err) < 0)
			return -1;
		if (zero == entry)
			continue;
		if (put(image, cluster, zero, err) < 0)
			return -1;
		--*promised;
	}
	return 0;
}

/* Zeroes what can be done at once from `*first` on; the lock is not given up meanwhile, so no claim need be seen by others. */
static int zero_some(
	struct qcow2 *image, uint64_t *first, uint64_t end, bool keeps_space, struct err *err)
{
	struct claim claim = {.first = *first};
	uint32_t promised;
	int r;

	while (is_claimed(image->writes, *first))
		pthread_cond_wait(&image->writes->released, &image->lock);
	if (image->failed)
		return qcow2_say_failed(image, err);
	claim.end = first_claimed(image->writes, *first, end);
	if (claim.end - *first > WRITE_CLUSTERS_MAX)
		claim.end = *first + WRITE_CLUSTERS_MAX;
	promised = pending_promise(image->pending, (uint32_t)(claim.end - *first));
	if (promised == 0)
		return NO_ROOM;
	claim.end = *first + promised;
	r = zero_claimed(image, &claim, keeps_space, &promised, err);
	pending_unpromise(image->pending, promised);
	*first = claim.end;
	return r;
}

int qcow2_write_zeroes(
	struct qcow2 *image, uint64_t first, uint64_t count, bool keeps_space, struct err *err)
{
	uint64_t end = first + count;

	bug_if(image->header.version < 3);
	while (first < end) {
		int r;

		pthread_mutex_lock(&image->lock);
		r = zero_some(image, &first, end, keeps_space, err);
		pthread_mutex_unlock(&image->lock);
		if (r == NO_ROOM)
			r = qcow2_write_back(image, WRITE_BACK_LAZY, err);
		if (r < 0)
			return -1;
	}
	return 0;
}

bool qcow2_write_keep(struct qcow2 *image, uint64_t cluster, uint64_t host)
{
	uint64_t entry;
	bool is_kept = false;

	pthread_mutex_lock(&image->lock);
	if (!image->failed && !is_claimed(image->writes, cluster) &&
		qcow2_entry(image, cluster, &entry, NULL) == 0 && entry == 0 &&
		pending_promise(image->pending, 1) == 1) {
		is_kept = put(image, cluster, host | QCOW2_COPIED, NULL) == 0;
		if (!is_kept)
			pending_unpromise(image->pending, 1);
	}
	pthread_mutex_unlock(&image->lock);
	return is_kept;
}
