/* SPDX-License-Identifier: Apache-2.0 */
/* Guests' writes, step by step: in place where the cluster is the leaf's own, else a new cluster is filled whole, its head and
 * tail copied from what the guest would have read there, and put into effect.  qcow2_write.h has the rules.
 *
 * Invariant: a change is noted in the open leases (device_touch) before it begins, so that no job maps over it. */
#include "imaged/guest_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/io.h"
#include "common/log.h"
#include "common/zero_test.h"
#include "imaged/device_writes.h"
#include "imaged/live_chain.h"
#include "imaged/qcow2_write_back.h"

#define RUNS_MAX	8
#define CACHE_BYTES_MAX (UINT64_C(64) << 20)
#define CACHE_US_MAX	UINT64_C(200000)
#define CACHE_PIECE	(UINT64_C(256) << 10)
#define ZEROES_BYTES	((size_t)64 << 10)

static const unsigned char zeroes[ZEROES_BYTES];

/* What is written: bytes, or zeroes where there are none. */
struct content {
	const unsigned char *bytes; /* NULL: zeroes */
	bool may_trim;		    /* zeroes need no space */
};

static int to_number(const struct err *err)
{
	return err->number ? err->number : EIO;
}

bool guest_can_write(const struct device *device)
{
	return device->leaf != NULL;
}

/* Everything is ready for the first write; later a look. */
static int begin_writes(struct device *device)
{
	struct err err = {0};

	if (device_begin_writes(device, &err) == 0)
		return 0;
	if (device_may_complain(device))
		log_error("device=%s a guest cannot write: %s", device->name, err.text);
	return to_number(&err);
}

static int begin(struct device *device, uint64_t offset, uint64_t length)
{
	int number;

	if (!device->leaf)
		return EROFS;
	number = begin_writes(device);
	if (number == 0)
		device_touch(device, offset, length);
	return number;
}

/* In pieces that end between two sectors: a power cut leaves each as it was, or zeroes. */
static int write_zeroes_at(int fd, uint64_t host, uint64_t length, bool may_trim)
{
	if (may_trim && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)host,
				(off_t)length) == 0)
		return 0;
	while (length > 0) {
		uint64_t some = ZEROES_BYTES - host % ZEROES_BYTES;

		if (some > length)
			some = length;
		if (pwrite_full(fd, zeroes, some, host) < 0)
			return errno;
		host += some;
		length -= some;
	}
	return 0;
}

static int write_in_place(
	struct qcow2 *leaf, const struct write_step *step, const struct content *content)
{
	int number = 0;

	if (!content->bytes)
		number = write_zeroes_at(leaf->fd, step->host, step->length, content->may_trim);
	else if (pwrite_full(leaf->fd, content->bytes, step->length, step->host) < 0)
		number = errno;
	qcow2_write_note(leaf);
	return number;
}

/* The bytes of claimed clusters: from the guest, and around that from what there was. */
struct filling {
	struct device *device;
	struct chain *chain;
	const struct write_step *step;
	const struct content *content;
	uint64_t cluster_size;
	unsigned char *edge; /* one cluster */
};

/* Guest bytes [offset, offset+length) as they were, zeroes past the end of the disk. */
static int read_old(
	const struct filling *filling, unsigned char *bytes, uint64_t offset, uint64_t length)
{
	return guest_read_chain(filling->device, filling->chain, 0, bytes, offset, length);
}

/* A cluster that the guest writes a part of. */
static int write_edge(const struct filling *filling, uint64_t cluster, uint64_t host)
{
	uint64_t start = cluster * filling->cluster_size, end = start + filling->cluster_size;
	uint64_t from = filling->step->offset > start ? filling->step->offset : start;
	uint64_t to = filling->step->offset + filling->step->length;
	unsigned char *edge = filling->edge;
	int number = 0;

	if (to > end)
		to = end;
	if (from > start)
		number = read_old(filling, edge, start, from - start);
	if (number == 0 && to < end)
		number = read_old(filling, edge + (to - start), to, end - to);
	if (number != 0)
		return number;
	if (filling->content->bytes)
		memcpy(edge + (from - start),
			filling->content->bytes + (from - filling->step->offset), to - from);
	else
		memset(edge + (from - start), 0, to - from);
	if (pwrite_full(filling->device->leaf->fd, edge, filling->cluster_size, host) < 0)
		return errno;
	return 0;
}

/* Clusters that the guest writes all of. */
static int write_whole(
	const struct filling *filling, uint64_t cluster, uint64_t count, uint64_t host)
{
	uint64_t at = cluster * filling->cluster_size - filling->step->offset;
	uint64_t length = count * filling->cluster_size;
	int fd = filling->device->leaf->fd;

	if (!filling->content->bytes)
		return write_zeroes_at(fd, host, length, filling->content->may_trim);
	return pwrite_full(fd, filling->content->bytes + at, length, host) < 0 ? errno : 0;
}

static int fill_run(const struct filling *filling, uint64_t cluster, const struct cluster_run *run)
{
	uint64_t count = run->length / filling->cluster_size, host = run->offset;
	uint64_t write_end = filling->step->offset + filling->step->length;

	while (count > 0) {
		uint64_t start = cluster * filling->cluster_size, some = 1;
		int number;

		if (start < filling->step->offset || start + filling->cluster_size > write_end) {
			number = write_edge(filling, cluster, host);
		} else {
			some = (write_end - start) / filling->cluster_size;
			if (some > count)
				some = count;
			number = write_whole(filling, cluster, some, host);
		}
		if (number != 0)
			return number;
		cluster += some;
		count -= some;
		host += some * filling->cluster_size;
	}
	return 0;
}

static int fill_claimed(struct device *device, struct chain *chain, const struct write_step *step,
	const struct content *content, const struct cluster_run *runs, unsigned run_count)
{
	uint64_t cluster_size = device->leaf->header.cluster_size;
	CLEANUP_FREE unsigned char *edge = must_calloc(1, cluster_size);
	const struct filling filling = {.device = device,
		.chain = chain,
		.step = step,
		.content = content,
		.cluster_size = cluster_size,
		.edge = edge};
	uint64_t cluster = step->claim.first;

	for (unsigned i = 0; i < run_count; i++) {
		int number = fill_run(&filling, cluster, &runs[i]);

		if (number != 0)
			return number;
		cluster += runs[i].length / cluster_size;
	}
	return 0;
}

/* Host clusters for the claim, or for its beginning: then the step is cut to that. */
static int find_room(struct qcow2 *leaf, struct write_step *step, struct cluster_run *ret_runs,
	unsigned *ret_count)
{
	uint64_t cluster_size = leaf->header.cluster_size, got = 0, end;
	struct err err = {0};

	if (step->reused) {
		ret_runs[0] = (struct cluster_run){step->reused, cluster_size};
		*ret_count = 1;
		return 0;
	}
	if (qcow2_reserve_fresh(leaf, (step->claim.end - step->claim.first) * cluster_size,
		    ret_runs, RUNS_MAX, ret_count, &err) < 0)
		return to_number(&err);
	for (unsigned i = 0; i < *ret_count; i++)
		got += ret_runs[i].length;
	end = step->claim.first * cluster_size + got;
	if (end < step->offset + step->length)
		step->length = end - step->offset;
	return 0;
}

static void give_back(struct qcow2 *leaf, const struct write_step *step,
	const struct cluster_run *runs, unsigned run_count)
{
	for (unsigned i = 0; i < run_count && !step->reused; i++)
		qcow2_release_fresh(leaf, runs[i].offset, runs[i].length);
}

static int write_claimed(struct device *device, struct chain *chain, struct write_step *step,
	const struct content *content)
{
	struct cluster_run runs[RUNS_MAX];
	unsigned run_count = 0;
	struct err err = {0};
	int number = find_room(device->leaf, step, runs, &run_count);

	if (number == 0)
		number = fill_claimed(device, chain, step, content, runs, run_count);
	if (number != 0) {
		give_back(device->leaf, step, runs, run_count);
		qcow2_write_abandon(device->leaf, step);
		return number;
	}
	return qcow2_write_end(device->leaf, step, runs, run_count, &err) < 0 ? to_number(&err) : 0;
}

static int write_steps(struct device *device, struct chain *chain, struct content content,
	uint64_t offset, uint64_t length)
{
	while (length > 0) {
		struct write_step step;
		struct err err = {0};
		int number;

		if (qcow2_write_begin(device->leaf, offset, length, &step, &err) < 0)
			return to_number(&err);
		number = step.is_in_place ? write_in_place(device->leaf, &step, &content)
					  : write_claimed(device, chain, &step, &content);
		if (number != 0)
			return number;
		if (content.bytes)
			content.bytes += step.length;
		offset += step.length;
		length -= step.length;
	}
	return 0;
}

/* Within a view of the chain. */
static int write_content(
	struct device *device, struct content content, uint64_t offset, uint64_t length)
{
	struct chain_view *view;
	int number;

	if (length == 0)
		return 0;
	view = live_chain_enter(&device->live);
	number = write_steps(device, view->chain, content, offset, length);
	live_chain_leave(&device->live, view);
	return number;
}

int guest_write(struct device *device, const void *buffer, uint64_t offset, uint64_t length)
{
	int number = begin(device, offset, length);

	return number ? number
		      : write_content(device, (struct content){.bytes = buffer}, offset, length);
}

/* Whether the disk reads as zeroes from here without the leaf having anything; *ret_length: how far this holds, or does not. */
static int is_void(struct device *device, struct chain *chain, uint64_t offset, uint64_t length,
	bool *ret_is_void, uint64_t *ret_length)
{
	struct extent extent;
	struct err err = {0};

	if (chain_map(chain, 0, chain->count, offset, length, &extent, &err) < 0) {
		log_warn("device=%s %s", device->name, err.text);
		return to_number(&err);
	}
	*ret_is_void =
		extent.kind == EXTENT_ABSENT || (extent.kind == EXTENT_ZERO && extent.layer > 0);
	*ret_length = extent.length;
	return 0;
}

/* Version 2 has no zero clusters: zeroes are written, or holes punched into clusters that are there. */
static int zero_piece(
	struct device *device, struct chain *chain, uint64_t offset, uint64_t length, bool may_trim)
{
	uint64_t cluster_size = device->leaf->header.cluster_size;
	const struct content content = {.may_trim = may_trim};
	struct err err = {0};

	if (device->leaf->header.version < 3)
		return write_steps(device, chain, content, offset, length);
	if (qcow2_write_zeroes(device->leaf, offset / cluster_size,
		    (length + cluster_size - 1) / cluster_size, !may_trim, &err) < 0)
		return to_number(&err);
	return 0;
}

/* Whole clusters, or up to the end of the disk: those that read as zeroes anyhow stay as they are. */
static int zero_clusters(
	struct device *device, struct chain *chain, uint64_t offset, uint64_t end, bool may_trim)
{
	uint64_t cluster_size = device->leaf->header.cluster_size;

	while (offset < end) {
		uint64_t some, clusters;
		bool skips;
		int number = is_void(device, chain, offset, end - offset, &skips, &some);

		if (number != 0)
			return number;
		/* A piece that ends within a cluster: that cluster is zeroed whole. */
		clusters = skips ? some / cluster_size : (some + cluster_size - 1) / cluster_size;
		if (skips && offset + some == end)
			return 0;
		if (skips && clusters == 0) {
			skips = false;
			clusters = 1;
		}
		some = clusters * cluster_size;
		if (some > end - offset)
			some = end - offset;
		if (!skips)
			number = zero_piece(device, chain, offset, some, may_trim);
		if (number != 0)
			return number;
		offset += some;
	}
	return 0;
}

/* The whole clusters of a range: the disk's end counts as a cluster's. */
static void whole_clusters(const struct device *device, uint64_t offset, uint64_t length,
	uint64_t *ret_first, uint64_t *ret_end)
{
	uint64_t cluster_size = device->leaf->header.cluster_size, end = offset + length;

	*ret_first = (offset + cluster_size - 1) / cluster_size * cluster_size;
	*ret_end = end == device->leaf->header.disk_size ? end : end / cluster_size * cluster_size;
	if (*ret_end < *ret_first)
		*ret_end = *ret_first;
}

static int put_zeroes(struct device *device, uint64_t first, uint64_t end, bool may_trim)
{
	struct chain_view *view;
	int number;

	if (first == end)
		return 0;
	view = live_chain_enter(&device->live);
	number = zero_clusters(device, view->chain, first, end, may_trim);
	live_chain_leave(&device->live, view);
	return number;
}

int guest_zero(struct device *device, uint64_t offset, uint64_t length, bool may_trim)
{
	const struct content content = {.may_trim = false};
	uint64_t first, end;
	int number = begin(device, offset, length);

	if (number != 0)
		return number;
	whole_clusters(device, offset, length, &first, &end);
	if (first == end || first > offset + length)
		return write_content(device, content, offset, length);
	number = write_content(device, content, offset, first - offset);
	if (number == 0)
		number = put_zeroes(device, first, end, may_trim);
	if (number == 0)
		number = write_content(device, content, end, offset + length - end);
	return number;
}

int guest_trim(struct device *device, uint64_t offset, uint64_t length)
{
	uint64_t first, end;
	int number = begin(device, offset, length);

	if (number != 0)
		return number;
	whole_clusters(device, offset, length, &first, &end);
	return put_zeroes(device, first, end, true);
}

int guest_flush(struct device *device)
{
	struct err err = {0};
	int r;

	if (!device->leaf)
		return 0;
	if (device_has_writes(device))
		r = qcow2_write_back(device->leaf, WRITE_BACK_DURABLE, &err);
	else
		r = qcow2_flush(device->leaf, &err);
	if (r == 0)
		return 0;
	log_error("device=%s a guest's flush failed: %s", device->name, err.text);
	return to_number(&err);
}

/* One cluster that the leaf lacks.  Zeroes are not worth a cluster. */
static int keep_cluster(
	struct device *device, struct chain *chain, uint64_t cluster, unsigned char *bytes)
{
	struct qcow2 *leaf = device->leaf;
	uint64_t cluster_size = leaf->header.cluster_size, offset = cluster * cluster_size;
	uint64_t length = leaf->header.disk_size - offset;
	struct cluster_run run;
	struct err err = {0};
	unsigned count;
	int number;

	if (length > cluster_size)
		length = cluster_size;
	memset(bytes + length, 0, cluster_size - length);
	number = guest_read_chain(device, chain, 1, bytes, offset, length);
	if (number != 0 || bytes_are_zero(bytes, cluster_size))
		return number;
	if (qcow2_reserve_fresh(leaf, cluster_size, &run, 1, &count, &err) < 0)
		return to_number(&err);
	if (pwrite_full(leaf->fd, bytes, cluster_size, run.offset) < 0)
		number = errno;
	if (number != 0 || !qcow2_write_keep(leaf, cluster, run.offset))
		qcow2_release_fresh(leaf, run.offset, run.length);
	return number;
}

static int keep_range(struct device *device, struct chain *chain, uint64_t offset, uint64_t end)
{
	uint64_t cluster_size = device->leaf->header.cluster_size;
	CLEANUP_FREE unsigned char *bytes = must_calloc(1, cluster_size);
	int number = 0;

	offset -= offset % cluster_size;
	while (offset < end && number == 0) {
		struct extent extent;
		struct err err = {0};

		if (chain_map(chain, 0, 1, offset, end - offset, &extent, &err) < 0)
			return to_number(&err);
		if (extent.kind == EXTENT_ABSENT) {
			number = keep_cluster(device, chain, offset / cluster_size, bytes);
			offset += cluster_size;
		} else {
			offset += (extent.length + cluster_size - 1) / cluster_size * cluster_size;
		}
	}
	return number;
}

int guest_keep(struct device *device, uint64_t offset, uint64_t length)
{
	struct chain_view *view = live_chain_enter(&device->live);
	int number = keep_range(device, view->chain, offset, offset + length);

	live_chain_leave(&device->live, view);
	return number;
}

/* A client only hints: one request takes no more than this, or a job's end and the device's close would wait for it. */
int guest_cache(struct device *device, uint64_t offset, uint64_t length)
{
	uint64_t end = offset + (length < CACHE_BYTES_MAX ? length : CACHE_BYTES_MAX);
	uint64_t deadline_us = clock_monotonic_us() + CACHE_US_MAX;
	int number = 0;

	if (!device->leaf)
		return 0;
	number = begin_writes(device);
	while (number == 0 && offset < end && clock_monotonic_us() < deadline_us) {
		uint64_t piece = end - offset < CACHE_PIECE ? end - offset : CACHE_PIECE;

		number = guest_keep(device, offset, piece);
		offset += piece;
	}
	return number;
}
