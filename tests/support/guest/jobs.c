/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/guest/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/ofd_lock.h"
#include "common/zero_test.h"
#include "imaged/device_host.h"
#include "imaged/guest_write.h"
#include "imaged/reservation.h"
#include "imaged/stream.h"

#define HELD_MAX  6
#define LATE_MAX  4
#define RUNS_MAX  64
#define RANGE_MAX (UINT64_C(1) << 20)
#define JOB_NAME  "job"
#define GARBAGE	  0xa5

/* A worker: a description of the leaf of its own, with its lock byte. */
struct worker {
	int fd;
	uint64_t join;
};

/* A lease that was copied and not reported yet, or revoked while its worker sleeps. */
struct held {
	uint64_t lease;
	int fd; /* late: the sleeping worker's */
	unsigned run_count;
	struct cluster_run runs[RUNS_MAX];
	struct guest_range zeroes[RUNS_MAX];
	size_t zero_count;
};

struct jobs {
	struct device *device;
	bool may_fill;
	uint64_t state, drawn_bytes;
	struct worker worker;
	struct held held[HELD_MAX], late[LATE_MAX];
	unsigned held_count, late_count;
};

static uint64_t below(struct jobs *jobs, uint64_t limit)
{
	jobs->state ^= jobs->state << 13;
	jobs->state ^= jobs->state >> 7;
	jobs->state ^= jobs->state << 17;
	return jobs->state % limit;
}

static struct chain *chain_of(const struct jobs *jobs)
{
	return jobs->device->live.current->chain;
}

static uint64_t cluster_size(const struct jobs *jobs)
{
	return jobs->device->leaf->header.cluster_size;
}

static void hire(struct jobs *jobs)
{
	uint64_t byte = JOIN_LOCK_BYTE_FIRST + 1000 + jobs->drawn_bytes++;
	struct join *join;

	jobs->worker.fd = open(chain_of(jobs)->layers[0].path, O_RDWR | O_CLOEXEC);
	bug_if(jobs->worker.fd < 0 || ofd_lock_byte(jobs->worker.fd, byte) != 0);
	join = join_table_add(&jobs->device->joins, device_draw_id(jobs->device), "w",
		jobs->drawn_bytes, byte, chain_of(jobs));
	join->state = JOIN_CONFIRMED;
	atomic_fetch_add(&jobs->device->host->joins, 1);
	jobs->worker.join = join->id;
}

struct jobs *jobs_new(struct device *device, uint64_t seed, bool may_fill)
{
	struct jobs *jobs = must_calloc(1, sizeof *jobs);

	jobs->device = device;
	jobs->may_fill = may_fill;
	jobs->state = seed * UINT64_C(0x9e3779b97f4a7c15) + 7;
	hire(jobs);
	return jobs;
}

/* That there is no space is nobody's fault where there may be none. */
static int wrong(const struct jobs *jobs, const struct trouble *trouble, const char *what)
{
	if (jobs->may_fill && trouble->err.number == ENOSPC)
		return 0;
	printf("jobs: %s: %s\n", what, trouble->err.text);
	return -1;
}

/* Keeps a random layer, or none.  A leaf whose internal snapshots need what would go is left alone. */
static int open_job(struct jobs *jobs, bool keeps_none)
{
	const struct chain *chain = chain_of(jobs);
	struct stream_wish wish = {.base = NULL};
	struct trouble trouble = {0};

	if (!keeps_none && chain->count > 1 && below(jobs, 2) == 0)
		wish.base = chain->layers[1 + below(jobs, chain->count - 1)].path;
	if (stream_open(jobs->device, JOB_NAME, &wish, &trouble) == 0 ||
		trouble.err.kind == ERROR_CLASS_NOT_SUPPORTED)
		return 0;
	return wrong(jobs, &trouble, "opening the job");
}

/* What the worker would write: the bytes under the leaf. */
static int copy(struct jobs *jobs, const struct reservation *reservation, struct held *held)
{
	uint64_t cluster = cluster_size(jobs), guest = reservation->offset;
	CLEANUP_FREE unsigned char *bytes = must_calloc(1, cluster);

	held->lease = reservation->lease;
	held->run_count = (unsigned)reservation->destination_count;
	bug_if(held->run_count > RUNS_MAX);
	for (unsigned i = 0; i < held->run_count; i++) {
		uint64_t host = reservation->destinations[i].offset;

		held->runs[i] = (struct cluster_run){host, reservation->destinations[i].length};
		for (uint64_t at = 0; at < held->runs[i].length; at += cluster, guest += cluster) {
			uint64_t end = reservation->offset + reservation->length;
			uint64_t length = end - guest < cluster ? end - guest : cluster;

			memset(bytes, 0, cluster);
			bug_if(guest_read_chain(
				       jobs->device, chain_of(jobs), 1, bytes, guest, length) != 0);
			if (reservation->detects_zeroes && held->zero_count < RUNS_MAX &&
				bytes_are_zero(bytes, cluster) && below(jobs, 4) != 0)
				held->zeroes[held->zero_count++] =
					(struct guest_range){guest - reservation->offset, cluster};
			else if (pwrite_full(jobs->worker.fd, bytes, cluster, host + at) < 0)
				return -1;
		}
	}
	return fdatasync(jobs->worker.fd);
}

static int reserve(struct jobs *jobs, uint64_t offset, uint64_t length, struct held *ret_held,
	bool *ret_is_there)
{
	const struct reservation_wish wish = {
		.job = JOB_NAME, .join = jobs->worker.join, .offset = offset, .length = length};
	struct wire_memory memory = {0};
	struct reservation reservation;
	struct trouble trouble = {0};
	int r;

	*ret_is_there = false;
	*ret_held = (struct held){.fd = -1};
	do {
		r = reservation_make(jobs->device, &wish, &memory, &reservation, &trouble);
	} while (r == RESERVATION_LATER);
	if (r < 0) {
		wire_memory_done(&memory);
		return wrong(jobs, &trouble, "reserving");
	}
	if (reservation.length > 0) {
		r = copy(jobs, &reservation, ret_held);
		*ret_is_there = true;
	}
	wire_memory_done(&memory);
	return r;
}

static int commit(struct jobs *jobs, const struct held *held)
{
	struct reservation_outcome outcome;
	struct trouble trouble = {0};

	return reservation_commit(jobs->device, held->lease, held->zeroes, held->zero_count,
		       &outcome, &trouble) < 0
		       ? wrong(jobs, &trouble, "a commit")
		       : 0;
}

static void random_range(struct jobs *jobs, uint64_t *ret_offset, uint64_t *ret_length)
{
	uint64_t size = chain_of(jobs)->size, cluster = cluster_size(jobs);
	uint64_t clusters = (size + cluster - 1) / cluster, first = below(jobs, clusters);
	uint64_t most = RUNS_MAX / 2 < RANGE_MAX / cluster ? RUNS_MAX / 2 : RANGE_MAX / cluster;
	uint64_t count = 1 + below(jobs, most ? most : 1);

	*ret_offset = first * cluster;
	*ret_length = count * cluster;
	if (*ret_length > size - *ret_offset)
		*ret_length = size - *ret_offset;
}

/* The worker falls asleep in the middle of what it was about: all of its leases are revoked, and another is hired. */
static void fall_asleep(struct jobs *jobs, const struct held *held)
{
	struct join *join = join_table_find(&jobs->device->joins, jobs->worker.join);

	jobs->late[jobs->late_count] = *held;
	jobs->late[jobs->late_count++].fd = jobs->worker.fd;
	jobs->held_count = 0;
	reservation_end_join(jobs->device, join, WORKER_MAY_WRITE);
	hire(jobs);
}

/* It wakes, writes what it was about to write, and is gone. */
static int wake(struct jobs *jobs)
{
	struct held *late = &jobs->late[below(jobs, jobs->late_count)];
	uint64_t cluster = cluster_size(jobs);
	CLEANUP_FREE unsigned char *bytes = must_calloc(1, cluster);

	memset(bytes, GARBAGE, cluster);
	for (unsigned i = 0; i < late->run_count; i++) {
		for (uint64_t at = 0; at < late->runs[i].length; at += cluster) {
			if (pwrite_full(late->fd, bytes, cluster, late->runs[i].offset + at) < 0)
				return -1;
		}
	}
	close(late->fd);
	*late = jobs->late[--jobs->late_count];
	return 0;
}

static int copy_something(struct jobs *jobs)
{
	uint64_t offset, length, fate = below(jobs, 10);
	struct held held;
	bool is_there;

	random_range(jobs, &offset, &length);
	if (reserve(jobs, offset, length, &held, &is_there) < 0)
		return -1;
	if (!is_there)
		return 0;
	if (fate < 5)
		return commit(jobs, &held);
	if (fate == 5)
		reservation_abort(jobs->device, held.lease, WORKER_HAS_STOPPED);
	else if (fate == 6 && jobs->late_count < LATE_MAX)
		fall_asleep(jobs, &held);
	else if (jobs->held_count < HELD_MAX)
		jobs->held[jobs->held_count++] = held;
	else
		return commit(jobs, &held);
	return 0;
}

static int commit_held(struct jobs *jobs)
{
	unsigned i = (unsigned)below(jobs, jobs->held_count);
	struct held held = jobs->held[i];

	jobs->held[i] = jobs->held[--jobs->held_count];
	return commit(jobs, &held);
}

static int zero_something(struct jobs *jobs)
{
	struct reservation_wish wish = {.job = JOB_NAME};
	struct reservation_outcome outcome;
	struct trouble trouble = {0};

	if (jobs->device->leaf->header.version < 3)
		return 0;
	random_range(jobs, &wish.offset, &wish.length);
	return reservation_zero(jobs->device, &wish, &outcome, &trouble) < 0
		       ? wrong(jobs, &trouble, "zeroing")
		       : 0;
}

/* 1: finished; 0: something is missing still, which was copied. */
static int try_to_finish(struct jobs *jobs)
{
	const struct stream *stream = jobs->device->stream;
	CLEANUP_FREE char *name = must_strdup(stream->backing_name);
	CLEANUP_FREE char *format = must_strdup(stream->backing_format);
	uint64_t missing = 0, cluster = cluster_size(jobs), size = chain_of(jobs)->size;
	struct reservation_wish wish = {.job = JOB_NAME};
	struct reservation_outcome outcome;
	struct trouble trouble = {0};
	struct held held;
	bool is_there;
	int r = stream_finish(jobs->device, JOB_NAME, name, format, &missing, &trouble);

	if (r < 0)
		return wrong(jobs, &trouble, "finishing");
	if (r == 0)
		return 1;
	wish.offset = missing - missing % cluster;
	wish.length = size - wish.offset < 16 * cluster ? size - wish.offset : 16 * cluster;
	if (reserve(jobs, wish.offset, wish.length, &held, &is_there) < 0)
		return -1;
	if (is_there)
		return commit(jobs, &held);
	if (jobs->device->leaf->header.version >= 3 &&
		reservation_zero(jobs->device, &wish, &outcome, &trouble) < 0)
		return wrong(jobs, &trouble, "zeroing");
	return 0;
}

static int finish(struct jobs *jobs)
{
	int r;

	while (jobs->held_count > 0) {
		if (commit_held(jobs) < 0)
			return -1;
	}
	do {
		r = try_to_finish(jobs);
	} while (r == 0);
	return r < 0 ? -1 : 0;
}

int jobs_step(struct jobs *jobs)
{
	uint64_t choice = below(jobs, 100);

	if (choice < 5 && jobs->late_count > 0)
		return wake(jobs);
	if (choice < 10) {
		device_tidy(jobs->device);
		return 0;
	}
	if (!jobs->device->stream)
		return chain_of(jobs)->count > 1 ? open_job(jobs, false) : 0;
	if (choice < 12) {
		jobs->held_count = 0;
		stream_close(jobs->device, JOB_NAME);
		return 0;
	}
	if (choice == 12 && !jobs->may_fill && below(jobs, 4) == 0)
		return finish(jobs);
	if (choice < 25 && jobs->held_count > 0)
		return commit_held(jobs);
	if (choice < 30)
		return zero_something(jobs);
	return copy_something(jobs);
}

int jobs_finish_all(struct jobs *jobs)
{
	while (chain_of(jobs)->count > 1) {
		if (!jobs->device->stream && open_job(jobs, true) < 0)
			return -1;
		if (!jobs->device->stream)
			return 0;
		if (finish(jobs) < 0)
			return -1;
	}
	return 0;
}

void jobs_free(struct jobs *jobs)
{
	if (jobs->device->stream)
		stream_close(jobs->device, JOB_NAME);
	while (jobs->late_count > 0)
		bug_if(wake(jobs) < 0);
	close(jobs->worker.fd);
	device_tidy(jobs->device);
	free(jobs);
}
