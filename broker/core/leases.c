/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a lease: reserved, sent, committed, or given up. */
#include "broker/core/leases.h"

#include <stdlib.h>
#include <string.h>

#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/outbox.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"
#include "common/check.h"

/* A reservation refused at so many moments in a row: the join may be what imaged does not like. */
#define REFUSALS_BEFORE_JOINING_ANEW 3
/* Ranges of one worker that are kept in mind although nobody else knows them. */
#define CLAIMS_MAX 2048

struct lease *lease_find(const struct core *core, uint64_t id)
{
	return index_find(&core->leases, id);
}

static bool uses_credit(enum lease_state state)
{
	return state != LEASE_COPIED && state != LEASE_ORPHANED;
}

static void count_in(struct lease *lease)
{
	if (lease->worker != NULL && uses_credit(lease->state))
		lease->worker->in_hands++;
}

static void count_out(struct core *core, struct lease *lease)
{
	struct worker *worker = lease->worker;

	if (worker == NULL || !uses_credit(lease->state))
		return;
	worker->in_hands--;
	if (worker->in_hands == 0)
		worker->idle_since_ms = core->now.now_ms;
	worker_touch(core, worker);
}

static void become(struct core *core, struct lease *lease, enum lease_state state)
{
	count_out(core, lease);
	lease->state = state;
	count_in(lease);
}

static void set_worker(struct core *core, struct lease *lease, struct worker *worker)
{
	count_out(core, lease);
	list_remove(&lease->in_worker);
	lease->worker = worker;
	if (worker != NULL)
		list_append(&worker->leases, &lease->in_worker);
	else
		lease->join = NULL;
	count_in(lease);
}

static void set_job(struct lease *lease, struct job *job)
{
	list_remove(&lease->in_job);
	lease->job = job;
	if (job != NULL)
		list_append(&job->leases, &lease->in_job);
}

static void set_imaged(struct lease *lease, struct imaged *imaged)
{
	list_remove(&lease->in_imaged);
	lease->imaged = imaged;
	if (imaged != NULL)
		list_append(&imaged->leases, &lease->in_imaged);
}

/* When it is lost unless something comes.  One that waits in its worker's queue lives as long as
 * that worker gets on with what stands before it. */
static uint64_t deadline_ms(const struct core *core, const struct lease *lease)
{
	uint64_t renewed_ms = lease->renewed_ms;

	if (lease->state != LEASE_COPYING)
		return renewed_ms + core->options.peer_timeout_ms;
	if (!lease->has_started && lease->worker->progress_ms > renewed_ms)
		renewed_ms = lease->worker->progress_ms;
	return renewed_ms + core->options.lease_ms;
}

static void timer_fired(struct core *core, struct timer *timer)
{
	struct lease *lease = container_of(timer, struct lease, timer);

	if (deadline_ms(core, lease) > core->now.now_ms)
		timer_set(&core->timers, timer, deadline_ms(core, lease));
	else
		lease_revoke(core, lease);
}

static void renew(struct core *core, struct lease *lease)
{
	lease->renewed_ms = core->now.now_ms;
	timer_set(&core->timers, &lease->timer, deadline_ms(core, lease));
}

static struct lease *lease_new(struct core *core, uint64_t id, enum lease_state state)
{
	struct lease *lease = must_calloc(1, sizeof(*lease));

	lease->id = id;
	lease->state = state;
	list_init(&lease->in_job);
	list_init(&lease->in_imaged);
	list_init(&lease->in_worker);
	list_init(&lease->requests);
	timer_init(&lease->timer, timer_fired);
	if (id != 0)
		index_add(&core->leases, id, lease);
	return lease;
}

void lease_free(struct core *core, struct lease *lease)
{
	count_out(core, lease);
	requests_disown(&lease->requests);
	timer_stop(&core->timers, &lease->timer);
	list_remove(&lease->in_job);
	list_remove(&lease->in_imaged);
	list_remove(&lease->in_worker);
	if (lease->id != 0)
		index_remove(&core->leases, lease->id);
	free(lease->zeroes);
	free(lease);
}

/* ---- messages */

void lease_abort(struct core *core, struct imaged *imaged, uint64_t id, enum worker_writes writes)
{
	struct request *request;
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_ABORT};

	if (imaged == NULL || imaged->peer.number == 0)
		return;
	request = request_new(core, imaged, REQUEST_ABORT);
	message.abort = (struct msg_abort){
		.request = request->number,
		.lease = id,
		.stopped = writes != WORKER_MAY_WRITE,
		.has_flush_failed = writes == WORKER_COULD_NOT_FLUSH,
		.flush_failed = writes == WORKER_COULD_NOT_FLUSH,
	};
	send_to_imaged(core, imaged, &message);
}

void lease_acknowledge(struct core *core, const struct worker *worker, uint64_t id)
{
	struct broker_to_worker message = {
		.type = BROKER_TO_WORKER_REPORT_ACKNOWLEDGED, .report_acknowledged = {id}};

	if (worker != NULL)
		send_to_worker(core, worker, &message);
}

static void tell_to_stop(struct core *core, const struct worker *worker, uint64_t id)
{
	struct broker_to_worker message = {.type = BROKER_TO_WORKER_COPY_STOP, .copy_stop = {id}};

	if (worker != NULL)
		send_to_worker(core, worker, &message);
}

static void send_order(
	struct core *core, const struct lease *lease, const struct msg_reserved *reserved)
{
	struct broker_to_worker message = {
		.type = BROKER_TO_WORKER_COPY_ORDER,
		.copy_order =
			{
				.lease = lease->id,
				.generation = core->generation,
				.join = lease->join->id,
				.offset = lease->range.offset,
				.detect_zeroes = reserved->detect_zeroes,
				.sources = reserved->sources,
				.sources_count = reserved->sources_count,
				.destinations = reserved->destinations,
				.destinations_count = reserved->destinations_count,
			},
	};

	send_to_worker(core, lease->worker, &message);
}

/* ---- giving up */

static void give_back(struct core *core, struct lease *lease, uint64_t bytes)
{
	if (bytes > lease->charged)
		bytes = lease->charged;
	lease->charged -= bytes;
	bucket_give_back(&core->bucket, bytes);
	if (lease->job == NULL)
		return;
	bucket_give_back(&lease->job->bucket, bytes);
	bucket_give_back(&lease->job->pace.bucket, bytes);
	lease->job->virtual_bytes -=
		bytes < lease->job->virtual_bytes ? bytes : lease->job->virtual_bytes;
}

void lease_leave_job(struct core *core, struct lease *lease)
{
	struct job *job = lease->job;

	if (job == NULL)
		return;
	give_back(core, lease, lease->charged);
	set_job(lease, NULL);
	if (job->is_open)
		work_map_put_back(&job->map, WORK_COPY, lease->range);
	job_pages_touch(job, lease->range);
	job_touch(core, job);
	job_offer(core, job);
}

void lease_revoke(struct core *core, struct lease *lease)
{
	timer_stop(&core->timers, &lease->timer);
	lease_abort(core, lease->imaged, lease->id, WORKER_MAY_WRITE);
	lease_leave_job(core, lease);
	if (lease->worker == NULL) {
		lease_free(core, lease);
		return;
	}
	tell_to_stop(core, lease->worker, lease->id);
	become(core, lease, LEASE_REVOKED);
	renew(core, lease); /* told again if it does not say that it did */
}

static void release_from_job(struct core *core, struct lease *lease)
{
	give_back(core, lease, lease->charged);
	set_job(lease, NULL);
	switch (lease->state) {
	case LEASE_COPYING:
	case LEASE_ORPHANED:
		lease_revoke(core, lease);
		break;
	case LEASE_COPIED:
		if (!list_is_empty(&lease->requests))
			break; /* until imaged answers */
		lease_acknowledge(core, lease->worker, lease->id);
		lease_free(core, lease);
		break;
	case LEASE_RESERVING: /* until imaged answers */
	case LEASE_REVOKED:
	case LEASE_CLAIMED:
		break;
	}
}

void leases_of_job_release(struct core *core, struct job *job)
{
	struct lease *lease;

	while ((lease = list_first(&job->leases, struct lease, in_job)) != NULL)
		release_from_job(core, lease);
}

static void worker_is_lost(struct core *core, struct lease *lease)
{
	set_worker(core, lease, NULL);
	switch (lease->state) {
	case LEASE_COPYING:
		lease_revoke(core, lease);
		break;
	case LEASE_REVOKED:
	case LEASE_CLAIMED:
		lease_free(core, lease);
		break;
	case LEASE_RESERVING: /* until imaged answers */
	case LEASE_COPIED:    /* what it copied is durable */
	case LEASE_ORPHANED:
		break;
	}
}

void leases_of_worker_lost(struct core *core, struct worker *worker)
{
	struct lease *lease;

	while ((lease = list_first(&worker->leases, struct lease, in_worker)) != NULL)
		worker_is_lost(core, lease);
}

void leases_of_imaged_away(struct core *core, struct imaged *imaged)
{
	struct lease *lease, *following;

	list_for_each_safe(lease, following, &imaged->leases, in_imaged) {
		if (lease->state != LEASE_RESERVING)
			continue;
		lease_leave_job(core, lease);
		lease_free(core, lease);
	}
}

/* ---- reserving */

void lease_reserve(struct core *core, struct join *join, struct job *job, struct guest_range range,
	uint64_t charged)
{
	struct lease *lease = lease_new(core, 0, LEASE_RESERVING);
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_RESERVE};
	struct request *request;

	lease->range = range;
	lease->charged = charged;
	lease->is_ahead = range.offset >= job->map.scanned;
	set_job(lease, job);
	set_imaged(lease, job->device->imaged);
	set_worker(core, lease, join->worker);
	lease->join = join;
	request = request_for_lease(core, lease, REQUEST_RESERVE);
	message.reserve = (struct msg_reserve){request->number, job->record.device,
		job->record.job_id, join->id, range.offset, range.length};
	send_to_imaged(core, lease->imaged, &message);
	job_pages_touch(job, range);
}

static int check_reserved(
	const struct lease *lease, const struct msg_reserved *reserved, struct err *err)
{
	struct guest_range asked = lease->range;

	if (reserved->length == 0)
		return reserved->skipped == asked.length
			       ? 0
			       : err_set(err, "a reservation skipped a wrong length");
	if (reserved->lease == 0 || reserved->offset < asked.offset ||
		reserved->offset - asked.offset > asked.length ||
		reserved->length > asked.length - (reserved->offset - asked.offset) ||
		reserved->skipped != reserved->offset - asked.offset)
		return err_set(err, "a reservation is outside of what was asked for");
	if (reserved->offset % lease->job->map.cluster_size != 0)
		return err_set(err, "a reservation is not aligned to clusters");
	return 0;
}

/* Nobody wants it any more: no order was sent. */
static void turn_down(struct core *core, struct lease *lease, const struct msg_reserved *reserved)
{
	if (reserved->length != 0)
		lease_abort(core, lease->imaged, reserved->lease, WORKER_WRITES_NO_MORE);
	lease_leave_job(core, lease);
	lease_free(core, lease);
}

static void take_reserved_part(
	struct core *core, struct lease *lease, const struct msg_reserved *reserved)
{
	struct guest_range asked = lease->range;
	struct guest_range part = {reserved->offset, reserved->length};
	struct guest_range rest = {part.offset + part.length, 0};

	if (part.length == 0)
		rest.offset = asked.offset + asked.length;
	rest.length = asked.offset + asked.length - rest.offset;
	/* Beyond what is scanned nobody said that anything is needed. */
	if (!lease->is_ahead)
		lease->job->progress.superseded += reserved->skipped;
	lease->range = part;
	if (rest.length > 0 && lease->is_ahead)
		wanted_put_first(&lease->job->wanted, rest);
	else if (rest.length > 0)
		work_map_put_back(&lease->job->map, WORK_COPY, rest);
	give_back(core, lease, asked.length - part.length);
	job_pages_touch(lease->job, asked);
	job_progress_changed(core, lease->job);
	if (rest.length > 0)
		job_offer(core, lease->job);
}

int lease_reserved(struct core *core, struct lease *lease, const struct msg_reserved *reserved,
	struct err *err)
{
	bool is_wanted = lease->job != NULL && lease->worker != NULL &&
			 !lease->worker->says_goodbye && lease->join != NULL &&
			 lease->join->state == JOIN_USABLE;

	if (reserved->length != 0 && lease_find(core, reserved->lease) != NULL)
		return err_set(err, "a lease has the id of another one");
	if (!is_wanted) {
		turn_down(core, lease, reserved);
		return 0;
	}
	if (check_reserved(lease, reserved, err) < 0)
		return -1;
	take_reserved_part(core, lease, reserved);
	if (reserved->length == 0) {
		set_job(lease, NULL);
		lease_free(core, lease);
		return 0;
	}
	lease->id = reserved->lease;
	index_add(&core->leases, lease->id, lease);
	become(core, lease, LEASE_COPYING);
	renew(core, lease);
	send_order(core, lease, reserved);
	return 0;
}

void lease_refused(struct core *core, struct lease *lease, const struct msg_image_error *error)
{
	struct job *job = lease->job;
	struct join *join = lease->join;
	struct guest_range range = lease->range;

	lease_leave_job(core, lease);
	lease_free(core, lease);
	if (job == NULL)
		return;
	job_refused(core, job, REQUEST_RESERVE, range, error);
	if (join != NULL && job->refusals >= REFUSALS_BEFORE_JOINING_ANEW)
		join_leave(core, join);
}

/* ---- committing */

void lease_commit(struct core *core, struct lease *lease)
{
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_COMMIT};
	struct request *request;

	timer_stop(&core->timers, &lease->timer);
	become(core, lease, LEASE_COPIED);
	if (lease->imaged->peer.number == 0 || !list_is_empty(&lease->requests))
		return; /* asked when imaged is back, or asked already */
	request = request_for_lease(core, lease, REQUEST_COMMIT);
	message.commit =
		(struct msg_commit){request->number, lease->id, lease->zeroes, lease->zeroes_count};
	send_to_imaged(core, lease->imaged, &message);
}

void lease_committed(struct core *core, struct lease *lease, const struct msg_committed *committed)
{
	struct job *job = lease->job;
	uint64_t length = lease->range.length;
	uint64_t copied = committed->copied < length ? committed->copied : length;
	uint64_t zeroes = committed->zeroes < length - copied ? committed->zeroes : length - copied;
	uint64_t rest = length - copied - zeroes;
	uint64_t superseded = committed->superseded < rest ? committed->superseded : rest;
	const struct job_outcome outcome = {copied, zeroes, superseded};

	if (lease->worker != NULL) {
		lease->worker->ranges++;
		lease->worker->bytes += copied;
	}
	if (job != NULL) {
		job_count(job, lease->range.offset, &outcome);
		meter_add(&job->meter, core->now.now_ms, copied);
		meter_add(&core->meter, core->now.now_ms, copied);
		give_back(core, lease, length - copied);
		job_pages_touch(job, lease->range);
		job_went_well(job);
		job_progress_changed(core, job);
	}
	lease_acknowledge(core, lease->worker, lease->id);
	lease_free(core, lease);
}

void lease_commit_refused(
	struct core *core, struct lease *lease, const struct msg_image_error *error)
{
	struct job *job = lease->job;
	struct guest_range range = lease->range;

	lease_abort(core, lease->imaged, lease->id, WORKER_WRITES_NO_MORE);
	lease_leave_job(core, lease);
	lease_acknowledge(core, lease->worker, lease->id);
	lease_free(core, lease);
	if (job != NULL)
		job_refused(core, job, REQUEST_COMMIT, range, error);
}

/* ---- after a restart */

struct lease *lease_new_orphan(struct core *core, struct imaged *imaged, struct job *job,
	const struct open_lease *open, const char *worker, uint64_t worker_incarnation)
{
	struct lease *lease = lease_new(core, open->lease, LEASE_ORPHANED);

	lease->range = (struct guest_range){open->offset, open->length};
	name_copy(lease->worker_name, worker);
	lease->worker_incarnation = worker_incarnation;
	set_job(lease, job);
	set_imaged(lease, imaged);
	work_map_exclude(&job->map, lease->range);
	renew(core, lease);
	return lease;
}

struct lease *lease_new_claim(struct core *core, struct worker *worker, uint64_t id)
{
	struct lease *lease;

	if (worker->in_hands >= CLAIMS_MAX) {
		tell_to_stop(core, worker, id);
		return NULL;
	}
	lease = lease_new(core, id, LEASE_CLAIMED);
	set_worker(core, lease, worker);
	renew(core, lease);
	return lease;
}

void lease_match_claim(struct core *core, struct lease *lease, struct imaged *imaged,
	struct job *job, const struct open_lease *open)
{
	lease->range = (struct guest_range){open->offset, open->length};
	lease->join = join_find(core, open->join);
	if (lease->join != NULL && lease->join->worker != lease->worker)
		lease->join = NULL;
	set_job(lease, job);
	set_imaged(lease, imaged);
	work_map_exclude(&job->map, lease->range);
	if (lease->has_report) {
		lease_commit(core, lease);
		return;
	}
	become(core, lease, LEASE_COPYING);
	renew(core, lease);
}

void lease_match_orphan(struct core *core, struct lease *lease, struct worker *worker)
{
	set_worker(core, lease, worker);
	become(core, lease, LEASE_COPYING);
	renew(core, lease);
}

void lease_close_unwanted(
	struct core *core, struct imaged *imaged, uint64_t id, struct worker *worker)
{
	struct lease *lease = lease_find(core, id);

	if (lease == NULL && worker != NULL) {
		lease = lease_new_claim(core, worker, id);
		if (lease != NULL)
			set_imaged(lease, imaged);
	}
	if (lease == NULL)
		lease_abort(core, imaged, id, WORKER_MAY_WRITE);
	else
		lease_revoke(core, lease);
}
