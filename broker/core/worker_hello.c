/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's hello: said at its start, and again whenever it lost us, or we it.  What it has in
 * its hands is compared with what we know; what one side does not know is closed. */
#include <stdlib.h>
#include <string.h>

#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/roster.h"
#include "common/check.h"

#define PROTOCOL 1

static void refuse(struct core *core, uint64_t peer, const char *why)
{
	struct broker_to_worker message = {
		.type = BROKER_TO_WORKER_WORKER_REFUSED, .worker_refused = {why}};

	send_to_worker_peer(core, peer, &message);
	forget_peer(core, peer);
}

static void welcome(struct core *core, const struct worker *worker)
{
	struct broker_to_worker message = {
		.type = BROKER_TO_WORKER_WORKER_WELCOME,
		.worker_welcome =
			{
				.generation = core->generation,
				.epoch = core->epoch,
				.heartbeat_ms = core->options.heartbeat_ms,
				.timeout_ms = core->options.peer_timeout_ms,
			},
	};

	send_to_worker(core, worker, &message);
}

static bool is_listed(const uint64_t *ids, size_t count, uint64_t id)
{
	for (size_t i = 0; i < count; i++)
		if (ids[i] == id)
			return true;
	return false;
}

/* Right after our start an imaged that is not here yet may still name what this worker has. */
static bool may_be_named_later(const struct core *core)
{
	return core->now.now_ms < core->started_ms + core->options.peer_timeout_ms;
}

/* ---- leases */

static void compare_named_lease(struct core *core, struct worker *worker, uint64_t id)
{
	struct lease *lease = lease_find(core, id);

	if (lease == NULL) {
		lease = lease_new_claim(core, worker, id);
		if (lease != NULL && !may_be_named_later(core))
			lease_revoke(core, lease);
	} else if (lease->state == LEASE_ORPHANED &&
		   lease->worker_incarnation == worker->incarnation &&
		   strcmp(lease->worker_name, worker->name) == 0) {
		lease_match_orphan(core, lease, worker);
	} else if (lease->worker == worker && lease->state == LEASE_REVOKED) {
		lease_revoke(core, lease); /* says stop once more */
	}
}

static void compare_leases(
	struct core *core, struct worker *worker, const struct msg_worker_hello *hello)
{
	struct lease *lease, *following;

	for (size_t i = 0; i < hello->leases_count; i++)
		if (hello->leases[i] != 0)
			compare_named_lease(core, worker, hello->leases[i]);
	list_for_each_safe(lease, following, &worker->leases, in_worker) {
		if (lease->state != LEASE_COPYING && lease->state != LEASE_REVOKED)
			continue;
		/* The order was lost, or crossed the hello; it is told to stop, and will say
		 * that it did. */
		if (!is_listed(hello->leases, hello->leases_count, lease->id))
			lease_revoke(core, lease);
	}
}

/* ---- joins */

static bool is_of(const struct join *join, const struct worker *worker)
{
	return join->worker_incarnation == worker->incarnation &&
	       strcmp(join->worker_name, worker->name) == 0;
}

static void compare_named_join(struct core *core, struct worker *worker, uint64_t id)
{
	struct join *join = join_find(core, id);

	if (join == NULL) {
		if (may_be_named_later(core))
			id_list_add(&worker->claimed_joins, id);
		else
			join_tell_to_leave(core, worker, id);
	} else if (join->state == JOIN_UNMATCHED && is_of(join, worker)) {
		join_match(core, join, worker);
	} else if (join->worker != worker || join->state == JOIN_LEAVING) {
		join_tell_to_leave(core, worker, id);
	} else if (join->state == JOIN_JOINING) {
		join_close(core, join); /* its answer is lost */
	}
}

static void compare_joins(
	struct core *core, struct worker *worker, const struct msg_worker_hello *hello)
{
	struct join *join, *following;

	worker->claimed_joins.count = worker->stray_joins.count = 0;
	for (size_t i = 0; i < hello->joins_count; i++)
		compare_named_join(core, worker, hello->joins[i]);
	list_for_each_safe(join, following, &worker->joins, in_worker) {
		if (join->id == 0 || is_listed(hello->joins, hello->joins_count, join->id))
			continue;
		if (join->state == JOIN_LEAVING)
			join_tell_to_leave(core, worker, join->id);
		else
			join_close(core, join);
	}
}

/* ---- the hello */

/* The one before is told to end, and may not come back while the new one lives: else they would
 * take the name from each other for ever. */
static struct worker *take_name(struct core *core, struct worker *worker, uint64_t peer,
	const struct msg_worker_hello *hello)
{
	static const char reason[] = "a new incarnation took its name";
	uint64_t before[INCARNATIONS_BEFORE] = {worker->incarnation};

	if (is_listed(worker->before, INCARNATIONS_BEFORE, hello->incarnation)) {
		refuse(core, peer, reason);
		return NULL;
	}
	memcpy(before + 1, worker->before, sizeof(before) - sizeof(before[0]));
	if (worker->peer.number == peer)
		peer_hand_over(core, &worker->peer);
	else
		refuse(core, worker->peer.number, reason);
	worker_lose(core, worker, reason);
	worker = worker_new(core, hello);
	memcpy(worker->before, before, sizeof(before));
	return worker;
}

static struct worker *find_or_admit(
	struct core *core, uint64_t peer, const struct msg_worker_hello *hello)
{
	struct worker *worker = worker_find(core, hello->name);

	if (worker != NULL && worker->incarnation != hello->incarnation)
		return take_name(core, worker, peer, hello);
	if (worker != NULL)
		return worker;
	if (core->workers.count >= WORKERS_MAX) {
		refuse(core, peer, "there are too many workers");
		return NULL;
	}
	return worker_new(core, hello);
}

void worker_hello(struct core *core, uint64_t peer, const struct msg_worker_hello *hello)
{
	struct worker *worker;

	if (hello->protocol != PROTOCOL) {
		refuse(core, peer, "this broker speaks protocol 1 with workers");
		return;
	}
	worker = find_or_admit(core, peer, hello);
	if (worker == NULL)
		return;
	peer_set(core, &worker->peer, peer);
	worker->slots = hello->slots;
	welcome(core, worker);
	compare_joins(core, worker, hello);
	compare_leases(core, worker, hello);
	worker_wants_joins(core, worker);
	worker_touch(core, worker);
}
