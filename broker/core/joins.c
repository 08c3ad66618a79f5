/* SPDX-License-Identifier: Apache-2.0 */
/* Joining and leaving. */
#include "broker/core/joins.h"

#include <stdlib.h>
#include <string.h>

#include "broker/core/devices.h"
#include "broker/core/job.h"
#include "broker/core/outbox.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"
#include "broker/core/scheduler.h"
#include "common/check.h"

#define STRAYS_MAX   8192 /* of one worker; what is over is told once */
#define RETRY_MIN_MS 5000
#define RETRY_MAX_MS 60000
#define JOINING_MS   30000 /* a worker that has not answered by then gets a new join */
#define LEAVING_MS   5000  /* one that has not answered is told again */

struct join *join_find(const struct core *core, uint64_t id)
{
	return index_find(&core->joins, id);
}

static void become(struct core *core, struct join *join, enum join_state state)
{
	if (state == JOIN_JOINING)
		timer_set(&core->timers, &join->timer, core->now.now_ms + JOINING_MS);
	else if (state == JOIN_LEAVING)
		timer_set(&core->timers, &join->timer, core->now.now_ms + LEAVING_MS);
	else
		timer_stop(&core->timers, &join->timer);
	join->device->usable_joins -= join->state == JOIN_USABLE;
	join->device->usable_joins += state == JOIN_USABLE;
	join->state = state;
	if (state == JOIN_USABLE)
		worker_touch(core, join->worker);
	if (join->device->job != NULL)
		job_touch(core, join->device->job);
}

static void say_leave(struct core *core, const struct worker *worker, uint64_t id)
{
	struct broker_to_worker message = {.type = BROKER_TO_WORKER_LEAVE, .leave = {id}};

	send_to_worker(core, worker, &message);
}

static void set_id(struct core *core, struct join *join, uint64_t id)
{
	if (join->id != 0)
		index_remove(&core->joins, join->id);
	join->id = id;
	if (id != 0)
		index_add(&core->joins, id, join);
}

static void set_worker(struct join *join, struct worker *worker)
{
	if (join->worker != NULL)
		join->worker->joins_count--;
	list_remove(&join->in_worker);
	join->worker = worker;
	if (worker == NULL)
		return;
	worker->joins_count++;
	list_append(&worker->joins, &join->in_worker);
}

static void prepare(struct core *core, struct join *join)
{
	struct request *request = request_for_join(core, join, REQUEST_PREPARE_JOIN);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_PREPARE_JOIN,
		.prepare_join =
			{
				.request = request->number,
				.device = join->device->record.device,
				.worker = join->worker->name,
				.incarnation = join->worker->incarnation,
			},
	};

	send_to_imaged(core, request->imaged, &message);
}

/* After a refusal, if it is still wanted. */
static void try_again(struct core *core, struct join *join)
{
	if (!device_wants_workers(join->device) || join->worker->says_goodbye) {
		join_free(core, join);
		return;
	}
	become(core, join, JOIN_PREPARING);
	prepare(core, join);
}

static void timer_fired(struct core *core, struct timer *timer)
{
	struct join *join = container_of(timer, struct join, timer);

	switch (join->state) {
	case JOIN_REFUSED:
		try_again(core, join);
		break;
	case JOIN_UNMATCHED:
		join_tell_end(core, join->device->imaged, join->id, JOIN_END_LOST);
		join_free(core, join);
		break;
	case JOIN_JOINING: /* the question or the answer is lost */
		join_close(core, join);
		break;
	case JOIN_LEAVING:
		say_leave(core, join->worker, join->id);
		become(core, join, JOIN_LEAVING);
		break;
	case JOIN_PREPARING:
	case JOIN_CONFIRMING:
	case JOIN_USABLE:
		break;
	}
}

static struct join *join_new(struct device *device, struct worker *worker, enum join_state state)
{
	struct join *join = must_calloc(1, sizeof(*join));

	join->state = state;
	join->device = device;
	join->range_bytes = SCHEDULER_FIRST_RANGE;
	join->retry_delay_ms = RETRY_MIN_MS;
	list_init(&join->in_worker);
	list_init(&join->requests);
	list_append(&device->joins, &join->in_device);
	timer_init(&join->timer, timer_fired);
	set_worker(join, worker);
	return join;
}

static void forget_in_leases(struct list *leases, const struct join *join)
{
	struct lease *lease;

	list_for_each(lease, leases, in_worker)
		if (lease->join == join)
			lease->join = NULL;
}

void join_free(struct core *core, struct join *join)
{
	if (join->worker != NULL)
		forget_in_leases(&join->worker->leases, join);
	become(core, join, JOIN_LEAVING);
	requests_disown(&join->requests);
	timer_stop(&core->timers, &join->timer);
	set_id(core, join, 0);
	set_worker(join, NULL);
	list_remove(&join->in_device);
	device_touch(core, join->device);
	free(join);
}

/* ---- beginning */

static void begin(struct core *core, struct device *device, struct worker *worker)
{
	/* A worker at its limit works for the devices that it has; it is asked again when the
	 * device is looked at. */
	if (!worker->says_goodbye && worker->joins_count < JOINS_OF_WORKER_MAX)
		prepare(core, join_new(device, worker, JOIN_PREPARING));
}

static bool is_joined(const struct device *device, const struct worker *worker)
{
	const struct join *join;

	list_for_each(join, &device->joins, in_device)
		if (join->worker == worker)
			return true;
	return false;
}

void join_begin(struct core *core, struct device *device, struct worker *worker)
{
	if (!is_joined(device, worker))
		begin(core, device, worker);
}

void joins_begin(struct core *core, struct device *device)
{
	struct realm *realm = realm_find(core, device->imaged->realm);
	struct join *join;
	struct worker *worker;

	if (realm == NULL)
		return;
	list_for_each(join, &device->joins, in_device)
		if (join->worker != NULL)
			join->worker->mark = device;
	list_for_each(worker, &realm->workers, in_realm)
		if (worker->mark != device)
			begin(core, device, worker);
	list_for_each(worker, &realm->workers, in_realm)
		worker->mark = NULL;
}

int join_prepared(struct core *core, struct join *join, const struct msg_join_prepared *prepared,
	struct err *err)
{
	struct broker_to_worker message = {
		.type = BROKER_TO_WORKER_JOIN,
		.join =
			{
				.join = prepared->join,
				.device = join->device->record.device,
				.leaf = prepared->leaf,
				.lock_byte = prepared->lock_byte,
				.cluster_size = prepared->cluster_size,
				.sources = prepared->sources,
				.sources_count = prepared->sources_count,
			},
	};

	if (prepared->join == 0 || join_find(core, prepared->join) != NULL)
		return err_set(err, "a join has the id of another one");
	set_id(core, join, prepared->join);
	become(core, join, JOIN_JOINING);
	send_to_worker(core, join->worker, &message);
	return 0;
}

/* Nothing is open for it anywhere; tried again, less and less often. */
static void be_refused(struct core *core, struct join *join)
{
	core->refused_joins++;
	set_id(core, join, 0);
	become(core, join, JOIN_REFUSED);
	timer_set(&core->timers, &join->timer, core->now.now_ms + join->retry_delay_ms);
	join->retry_delay_ms *= 2;
	if (join->retry_delay_ms > RETRY_MAX_MS)
		join->retry_delay_ms = RETRY_MAX_MS;
}

/* The one join of that id that is this worker's, in that state. */
static struct join *join_of_answer(
	struct core *core, const struct worker *worker, uint64_t id, enum join_state state)
{
	struct join *join = join_find(core, id);

	return join != NULL && join->worker == worker && join->state == state ? join : NULL;
}

void join_joined(struct core *core, struct worker *worker, const struct msg_joined *joined)
{
	struct join *join = join_of_answer(core, worker, joined->join, JOIN_JOINING);
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_CONFIRM_JOIN};
	struct request *request;

	if (join == NULL)
		return; /* said twice, or told to leave meanwhile */
	if (join->device->imaged->peer.number == 0) {
		join_close(core, join);
		return;
	}
	become(core, join, JOIN_CONFIRMING);
	request = request_for_join(core, join, REQUEST_CONFIRM_JOIN);
	message.confirm_join = (struct msg_confirm_join){request->number, joined->join,
		joined->boot_id, joined->device_number, joined->inode};
	send_to_imaged(core, join->device->imaged, &message);
}

void join_refused_by_worker(
	struct core *core, struct worker *worker, const struct msg_join_refused *refused)
{
	struct join *join = join_of_answer(core, worker, refused->join, JOIN_JOINING);

	if (join == NULL)
		return;
	join_tell_end(core, join->device->imaged, join->id, JOIN_END_LEFT);
	be_refused(core, join);
}

void join_confirmed(struct core *core, struct join *join)
{
	if (join->state == JOIN_CONFIRMING)
		become(core, join, JOIN_USABLE);
}

void join_refused_by_imaged(struct core *core, struct join *join)
{
	if (join->id != 0) {
		join_tell_to_leave(core, join->worker, join->id);
		join_tell_end(core, join->device->imaged, join->id, JOIN_END_LOST);
	}
	be_refused(core, join);
}

/* ---- ending */

void join_tell_to_leave(struct core *core, struct worker *worker, uint64_t id)
{
	if (worker == NULL || id == 0)
		return;
	if (worker->stray_joins.count < STRAYS_MAX)
		id_list_add(&worker->stray_joins, id);
	say_leave(core, worker, id);
}

void join_tell_end(struct core *core, struct imaged *imaged, uint64_t id, enum join_end end)
{
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_END_JOIN};
	struct request *request;

	if (id == 0 || imaged->peer.number == 0)
		return; /* it will name it when it is back, and be told then */
	request = request_new(core, imaged, REQUEST_END_JOIN);
	message.end_join = (struct msg_end_join){request->number, id, end == JOIN_END_LEFT};
	send_to_imaged(core, imaged, &message);
}

void join_leave(struct core *core, struct join *join)
{
	switch (join->state) {
	case JOIN_JOINING:
	case JOIN_CONFIRMING:
	case JOIN_USABLE:
		say_leave(core, join->worker, join->id);
		become(core, join, JOIN_LEAVING);
		break;
	case JOIN_PREPARING: /* imaged's answer will be nobody's; it is told when it names it */
	case JOIN_REFUSED:
		join_free(core, join);
		break;
	case JOIN_UNMATCHED: /* its time runs */
	case JOIN_LEAVING:
		break;
	}
}

void joins_leave(struct core *core, struct device *device)
{
	struct join *join, *following;

	list_for_each_safe(join, following, &device->joins, in_device)
		join_leave(core, join);
}

void join_left(struct core *core, struct worker *worker, uint64_t id)
{
	struct join *join = join_find(core, id);

	id_list_remove(&worker->stray_joins, id);
	if (join == NULL || join->worker != worker)
		return;
	join_tell_end(core, join->device->imaged, id, JOIN_END_LEFT);
	join_free(core, join);
}

void joins_of_worker_lost(struct core *core, struct worker *worker)
{
	struct join *join;

	while ((join = list_first(&worker->joins, struct join, in_worker)) != NULL) {
		join_tell_end(core, join->device->imaged, join->id, JOIN_END_LOST);
		join_free(core, join);
	}
}

void joins_of_worker_going(struct core *core, struct worker *worker)
{
	struct join *join;

	list_for_each(join, &worker->joins, in_worker)
		if (join->state == JOIN_USABLE)
			become(core, join, JOIN_LEAVING);
}

void join_close(struct core *core, struct join *join)
{
	join_tell_to_leave(core, join->worker, join->id);
	join_tell_end(core, join->device->imaged, join->id, JOIN_END_LOST);
	join_free(core, join);
}

void joins_of_imaged_away(struct core *core, struct imaged *imaged)
{
	struct device *device;
	struct join *join, *following;

	list_for_each(device, &imaged->devices, in_imaged)
		list_for_each_safe(join, following, &device->joins, in_device)
			if (join->state == JOIN_PREPARING || join->state == JOIN_JOINING ||
				join->state == JOIN_CONFIRMING)
				join_close(core, join);
}

/* ---- after a restart */

struct join *join_new_known(struct core *core, struct device *device, const struct open_join *open,
	struct worker *worker)
{
	struct join *join = join_new(device, worker, JOIN_UNMATCHED);

	set_id(core, join, open->join);
	name_copy(join->worker_name, open->worker);
	join->worker_incarnation = open->incarnation;
	if (worker != NULL)
		become(core, join, JOIN_USABLE);
	else
		timer_set(&core->timers, &join->timer,
			core->now.now_ms + core->options.peer_timeout_ms);
	device_touch(core, device); /* perhaps nobody wants it any more */
	return join;
}

void join_match(struct core *core, struct join *join, struct worker *worker)
{
	timer_stop(&core->timers, &join->timer);
	set_worker(join, worker);
	become(core, join, JOIN_USABLE);
	device_touch(core, join->device);
}
