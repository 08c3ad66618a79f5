/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker reported becomes part of the image, cluster by cluster, only where nothing has touched it since.
 *
 * Everything that can be asked of the layers is asked before anything is mapped: who fails then has changed nothing. */
#include <stdlib.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "imaged/device_host.h"
#include "imaged/reservation.h"
#include "imaged/stream.h"

/* Tables for this many guest bytes are made ready at once when a range becomes zeroes. */
#define ZERO_SLICE (UINT64_C(4) << 30)

enum cluster_fate {
	FATE_WRITTEN,	 /* to be mapped */
	FATE_MARK_ZERO,	 /* zeroes, and a kept layer would show through */
	FATE_LEAVE_ZERO, /* zeroes, also when it stays unallocated */
};

struct commit {
	struct device *device;
	struct lease *lease;
	unsigned char *fates; /* enum cluster_fate, one a cluster */
	struct reservation_outcome outcome;
};

static bool skip_touched(void *owner, uint64_t guest_offset)
{
	const struct commit *commit = owner;

	return lease_is_touched(&commit->device->leases, commit->lease, guest_offset);
}

/* Guest bytes of clusters [first, end) of the lease: the last may be cut by the disk's end. */
static uint64_t guest_bytes(const struct lease *lease, uint64_t first, uint64_t end)
{
	uint64_t from = first * lease->cluster_size, to = end * lease->cluster_size;

	return (to < lease->length ? to : lease->length) - from;
}

static int check_zeroes(
	const struct lease *lease, const struct guest_range *zeroes, size_t count, struct err *err)
{
	uint64_t end = lease_host_bytes(lease);

	if (count > 0 && !lease->detects_zeroes)
		return err_set(err, "zeroes are reported under lease %llu, which asked for none",
			(unsigned long long)lease->id);
	for (size_t i = 0; i < count; i++) {
		const struct guest_range *range = &zeroes[i];
		bool is_inside = range->offset < end && range->length <= end - range->offset;
		bool ends_well = range->length % lease->cluster_size == 0 ||
				 (is_inside && range->offset + range->length == lease->length);

		if (!is_inside || !ends_well || range->offset % lease->cluster_size != 0)
			return err_set(err,
				"the zeroes reported under lease %llu are not made of its clusters",
				(unsigned long long)lease->id);
	}
	return 0;
}

/* Decides what becomes of the clusters in the worker's list of zeroes. */
static int decide_fates(struct commit *commit, const struct guest_range *zeroes, size_t count,
	struct trouble *trouble)
{
	const struct lease *lease = commit->lease;
	struct work_scope scope = stream_scope(commit->device);

	for (size_t i = 0; i < count; i++) {
		uint64_t first = zeroes[i].offset / lease->cluster_size;
		uint64_t end = (zeroes[i].offset + zeroes[i].length + lease->cluster_size - 1) /
			       lease->cluster_size;

		for (uint64_t j = first; j < end; j++) {
			int shows = work_kept_shows(&scope, lease->offset + j * lease->cluster_size,
				guest_bytes(lease, j, j + 1), &trouble->err);

			if (shows < 0)
				return trouble_during(trouble, TROUBLE_READING);
			commit->fates[j] = shows ? FATE_MARK_ZERO : FATE_LEAVE_ZERO;
		}
	}
	return 0;
}

/* How many clusters from `first` on, before `end`, have the same fate. */
static uint64_t same_fate(const struct commit *commit, uint64_t first, uint64_t end)
{
	uint64_t i = first;

	while (i < end && commit->fates[i] == commit->fates[first])
		i++;
	return i - first;
}

/* Clusters [first, end), which lie one behind another in the file at host_offset. */
static int map_written(struct commit *commit, uint64_t first, uint64_t end, uint64_t host_offset,
	struct trouble *trouble)
{
	const struct lease *lease = commit->lease;
	uint64_t cluster_size = lease->cluster_size, mapped;
	CLEANUP_FREE unsigned char *is_mapped = must_calloc(1, (end - first) / 8 + 1);

	if (qcow2_map_clusters(commit->device->leaf, lease->offset + first * cluster_size,
		    (end - first) * cluster_size, host_offset, skip_touched, commit, &mapped,
		    is_mapped, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_WRITING);
	for (uint64_t i = 0; i < end - first; i++) {
		uint64_t bytes = guest_bytes(lease, first + i, first + i + 1);

		if (is_mapped[i / 8] >> (i % 8) & 1U) {
			commit->outcome.copied += bytes;
			continue;
		}
		commit->outcome.superseded += bytes;
		qcow2_release(commit->device->leaf, host_offset + i * cluster_size, cluster_size);
	}
	return 0;
}

static int mark_zeroes(struct commit *commit, uint64_t first, uint64_t end, struct trouble *trouble)
{
	const struct lease *lease = commit->lease;
	uint64_t bytes = guest_bytes(lease, first, end), mapped;

	if (qcow2_map_zeroes(commit->device->leaf, lease->offset + first * lease->cluster_size,
		    (end - first) * lease->cluster_size, skip_touched, commit, &mapped,
		    &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_WRITING);
	if (mapped > bytes)
		mapped = bytes;
	commit->outcome.zeroes += mapped;
	commit->outcome.superseded += bytes - mapped;
	return 0;
}

static void leave_zeroes(struct commit *commit, uint64_t first, uint64_t end)
{
	const struct lease *lease = commit->lease;
	struct zero_set *known = &commit->device->stream->known_zero;

	for (uint64_t i = first; i < end; i++) {
		uint64_t offset = lease->offset + i * lease->cluster_size;

		if (skip_touched(commit, offset)) {
			commit->outcome.superseded += guest_bytes(lease, i, i + 1);
			continue;
		}
		commit->outcome.zeroes += guest_bytes(lease, i, i + 1);
		zero_set_add(known, offset / lease->cluster_size, 1);
	}
}

/* Clusters [first, end) of one fate, whose reserved clusters are at host_offset. */
static int carry_out(struct commit *commit, uint64_t first, uint64_t end, uint64_t host_offset,
	struct trouble *trouble)
{
	uint64_t host_bytes = (end - first) * commit->lease->cluster_size;

	switch ((enum cluster_fate)commit->fates[first]) {
	case FATE_WRITTEN:
		return map_written(commit, first, end, host_offset, trouble);
	case FATE_MARK_ZERO:
		if (mark_zeroes(commit, first, end, trouble) < 0)
			return -1;
		break;
	case FATE_LEAVE_ZERO:
		leave_zeroes(commit, first, end);
		break;
	}
	qcow2_release(commit->device->leaf, host_offset, host_bytes);
	return 0;
}

static int carry_out_all(struct commit *commit, struct trouble *trouble)
{
	const struct lease *lease = commit->lease;
	uint64_t first = 0;

	for (unsigned i = 0; i < lease->run_count; i++) {
		uint64_t host_offset = lease->runs[i].offset;
		uint64_t run_end = first + lease->runs[i].length / lease->cluster_size;

		while (first < run_end) {
			uint64_t count = same_fate(commit, first, run_end);

			if (carry_out(commit, first, first + count, host_offset, trouble) < 0)
				return -1;
			first += count;
			host_offset += count * lease->cluster_size;
		}
	}
	return 0;
}

int reservation_commit(struct device *device, uint64_t lease_id, const struct guest_range *zeroes,
	size_t zero_count, struct reservation_outcome *ret_outcome, struct trouble *trouble)
{
	struct commit commit = {.device = device};
	CLEANUP_FREE unsigned char *fates = NULL;
	int r;

	if (device_check_open(device, &trouble->err) < 0)
		return -1;
	commit.lease = lease_table_find(&device->leases, lease_id);
	if (!commit.lease || commit.lease->is_quarantined)
		return err_set(
			&trouble->err, "lease %llu is not open", (unsigned long long)lease_id);
	if (check_zeroes(commit.lease, zeroes, zero_count, &trouble->err) < 0)
		return -1;
	fates = must_calloc(1, lease_clusters(commit.lease));
	commit.fates = fates;
	if (decide_fates(&commit, zeroes, zero_count, trouble) < 0)
		return -1;
	/* When this fails halfway, some clusters are mapped and some are free already: the lease is over all the same, or they
	 * would be given back with it.  What was not reached stays counted as in use until the image is opened anew. */
	r = carry_out_all(&commit, trouble);
	atomic_fetch_sub(&device->host->leases, 1);
	lease_table_remove(&device->leases, commit.lease);
	if (r < 0)
		return -1;
	*ret_outcome = commit.outcome;
	return 0;
}

static bool skip_none(void *owner UNUSED, uint64_t guest_offset UNUSED)
{
	return false;
}

static int make_zeroes(struct device *device, uint64_t offset, uint64_t length,
	struct reservation_outcome *outcome, struct trouble *trouble)
{
	uint64_t cluster_size = device->leaf->header.cluster_size, mapped;

	while (length > 0) {
		uint64_t slice = length < ZERO_SLICE ? length : ZERO_SLICE;
		uint64_t whole = (slice + cluster_size - 1) / cluster_size * cluster_size;

		if (atomic_load(&device->host->is_stopping))
			return err_set(&trouble->err, "this imaged is stopping");
		if (qcow2_prepare_tables(device->leaf, offset, slice, &trouble->err) < 0 ||
			qcow2_map_zeroes(device->leaf, offset, whole, skip_none, NULL, &mapped,
				&trouble->err) < 0)
			return trouble_during(trouble, TROUBLE_WRITING);
		if (mapped > slice)
			mapped = slice;
		outcome->zeroes += mapped;
		outcome->superseded += slice - mapped;
		offset += slice;
		length -= slice;
	}
	return 0;
}

int reservation_zero(struct device *device, const struct reservation_wish *wish,
	struct reservation_outcome *ret_outcome, struct trouble *trouble)
{
	struct reservation_outcome outcome = {0};
	struct work_scope scope;
	struct work_walk walk;
	struct work_piece piece;
	int r;

	if (stream_check_open(device, wish->job, trouble) < 0 ||
		reservation_check_range(device, wish, &trouble->err) < 0)
		return -1;
	scope = stream_scope(device);
	work_walk_begin(&walk, &scope, wish->offset, wish->offset + wish->length);
	while ((r = work_walk_next(&walk, &piece, &trouble->err)) == 1) {
		if (piece.need == NEED_ZERO &&
			make_zeroes(device, piece.offset, piece.length, &outcome, trouble) < 0)
			return -1;
		if (piece.need == NEED_PRESENT || piece.need == NEED_NOTHING)
			outcome.superseded += piece.length;
	}
	if (r < 0)
		return trouble_during(trouble, TROUBLE_READING);
	*ret_outcome = outcome;
	return 0;
}
