/* SPDX-License-Identifier: Apache-2.0 */
/* An imaged's hello: who it is and what it has open.  Everything is compared: devices, jobs,
 * joins, leases; what one side does not know is closed, what both know goes on. */
#include <stdlib.h>
#include <string.h>

#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"

#define PROTOCOL 1

static void refuse(struct core *core, uint64_t peer, const char *why)
{
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_IMAGED_REFUSED, .imaged_refused = {why}};

	send_to_imaged_peer(core, peer, &message);
	forget_peer(core, peer);
}

static void welcome(struct core *core, const struct imaged *imaged)
{
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_IMAGED_WELCOME,
		.imaged_welcome =
			{
				.generation = core->generation,
				.epoch = core->epoch,
				.heartbeat_ms = core->options.heartbeat_ms,
				.timeout_ms = core->options.peer_timeout_ms,
			},
	};

	send_to_imaged(core, imaged, &message);
}

/* ---- one name, two incarnations */

/* The one that has the name is asked whether it lives.  Whoever it is that is dead, the answer
 * comes soon: a broken connection at once, silence after a moment. */
static void challenge(struct core *core, struct imaged *imaged, uint64_t peer, uint64_t incarnation)
{
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT};

	if (imaged->challenger == peer)
		return;
	if (imaged->challenger != 0)
		refuse(core, imaged->challenger, "another imaged claims the same name");
	imaged->challenger = peer;
	imaged->challenger_incarnation = incarnation;
	imaged->challenged_ms = core->now.now_ms;
	send_to_imaged(core, imaged, &message);
}

void imaged_decide_challenge(struct core *core, struct imaged *imaged)
{
	uint64_t challenger = imaged->challenger;

	if (imaged->peer.heard_ms <= imaged->challenged_ms) {
		imaged_lose(core, imaged, "it is silent, and a new incarnation took its name");
		return;
	}
	imaged->challenger = 0;
	refuse(core, challenger, "another imaged of this name lives");
}

/* ---- joins */

static void compare_unknown_join(
	struct core *core, struct imaged *imaged, const struct open_join *open)
{
	struct device *device = device_find(core, open->device);
	struct worker *worker = worker_find(core, open->worker);
	bool is_wanted =
		device != NULL && device->imaged == imaged && open->confirmed && open->join != 0;

	if (worker != NULL && worker->incarnation != open->incarnation) {
		join_tell_end(core, imaged, open->join, JOIN_END_LOST);
	} else if (worker != NULL &&
		   !(is_wanted && id_list_has(&worker->claimed_joins, open->join))) {
		join_tell_to_leave(core, worker, open->join);
		join_tell_end(core, imaged, open->join, JOIN_END_LOST);
	} else if (!is_wanted) {
		join_tell_end(core, imaged, open->join, JOIN_END_LOST);
	} else {
		join_new_known(core, device, open, worker)->hello = imaged->hellos;
	}
}

static void compare_join(struct core *core, struct imaged *imaged, const struct open_join *open)
{
	struct join *join = join_find(core, open->join);

	if (join == NULL) {
		compare_unknown_join(core, imaged, open);
		return;
	}
	if (join->device->imaged != imaged)
		return; /* two imageds that drew the same id: it stays with whom we know it from */
	join->hello = imaged->hellos;
	if (!open->confirmed)
		join_close(core, join);
}

static void compare_joins(
	struct core *core, struct imaged *imaged, const struct msg_imaged_hello *hello)
{
	struct device *device;
	struct join *join, *following;

	for (size_t i = 0; i < hello->joins_count; i++)
		compare_join(core, imaged, &hello->joins[i]);
	list_for_each(device, &imaged->devices, in_imaged)
		list_for_each_safe(join, following, &device->joins, in_device)
			if (join->id != 0 && join->hello != imaged->hellos)
				join_close(core, join);
}

/* ---- leases */

static const struct open_join *find_join(const struct msg_imaged_hello *hello, uint64_t id)
{
	for (size_t i = 0; i < hello->joins_count; i++)
		if (hello->joins[i].join == id)
			return &hello->joins[i];
	return NULL;
}

static struct job *find_job(
	const struct core *core, const struct imaged *imaged, const struct open_lease *open)
{
	struct job *job = job_find(core, open->job);

	if (job == NULL || !job_is_running(job) || job->record.finishing ||
		job->device->imaged != imaged || strcmp(job->record.device, open->device) != 0)
		return NULL;
	return job;
}

static void compare_known_lease(struct core *core, struct imaged *imaged, struct lease *lease,
	const struct open_lease *open)
{
	struct job *job = find_job(core, imaged, open);

	switch (lease->state) {
	case LEASE_COPIED:
		lease_commit(core, lease);
		break;
	case LEASE_REVOKED:
		lease_abort(core, imaged, lease->id, WORKER_MAY_WRITE);
		break;
	case LEASE_CLAIMED:
		if (job != NULL)
			lease_match_claim(core, lease, imaged, job, open);
		else
			lease_close_unwanted(core, imaged, open->lease, lease->worker);
		break;
	case LEASE_COPYING:
	case LEASE_ORPHANED:
	case LEASE_RESERVING:
		break;
	}
}

static void compare_unknown_lease(struct core *core, struct imaged *imaged,
	const struct msg_imaged_hello *hello, const struct open_lease *open)
{
	const struct open_join *join = find_join(hello, open->join);
	struct worker *worker = join != NULL ? worker_find(core, join->worker) : NULL;
	struct job *job = find_job(core, imaged, open);

	if (worker != NULL && worker->incarnation != join->incarnation) {
		worker = NULL;
		join = NULL;
	}
	if (worker != NULL || join == NULL || job == NULL)
		lease_close_unwanted(core, imaged, open->lease, worker);
	else
		lease_new_orphan(core, imaged, job, open, join->worker, join->incarnation)->hello =
			imaged->hellos;
}

static void compare_lease(struct core *core, struct imaged *imaged,
	const struct msg_imaged_hello *hello, const struct open_lease *open)
{
	struct lease *lease = lease_find(core, open->lease);

	if (open->lease == 0)
		return;
	if (lease == NULL) {
		compare_unknown_lease(core, imaged, hello, open);
		return;
	}
	if (lease->imaged != NULL && lease->imaged != imaged)
		return;
	lease->hello = imaged->hellos;
	compare_known_lease(core, imaged, lease, open);
}

/* We have it, imaged does not: what was copied was committed or is lost, the map will tell. */
static void close_forgotten_lease(struct core *core, struct lease *lease)
{
	switch (lease->state) {
	case LEASE_COPYING:
	case LEASE_ORPHANED:
		lease_revoke(core, lease);
		break;
	case LEASE_COPIED:
		lease_leave_job(core, lease);
		lease_acknowledge(core, lease->worker, lease->id);
		lease_free(core, lease);
		break;
	case LEASE_RESERVING:
	case LEASE_REVOKED:
	case LEASE_CLAIMED:
		break;
	}
}

static void compare_leases(
	struct core *core, struct imaged *imaged, const struct msg_imaged_hello *hello)
{
	struct lease *lease, *following;

	for (size_t i = 0; i < hello->leases_count; i++)
		compare_lease(core, imaged, hello, &hello->leases[i]);
	list_for_each_safe(lease, following, &imaged->leases, in_imaged)
		if (lease->hello != imaged->hellos)
			close_forgotten_lease(core, lease);
}

/* ---- jobs */

static void compare_jobs(
	struct core *core, struct imaged *imaged, const struct msg_imaged_hello *hello)
{
	for (size_t i = 0; i < hello->jobs_count; i++) {
		const struct open_job_state *open = &hello->jobs[i];
		struct job *job = job_find(core, open->job);
		struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_CLOSE_JOB};

		if (job != NULL && job->is_accepted && job->device->imaged == imaged &&
			strcmp(job->record.device, open->device) == 0)
			continue;
		message.close_job =
			(struct msg_close_job){request_new(core, imaged, REQUEST_CLOSE_JOB)->number,
				open->device, open->job};
		send_to_imaged(core, imaged, &message);
	}
}

/* ---- the hello */

/* The imaged whose hello this is; NULL: it is answered already. */
static struct imaged *find_or_admit(
	struct core *core, uint64_t peer, const struct msg_imaged_hello *hello)
{
	struct imaged *imaged = imaged_get(core, hello->name);

	if (imaged == NULL) {
		refuse(core, peer, "there are too many imageds");
		return NULL;
	}
	if (!imaged_is_here(imaged))
		return imaged;
	if (imaged->incarnation == hello->incarnation) {
		imaged_session_lost(core, imaged);
		return imaged;
	}
	if (imaged->peer.number ==
		peer) { /* a new one on the same connection: the old one is gone */
		peer_hand_over(core, &imaged->peer);
		imaged_lose(core, imaged, "a new incarnation took its place");
		return imaged_get(core, hello->name);
	}
	challenge(core, imaged, peer, hello->incarnation);
	return NULL;
}

static void take_in(struct core *core, struct imaged *imaged, uint64_t peer,
	const struct msg_imaged_hello *hello)
{
	struct device *device;

	if (imaged->incarnation != hello->incarnation)
		list_for_each(device, &imaged->devices, in_imaged)
			device->has_failed = false;
	imaged->incarnation = hello->incarnation;
	imaged->hellos++;
	name_copy(imaged->host, hello->host);
	name_copy(imaged->realm, hello->realm);
	peer_set(core, &imaged->peer, peer);
	timer_set(&core->timers, &imaged->timer, core->now.now_ms + core->options.heartbeat_ms);
	welcome(core, imaged);
}

void imaged_hello(struct core *core, uint64_t peer, const struct msg_imaged_hello *hello)
{
	struct imaged *imaged;

	if (hello->protocol != PROTOCOL) {
		refuse(core, peer, "this broker speaks protocol 1 with imageds");
		return;
	}
	imaged = find_or_admit(core, peer, hello);
	if (imaged == NULL)
		return;
	take_in(core, imaged, peer, hello);
	compare_jobs(core, imaged, hello);
	devices_compare(core, imaged, hello->devices, hello->devices_count);
	compare_joins(core, imaged, hello);
	compare_leases(core, imaged, hello);
}
