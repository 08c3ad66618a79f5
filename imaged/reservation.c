/* SPDX-License-Identifier: Apache-2.0 */
/* Reserving and giving back; what a worker's report does is in commit.c. */
#include "imaged/reservation.h"

#include <stdlib.h>

#include "common/check.h"
#include "common/clock.h"
#include "imaged/device_host.h"
#include "imaged/sources.h"
#include "imaged/stream.h"
#include "schemas/errors.gen.h"

/* So many that a worker's list of zeroes has room for every second one. */
#define CLUSTERS_MAX	(2 * MSG_COMMIT_ZEROES_MAX)
#define LENGTH_MAX	(UINT64_C(256) << 20)
#define SEGMENTS_WANTED 1000
/* The pieces of the largest cluster where each is one of the smallest. */
#define SEGMENTS_MAX   (2097152 / 512)
#define COUNT_SLICE_US UINT64_C(50000)

struct reserving {
	struct device *device;
	const struct join *join;
	struct work_scope scope;
	uint64_t offset, length; /* guest range that is left of what was asked for */
	struct source_list sources;
	struct cluster_run runs[SEGMENTS_WANTED];
	unsigned run_count;
};

static uint64_t round_up(uint64_t length, uint64_t unit)
{
	return (length + unit - 1) / unit * unit;
}

int reservation_check_range(
	const struct device *device, const struct reservation_wish *wish, struct err *err)
{
	uint64_t cluster_size = device->leaf->header.cluster_size;
	uint64_t size = device->live.current->chain->size;

	if (wish->length > 0 && wish->offset < size && wish->length <= size - wish->offset &&
		wish->offset % cluster_size == 0 &&
		(wish->length % cluster_size == 0 || wish->offset + wish->length == size))
		return 0;
	return err_set(err, "the range at %llu of %llu bytes is not made of clusters of the disk",
		(unsigned long long)wish->offset, (unsigned long long)wish->length);
}

static int check_limits(const struct device *device, struct err *err)
{
	if (device->leases.quarantined_bytes >= DEVICE_QUARANTINE_MAX)
		return err_set(err,
			"%llu bytes of device '%s' are in quarantine until lost workers are gone",
			(unsigned long long)device->leases.quarantined_bytes, device->name);
	if (atomic_load(&device->host->leases) >= DEVICE_HOST_LEASES_MAX)
		return err_set(
			err, "more than %d reservations are open", DEVICE_HOST_LEASES_MAX - 1);
	return 0;
}

static int check_wish(
	struct reserving *reserving, const struct reservation_wish *wish, struct trouble *trouble)
{
	struct device *device = reserving->device;

	if (stream_check_open(device, wish->job, trouble) < 0 ||
		reservation_check_range(device, wish, &trouble->err) < 0 ||
		check_limits(device, &trouble->err) < 0)
		return -1;
	reserving->join = join_table_find(&device->joins, wish->join);
	if (!reserving->join || reserving->join->state != JOIN_CONFIRMED)
		return err_set(&trouble->err, "join %llu is not confirmed",
			(unsigned long long)wish->join);
	return 0;
}

/* Shrinks the range to its first neighbouring clusters that still need something; length 0 if none does. */
static int trim_to_need(struct reserving *reserving, struct trouble *trouble)
{
	uint64_t end = reserving->offset + reserving->length;
	uint64_t most = CLUSTERS_MAX * reserving->scope.cluster_size;
	struct work_walk walk;
	struct work_piece piece;
	int r;

	if (most > LENGTH_MAX)
		most = LENGTH_MAX;
	work_walk_begin(&walk, &reserving->scope, reserving->offset, end);
	reserving->length = 0;
	while ((r = work_walk_next(&walk, &piece, &trouble->err)) == 1) {
		bool is_needed = piece.need == NEED_COPY || piece.need == NEED_ZERO;

		if (!is_needed && reserving->length > 0)
			return 0;
		if (!is_needed)
			continue;
		if (reserving->length == 0)
			reserving->offset = piece.offset;
		reserving->length += piece.length;
		if (reserving->length >= most) {
			reserving->length = most;
			return 0;
		}
	}
	return r < 0 ? trouble_during(trouble, TROUBLE_READING) : 0;
}

/* The list keeps room for zeroes at the end of the disk. */
static int find_sources(struct reserving *reserving, size_t room, struct wire_memory *memory,
	struct trouble *trouble)
{
	uint64_t found;

	reserving->sources = (struct source_list){
		.items = wire_memory_get(memory, (room + 1) * sizeof(struct source_extent)),
		.room = room,
	};
	if (sources_find(reserving->scope.chain, reserving->join, reserving->offset,
		    reserving->length, &reserving->sources, &found, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_READING);
	reserving->sources.room++;
	if (found < reserving->length)
		reserving->length = found - found % reserving->scope.cluster_size;
	return 0;
}

static int describe_sources(
	struct reserving *reserving, struct wire_memory *memory, struct trouble *trouble)
{
	uint64_t cluster_size = reserving->scope.cluster_size;
	uint64_t wanted = reserving->length;

	if (find_sources(reserving, SEGMENTS_WANTED, memory, trouble) < 0)
		return -1;
	if (reserving->length > 0)
		return 0;
	/* One cluster alone is made of more pieces. */
	reserving->length = wanted < cluster_size ? wanted : cluster_size;
	return find_sources(reserving, SEGMENTS_MAX, memory, trouble);
}

static int reserve_clusters(struct reserving *reserving, struct trouble *trouble)
{
	struct qcow2 *leaf = reserving->device->leaf;
	uint64_t wanted = round_up(reserving->length, reserving->scope.cluster_size), got = 0;

	if (qcow2_prepare_tables(leaf, reserving->offset, reserving->length, &trouble->err) < 0 ||
		qcow2_reserve(leaf, wanted, reserving->runs, SEGMENTS_WANTED, &reserving->run_count,
			&trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_WRITING);
	for (unsigned i = 0; i < reserving->run_count; i++)
		got += reserving->runs[i].length;
	bug_if(got == 0 || got > wanted);
	if (got < reserving->length)
		reserving->length = got;
	sources_fit(&reserving->sources, got);
	return 0;
}

static struct lease *add_lease(struct reserving *reserving)
{
	struct device *device = reserving->device;
	const struct work_scope *scope = &reserving->scope;
	const struct lease lease = {
		.id = device_draw_id(device),
		.join = reserving->join->id,
		.offset = reserving->offset,
		.length = reserving->length,
		.cluster_size = scope->cluster_size,
		.detects_zeroes = !scope->copies_zeroes || scope->kept >= scope->chain->count,
		.run_count = reserving->run_count,
		.runs = reserving->runs,
	};

	atomic_fetch_add(&device->host->leases, 1);
	return lease_table_add(&device->leases, &lease);
}

static void tell(const struct reserving *reserving, const struct lease *lease,
	struct wire_memory *memory, struct reservation *reservation)
{
	reservation->lease = lease->id;
	reservation->length = lease->length;
	reservation->detects_zeroes = lease->detects_zeroes;
	reservation->sources = reserving->sources.items;
	reservation->source_count = reserving->sources.count;
	reservation->destination_count = lease->run_count;
	reservation->destinations =
		wire_memory_get(memory, lease->run_count * sizeof reservation->destinations[0]);
	for (unsigned i = 0; i < lease->run_count; i++) {
		reservation->destinations[i] = (struct destination_extent){
			.offset = lease->runs[i].offset, .length = lease->runs[i].length};
	}
}

int reservation_make(struct device *device, const struct reservation_wish *wish,
	struct wire_memory *memory, struct reservation *ret_reservation, struct trouble *trouble)
{
	struct reserving reserving = {
		.device = device, .offset = wish->offset, .length = wish->length};
	struct reservation reservation = {0};
	int r;

	if (check_wish(&reserving, wish, trouble) < 0)
		return -1;
	r = stream_count(device, device->stream, clock_monotonic_us() + COUNT_SLICE_US, trouble);
	if (r <= 0)
		return r < 0 ? -1 : RESERVATION_LATER;
	reserving.scope = stream_scope(device);
	if (trim_to_need(&reserving, trouble) < 0)
		return -1;
	if (reserving.length == 0) {
		*ret_reservation =
			(struct reservation){.offset = wish->offset, .skipped = wish->length};
		return 0;
	}
	if (describe_sources(&reserving, memory, trouble) < 0 ||
		reserve_clusters(&reserving, trouble) < 0)
		return -1;
	reservation.offset = reserving.offset;
	reservation.skipped = reserving.offset - wish->offset;
	tell(&reserving, add_lease(&reserving), memory, &reservation);
	*ret_reservation = reservation;
	return 0;
}

static void close_lease(struct device *device, struct lease *lease)
{
	if (!lease->is_quarantined)
		atomic_fetch_sub(&device->host->leases, 1);
	lease_table_remove(&device->leases, lease);
}

static void free_clusters(struct device *device, struct lease *lease)
{
	for (unsigned i = 0; i < lease->run_count; i++)
		qcow2_release(device->leaf, lease->runs[i].offset, lease->runs[i].length);
	close_lease(device, lease);
}

static void quarantine(struct device *device, struct lease *lease)
{
	if (lease->is_quarantined)
		return;
	lease_table_quarantine(&device->leases, lease);
	atomic_fetch_sub(&device->host->leases, 1);
	atomic_store(&device->needs_tidying, true);
}

static void revoke(struct device *device, struct lease *lease, enum reservation_proof proof)
{
	if (proof == WORKER_HAS_STOPPED)
		free_clusters(device, lease);
	else
		quarantine(device, lease);
}

void reservation_abort(struct device *device, uint64_t lease_id, enum reservation_proof proof)
{
	struct lease *lease;

	if (device->phase == DEVICE_CLOSED)
		return;
	lease = lease_table_find(&device->leases, lease_id);
	if (lease)
		revoke(device, lease, proof);
}

void reservation_revoke_all(struct device *device)
{
	struct lease *lease;
	size_t position = 0;

	while ((lease = lease_table_next(&device->leases, 0, &position)))
		quarantine(device, lease);
}

static void forget_join(struct device *device, struct join *join)
{
	pthread_mutex_lock(&device->lock);
	join_table_remove(&device->joins, join);
	pthread_mutex_unlock(&device->lock);
}

void reservation_end_join(struct device *device, struct join *join, enum reservation_proof proof)
{
	struct lease *lease;
	size_t position = 0;

	while ((lease = lease_table_next(&device->leases, join->id, &position))) {
		revoke(device, lease, proof);
		if (proof == WORKER_HAS_STOPPED)
			position--;
	}
	pthread_mutex_lock(&device->lock);
	if (join->state != JOIN_ENDED)
		atomic_fetch_sub(&device->host->joins, 1);
	join->state = JOIN_ENDED;
	pthread_mutex_unlock(&device->lock);
	if (proof == WORKER_HAS_STOPPED)
		forget_join(device, join);
	else
		atomic_store(&device->needs_tidying, true);
}

bool reservation_is_waiting(struct device *device, const struct join *join)
{
	const struct lease *lease;
	size_t position = 0;

	if (join->state == JOIN_ENDED)
		return true;
	while ((lease = lease_table_next(&device->leases, join->id, &position))) {
		if (lease->is_quarantined)
			return true;
	}
	return false;
}

void reservation_join_is_gone(struct device *device, struct join *join)
{
	struct lease *lease;
	size_t position = 0;

	while ((lease = lease_table_next(&device->leases, join->id, &position))) {
		if (!lease->is_quarantined)
			continue;
		free_clusters(device, lease);
		position--;
	}
	if (join->state == JOIN_ENDED)
		forget_join(device, join);
}
