/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold whatever happens:
 *
 * - events are committed with numbers without a gap and right links to the one before of their
 *   name, across all lives;
 * - what is published was committed before, in order, and each once in a life of the broker;
 * - a job's statuses go along the table, with exactly one terminal event, and all of it ends;
 * - a job that was accepted has its beginning in the store, and completes well only over a
 *   switched header;
 * - a position never goes back while the broker lives;
 * - an order is sent once, and a worker never has more in its hands than its slots and one more. */
#include <stdlib.h>
#include <string.h>

#include "broker/core/job.h"
#include "schemas/envelope.gen.h"
#include "schemas/events.gen.h"
#include "tests/simulation/parts.h"

#define JOBS	16
#define EVENTS	20000
#define ORDERS	20000
#define IN_HAND 64

struct watched_job {
	char id[NAME_ROOM], device[NAME_ROOM];
	bool is_there, has_ended;
	enum job_status status;
	uint64_t position; /* as last told in this life of the broker */
	uint64_t ends;
	uint64_t begins;
};

struct in_hand {
	const struct model_worker *worker;
	uint64_t incarnation, lease;
};

struct watch {
	uint64_t last_seq;
	uint64_t last_by_event[EVENT_COUNT];
	uint64_t last_published;
	struct watched_job jobs[JOBS];
	uint64_t orders[ORDERS];
	size_t orders_count;
	struct in_hand in_hand[IN_HAND];
	uint64_t accepted, ended, completed, cancelled, failed;
};

struct watch *watch_new(void)
{
	return calloc(1, sizeof(struct watch));
}

void watch_free(struct watch *watch)
{
	free(watch);
}

uint64_t watch_last_seq(const struct world *world)
{
	return world->watch->last_seq;
}

static struct watched_job *find_job(struct world *world, const char *id)
{
	struct watch *watch = world->watch;
	struct watched_job *free_one = NULL;

	for (unsigned i = 0; i < JOBS; i++) {
		if (strcmp(watch->jobs[i].id, id) == 0)
			return &watch->jobs[i];
		if (watch->jobs[i].id[0] == 0 && free_one == NULL)
			free_one = &watch->jobs[i];
	}
	if (free_one == NULL)
		wrong(world, "there are too many names of jobs");
	memcpy(free_one->id, id, strlen(id) + 1);
	return free_one;
}

/* ---- committed events */

static void status_changed(struct world *world, const struct event_job_status_change *event)
{
	struct watched_job *job = find_job(world, event->job_id);

	if (event->status == JOB_STATUS_CREATED) {
		if (job->is_there)
			wrong(world, "job %s is created twice", event->job_id);
		*job = (struct watched_job){.is_there = true,
			.begins = job->begins + 1,
			.ends = job->ends,
			.position = job->position};
		memcpy(job->id, event->job_id, strlen(event->job_id) + 1);
		memcpy(job->device, event->device, strlen(event->device) + 1);
		world->watch->accepted++;
		return;
	}
	if (!job->is_there || !job_may_become(job->status, event->status))
		wrong(world, "job %s goes from %s to %s", event->job_id,
			job->is_there ? job_status_name(job->status) : "nothing",
			job_status_name(event->status));
	if ((event->status == JOB_STATUS_CONCLUDED) && !job->has_ended)
		wrong(world, "job %s is concluded without a terminal event", event->job_id);
	job->status = event->status;
	if (event->status == JOB_STATUS_NULL) {
		job->is_there = false;
		world->watch->ended++;
	}
}

static void job_ended(struct world *world, const char *id, enum job_status from)
{
	struct watched_job *job = find_job(world, id);

	if (!job->is_there || job->has_ended)
		wrong(world, "job %s ends twice", id);
	if (job->status != from)
		wrong(world, "job %s ends while it is %s", id, job_status_name(job->status));
	job->has_ended = true;
	job->ends++;
}

static const struct image *image_of(struct world *world, const char *device)
{
	for (unsigned i = 0; i < world->images_count; i++)
		if (strcmp(world->images[i].device, device) == 0)
			return &world->images[i];
	return NULL;
}

static void completed(struct world *world, const struct event_block_job_completed *event)
{
	const struct image *image = image_of(world, event->device);

	job_ended(world, event->job_id, event->error ? JOB_STATUS_ABORTING : JOB_STATUS_PENDING);
	if (event->error != NULL) {
		world->watch->failed++;
		return;
	}
	world->watch->completed++;
	if (!image->is_switched)
		wrong(world, "job %s is completed, but the header is not switched", event->job_id);
	if (event->position != event->end)
		wrong(world, "job %s is completed at %llu of %llu", event->job_id,
			(unsigned long long)event->position, (unsigned long long)event->end);
}

static void look_at(struct world *world, enum event_name name, struct wire_bytes packed)
{
	struct wire_memory memory = {0};
	union {
		struct event_job_status_change status;
		struct event_block_job_completed completed;
		struct event_block_job_cancelled cancelled;
	} event;
	int result = 0;

	if (name == EVENT_JOB_STATUS_CHANGE) {
		result = event_job_status_change_decode(
			packed.bytes, packed.length, &memory, &event.status, NULL);
		if (result == 0)
			status_changed(world, &event.status);
	} else if (name == EVENT_BLOCK_JOB_COMPLETED) {
		result = event_block_job_completed_decode(
			packed.bytes, packed.length, &memory, &event.completed, NULL);
		if (result == 0)
			completed(world, &event.completed);
	} else if (name == EVENT_BLOCK_JOB_CANCELLED) {
		result = event_block_job_cancelled_decode(
			packed.bytes, packed.length, &memory, &event.cancelled, NULL);
		world->watch->cancelled++;
		if (result == 0)
			job_ended(world, event.cancelled.job_id, JOB_STATUS_ABORTING);
	}
	if (result < 0)
		wrong(world, "an event cannot be read");
	wire_memory_done(&memory);
}

void watch_event_committed(struct world *world, uint64_t seq, const void *bytes, size_t length)
{
	struct watch *watch = world->watch;
	struct wire_memory memory = {0};
	struct record_event record;
	struct event_envelope envelope;
	enum event_name name;

	if (record_event_decode(bytes, length, &memory, &record, NULL) < 0 ||
		event_envelope_decode(
			record.packed.bytes, record.packed.length, &memory, &envelope, NULL) < 0 ||
		!event_name_parse(envelope.event, &name))
		wrong(world, "a stored event cannot be read");
	if (world->is_verbose) {
		printf("%8llu %5llu  ", (unsigned long long)world->now_ms, (unsigned long long)seq);
		wire_print_bytes(stdout, record.packed.bytes, record.packed.length);
		printf("\n");
	}
	if (seq != watch->last_seq + 1 || !envelope.has_seq || envelope.seq != seq)
		wrong(world, "event %llu follows %llu", (unsigned long long)seq,
			(unsigned long long)watch->last_seq);
	if (!envelope.has_prev || envelope.prev != watch->last_by_event[name])
		wrong(world, "event %llu has a wrong link", (unsigned long long)seq);
	watch->last_seq = watch->last_by_event[name] = seq;
	look_at(world, name, envelope.data);
	wire_memory_done(&memory);
}

/* ---- published events */

static void look_at_progress(struct world *world, struct wire_bytes packed)
{
	struct wire_memory memory = {0};
	struct event_block_job_progress event;
	struct watched_job *job;

	if (event_block_job_progress_decode(packed.bytes, packed.length, &memory, &event, NULL) < 0)
		wrong(world, "a progress event cannot be read");
	job = find_job(world, event.job_id);
	if (event.position < job->position)
		wrong(world, "job %s goes back from %llu to %llu", event.job_id,
			(unsigned long long)job->position, (unsigned long long)event.position);
	if (event.position > event.end)
		wrong(world, "job %s is beyond its end", event.job_id);
	job->position = event.position;
	wire_memory_done(&memory);
}

/* A new job of the same name begins anew. */
static void look_at_status(struct world *world, struct wire_bytes packed)
{
	struct wire_memory memory = {0};
	struct event_job_status_change event;

	if (event_job_status_change_decode(packed.bytes, packed.length, &memory, &event, NULL) < 0)
		wrong(world, "a status event cannot be read");
	if (event.status == JOB_STATUS_CREATED)
		find_job(world, event.job_id)->position = 0;
	wire_memory_done(&memory);
}

static void look_at_heartbeat(struct world *world, struct wire_bytes packed)
{
	struct wire_memory memory = {0};
	struct event_broker_heartbeat event;

	if (event_broker_heartbeat_decode(packed.bytes, packed.length, &memory, &event, NULL) < 0)
		wrong(world, "a heartbeat cannot be read");
	if (event.last > world->watch->last_seq)
		wrong(world, "a heartbeat tells of an event that is not committed");
	wire_memory_done(&memory);
}

void watch_event_published(struct world *world, const char *topic, const void *bytes, size_t length)
{
	struct watch *watch = world->watch;
	struct wire_memory memory = {0};
	struct event_envelope envelope;
	enum event_name name;

	if (event_envelope_decode(bytes, length, &memory, &envelope, NULL) < 0 ||
		!event_name_parse(envelope.event, &name))
		wrong(world, "a published event cannot be read");
	if (strncmp(topic, envelope.event, strlen(envelope.event)) != 0)
		wrong(world, "an event is published under another name");
	if (event_is_durable(name)) {
		if (envelope.seq > watch->last_seq)
			wrong(world, "event %llu is published before it is committed",
				(unsigned long long)envelope.seq);
		if (envelope.seq <= watch->last_published)
			wrong(world, "event %llu is published after %llu",
				(unsigned long long)envelope.seq,
				(unsigned long long)watch->last_published);
		watch->last_published = envelope.seq;
		if (name == EVENT_JOB_STATUS_CHANGE)
			look_at_status(world, envelope.data);
	} else if (name == EVENT_BLOCK_JOB_PROGRESS) {
		look_at_progress(world, envelope.data);
	} else if (name == EVENT_BROKER_HEARTBEAT) {
		look_at_heartbeat(world, envelope.data);
	}
	wire_memory_done(&memory);
}

void watch_stream_accepted(struct world *world, const char *job)
{
	if (find_job(world, job)->begins == 0)
		wrong(world, "job %s was accepted, but is not in the store", job);
}

/* ---- orders */

void watch_order_sent(struct world *world, const struct model_worker *worker, uint64_t lease)
{
	struct watch *watch = world->watch;
	struct in_hand *room = NULL;
	size_t count = 1;

	for (size_t i = 0; i < watch->orders_count; i++)
		if (watch->orders[i] == lease)
			wrong(world, "lease %llu is sent twice", (unsigned long long)lease);
	if (watch->orders_count == ORDERS)
		wrong(world, "there are too many orders");
	watch->orders[watch->orders_count++] = lease;
	for (unsigned i = 0; i < IN_HAND; i++) {
		struct in_hand *held = &watch->in_hand[i];

		if (held->lease == 0)
			room = held;
		else if (held->worker == worker && held->incarnation == worker->process.incarnation)
			count++;
	}
	if (count > worker->slots + 1)
		wrong(world, "%s has %zu ranges in its hands", worker->process.name, count);
	if (room != NULL)
		*room = (struct in_hand){worker, worker->process.incarnation, lease};
}

void watch_report_came(struct world *world, const struct model_worker *worker, uint64_t lease)
{
	(void)worker;
	for (unsigned i = 0; i < IN_HAND; i++)
		if (world->watch->in_hand[i].lease == lease)
			world->watch->in_hand[i] = (struct in_hand){0};
}

/* What it does not name never reached it. */
void watch_hello_came(struct world *world, const struct model_worker *worker,
	const struct msg_worker_hello *hello)
{
	for (unsigned i = 0; i < IN_HAND; i++) {
		struct in_hand *held = &world->watch->in_hand[i];
		bool is_named = held->worker != worker;

		for (size_t k = 0; k < hello->leases_count; k++)
			is_named |= hello->leases[k] == held->lease;
		if (!is_named)
			*held = (struct in_hand){0};
	}
}

/* ---- lives */

void watch_broker_killed(struct world *world)
{
	struct watch *watch = world->watch;

	watch->last_published = 0;
	memset(watch->in_hand, 0, sizeof(watch->in_hand));
	for (unsigned i = 0; i < JOBS; i++)
		watch->jobs[i].position = 0;
}

void watch_broker_started(struct world *world)
{
	world->watch->last_published = world->watch->last_seq;
}

/* A report whose acknowledgement was lost is kept until the next welcome: that may never come. */
bool is_at_work(const struct held_work *work)
{
	return work->state == WORK_WAITS || work->state == WORK_RUNS;
}

bool watch_has_job(const struct world *world, const char *device)
{
	for (unsigned i = 0; i < JOBS; i++)
		if (world->watch->jobs[i].is_there &&
			strcmp(world->watch->jobs[i].device, device) == 0)
			return true;
	return false;
}

void watch_count(const struct world *world, struct tally *tally)
{
	const struct watch *watch = world->watch;

	tally->accepted += watch->accepted;
	tally->completed += watch->completed;
	tally->cancelled += watch->cancelled;
	tally->failed += watch->failed;
	tally->orders += watch->orders_count;
}

static void check_nothing_left(struct world *world)
{
	for (unsigned i = 0; i < world->imageds_count; i++)
		for (unsigned k = 0; k < LEASES_MAX; k++)
			if (world->imageds[i].leases[k].id != 0)
				wrong(world, "%s still has lease %llu",
					world->imageds[i].process.name,
					(unsigned long long)world->imageds[i].leases[k].id);
	for (unsigned i = 0; i < world->workers_count; i++)
		for (unsigned k = 0; k < WORKS_MAX; k++)
			if (is_at_work(&world->workers[i].works[k]))
				wrong(world, "%s still has lease %llu",
					world->workers[i].process.name,
					(unsigned long long)world->workers[i].works[k].lease);
}

void watch_over(struct world *world)
{
	struct watch *watch = world->watch;

	for (unsigned i = 0; i < JOBS; i++)
		if (watch->jobs[i].is_there)
			wrong(world, "job %s does not end", watch->jobs[i].id);
	for (unsigned i = 0; i < 64; i++)
		if (world->requests[i].client != 0)
			wrong(world, "client %llu gets no answer (%s)",
				(unsigned long long)world->requests[i].client,
				world->requests[i].text);
	check_nothing_left(world);
	say(world, "over: %llu jobs accepted, %llu completed, %llu cancelled, %llu failed",
		(unsigned long long)watch->accepted, (unsigned long long)watch->completed,
		(unsigned long long)watch->cancelled, (unsigned long long)watch->failed);
}
