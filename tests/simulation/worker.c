/* SPDX-License-Identifier: Apache-2.0 */
/* A model of a worker: joins, copies a cluster at a time, reports until it is acknowledged.  It
 * writes into the host clusters of its order whenever it gets to it, also after a long sleep,
 * whatever became of its lease. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simulation/parts.h"

static void tell(
	struct world *world, struct model_worker *worker, const struct worker_to_broker *message)
{
	struct wire_buffer buffer = {0};

	worker_to_broker_encode(message, &buffer);
	process_send(world, &worker->process, &buffer);
	wire_buffer_done(&buffer);
}

static struct held_join *find_join(struct model_worker *worker, uint64_t id)
{
	for (unsigned i = 0; i < JOINS_MAX; i++)
		if (worker->joins[i].id == id)
			return &worker->joins[i];
	return NULL;
}

bool worker_holds_join(const struct world *world, uint64_t join)
{
	for (unsigned i = 0; i < world->workers_count; i++) {
		const struct model_worker *worker = &world->workers[i];

		for (unsigned k = 0; worker->process.is_alive && join != 0 && k < JOINS_MAX; k++)
			if (worker->joins[k].id == join)
				return true;
	}
	return false;
}

static struct held_work *find_work(struct model_worker *worker, uint64_t lease)
{
	for (unsigned i = 0; i < WORKS_MAX; i++)
		if (worker->works[i].state != WORK_FREE && worker->works[i].lease == lease)
			return &worker->works[i];
	return NULL;
}

static bool has_seen(const struct model_worker *worker, uint64_t lease)
{
	for (size_t i = 0; i < worker->seen_count; i++)
		if (worker->seen[i] == lease)
			return true;
	return false;
}

static void note_seen(struct world *world, struct model_worker *worker, uint64_t lease)
{
	if (worker->seen_count == SEEN_MAX)
		wrong(world, "a worker has seen too many leases");
	worker->seen[worker->seen_count++] = lease;
}

/* ---- reports */

static void report(struct world *world, struct model_worker *worker, struct held_work *work)
{
	struct guest_range zeroes[CLUSTERS_MAX];
	struct worker_to_broker message = {.type = work->report};

	if (work->report == WORKER_TO_BROKER_COPY_STOPPED) {
		message.copy_stopped.lease = work->lease;
	} else if (work->report == WORKER_TO_BROKER_COPY_FAILED) {
		message.copy_failed = (struct msg_copy_failed){
			.lease = work->lease,
			.operation = OPERATION_READ,
			.file = "/images/base.raw",
			.errno_name = "EIO",
			.msg = "read '/images/base.raw': Input/output error",
		};
	} else {
		message.copied = (struct msg_copied){
			.lease = work->lease, .zeroes = zeroes, .microseconds = 1000};
		for (unsigned i = 0; i < work->clusters; i++)
			if (work->is_zero[i])
				zeroes[message.copied.zeroes_count++] =
					(struct guest_range){(uint64_t)i * CLUSTER, CLUSTER};
			else
				message.copied.bytes += CLUSTER;
	}
	tell(world, worker, &message);
}

static void ends_with(struct world *world, struct model_worker *worker, struct held_work *work,
	enum worker_to_broker_type how)
{
	work->state = WORK_REPORTED;
	work->report = how;
	report(world, worker, work);
}

/* ---- copying */

static unsigned running(const struct model_worker *worker)
{
	unsigned count = 0;

	for (unsigned i = 0; i < WORKS_MAX; i++)
		count += worker->works[i].state == WORK_RUNS;
	return count;
}

static void copy_cluster(struct world *world, struct model_worker *worker, struct held_work *work)
{
	unsigned cluster = work->first + work->done;
	unsigned value = work->image->layer_value[cluster];
	struct worker_to_broker message = {.type = WORKER_TO_BROKER_COPY_PROGRESS};

	if (value == 0)
		work->is_zero[work->done] = true;
	else
		work->image->host_value[work->host[work->done]] = value;
	work->done++;
	message.copy_progress =
		(struct msg_copy_progress){work->lease, (uint64_t)work->done * CLUSTER};
	if (dice_percent(&world->dice, 30))
		tell(world, worker, &message);
}

static void copies(struct world *world, void *about, uint64_t number)
{
	struct model_worker *worker = about;
	struct process *process = &worker->process;

	if (!process->is_alive || process->incarnation != number)
		return;
	at(world, 1 + dice_below(&world->dice, 12), copies, worker, number);
	if (process->asleep_until_ms > world->now_ms)
		return;
	for (unsigned i = 0; i < WORKS_MAX && process->is_alive; i++) {
		struct held_work *work = &worker->works[i];

		if (work->state == WORK_WAITS && running(worker) < worker->slots)
			work->state = WORK_RUNS;
		if (work->state != WORK_RUNS || dice_percent(&world->dice, 30))
			continue;
		if (!world->is_calm && dice_permille(&world->dice, world->faults.copy_fails))
			ends_with(world, worker, work, WORKER_TO_BROKER_COPY_FAILED);
		else if (work->done < work->clusters)
			copy_cluster(world, worker, work);
		else
			ends_with(world, worker, work, WORKER_TO_BROKER_COPIED);
	}
}

/* ---- messages */

static void welcome(
	struct world *world, struct model_worker *worker, const struct msg_worker_welcome *message)
{
	worker->process.is_welcome = true;
	worker->generation = message->generation;
	for (unsigned i = 0; i < WORKS_MAX; i++)
		if (worker->works[i].state == WORK_REPORTED)
			report(world, worker, &worker->works[i]);
}

static void join(struct world *world, struct model_worker *worker, const struct msg_join *asked)
{
	struct worker_to_broker message = {.type = WORKER_TO_BROKER_JOINED};
	struct held_join *held = find_join(worker, asked->join);

	if (!world->is_calm && dice_permille(&world->dice, world->faults.join_fails)) {
		message.type = WORKER_TO_BROKER_JOIN_REFUSED;
		message.join_refused =
			(struct msg_join_refused){asked->join, "outside of the roots", "EACCES"};
		tell(world, worker, &message);
		return;
	}
	if (held == NULL)
		held = find_join(worker, 0);
	if (held == NULL)
		wrong(world, "a worker has too many joins");
	held->id = asked->join;
	for (unsigned i = 0; i < world->images_count; i++)
		if (strcmp(world->images[i].file, asked->leaf.path) == 0)
			held->image = &world->images[i];
	message.joined = (struct msg_joined){.join = asked->join, .boot_id = "boot"};
	tell(world, worker, &message);
}

/* What is copied there is stopped and reported first. */
static void leave(struct world *world, struct model_worker *worker, uint64_t id)
{
	struct worker_to_broker message = {.type = WORKER_TO_BROKER_LEFT, .left = {id}};
	struct held_join *held = find_join(worker, id);

	for (unsigned i = 0; i < WORKS_MAX; i++) {
		struct held_work *work = &worker->works[i];

		if (work->join == id && (work->state == WORK_WAITS || work->state == WORK_RUNS))
			ends_with(world, worker, work, WORKER_TO_BROKER_COPY_STOPPED);
	}
	if (held != NULL && id != 0)
		*held = (struct held_join){0};
	tell(world, worker, &message);
}

static unsigned host_of(struct world *world, const struct image *image,
	const struct destination_extent *destination)
{
	if (destination->offset / CLUSTER >= image->hosts)
		wrong(world, "an order is beyond the file");
	return (unsigned)(destination->offset / CLUSTER);
}

static void order(
	struct world *world, struct model_worker *worker, const struct msg_copy_order *asked)
{
	struct held_work *work = NULL;
	struct held_join *held = find_join(worker, asked->join);

	if (asked->generation < worker->generation || has_seen(worker, asked->lease))
		return;
	note_seen(world, worker, asked->lease);
	for (unsigned i = 0; i < WORKS_MAX; i++)
		if (worker->works[i].state == WORK_FREE)
			work = &worker->works[i];
	if (work == NULL)
		wrong(world, "a worker has too much work");
	*work = (struct held_work){.state = WORK_WAITS, .lease = asked->lease, .join = asked->join};
	if (held == NULL || asked->join == 0) {
		ends_with(world, worker, work, WORKER_TO_BROKER_COPY_STOPPED);
		return;
	}
	if (held->image == NULL || asked->destinations_count > CLUSTERS_MAX ||
		asked->offset / CLUSTER + asked->destinations_count > held->image->clusters)
		wrong(world, "an order is beyond the image");
	work->image = held->image;
	work->first = (unsigned)(asked->offset / CLUSTER);
	work->clusters = (unsigned)asked->destinations_count;
	for (unsigned i = 0; i < work->clusters; i++)
		work->host[i] = host_of(world, work->image, &asked->destinations[i]);
}

static void stop(struct world *world, struct model_worker *worker, uint64_t lease)
{
	struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_STOPPED, .copy_stopped = {lease}};
	struct held_work *work = find_work(worker, lease);

	if (work != NULL && work->state != WORK_REPORTED) {
		ends_with(world, worker, work, WORKER_TO_BROKER_COPY_STOPPED);
		return;
	}
	/* One that is on its way on an older connection is not taken up any more. */
	if (!has_seen(worker, lease))
		note_seen(world, worker, lease);
	tell(world, worker, &message);
}

static void acknowledged(struct model_worker *worker, uint64_t lease)
{
	struct held_work *work = find_work(worker, lease);

	if (work != NULL && work->state == WORK_REPORTED)
		work->state = WORK_FREE;
}

static void handle(
	struct world *world, struct model_worker *worker, const struct broker_to_worker *message)
{
	switch (message->type) {
	case BROKER_TO_WORKER_WORKER_WELCOME:
		welcome(world, worker, &message->worker_welcome);
		break;
	case BROKER_TO_WORKER_WORKER_REFUSED:
		worker_kill(world, worker);
		break;
	case BROKER_TO_WORKER_WORKER_UNKNOWN:
		worker->process.is_welcome = false;
		if (!worker->process.is_leaving)
			worker_say_hello(world, worker);
		break;
	case BROKER_TO_WORKER_BROKER_HEARTBEAT:
		break;
	case BROKER_TO_WORKER_JOIN:
		join(world, worker, &message->join);
		break;
	case BROKER_TO_WORKER_LEAVE:
		leave(world, worker, message->leave.join);
		break;
	case BROKER_TO_WORKER_COPY_ORDER:
		order(world, worker, &message->copy_order);
		break;
	case BROKER_TO_WORKER_COPY_STOP:
		stop(world, worker, message->copy_stop.lease);
		break;
	case BROKER_TO_WORKER_REPORT_ACKNOWLEDGED:
		acknowledged(worker, message->report_acknowledged.lease);
		break;
	}
}

void worker_receive(
	struct world *world, struct model_worker *worker, const void *bytes, size_t length)
{
	struct wire_memory memory = {0};
	struct broker_to_worker message;

	if (broker_to_worker_decode(bytes, length, &memory, &message, NULL) < 0)
		wrong(world, "a worker cannot read what the broker sends");
	if (world->is_verbose) {
		printf("%8llu        %s <- ", (unsigned long long)world->now_ms,
			worker->process.name);
		broker_to_worker_print(stdout, &message);
		printf("\n");
	}
	handle(world, worker, &message);
	wire_memory_done(&memory);
}

void worker_say_hello(struct world *world, struct model_worker *worker)
{
	uint64_t joins[JOINS_MAX], leases[WORKS_MAX];
	struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_WORKER_HELLO,
		.worker_hello =
			{
				.protocol = 1,
				.name = worker->process.name,
				.incarnation = worker->process.incarnation,
				.host = "alpha",
				.boot_id = "boot",
				.realm = "realm",
				.pid = 1,
				.slots = worker->slots,
				.joins = joins,
				.leases = leases,
			},
	};

	for (unsigned i = 0; i < JOINS_MAX; i++)
		if (worker->joins[i].id != 0)
			joins[message.worker_hello.joins_count++] = worker->joins[i].id;
	for (unsigned i = 0; i < WORKS_MAX; i++)
		if (worker->works[i].state != WORK_FREE)
			leases[message.worker_hello.leases_count++] = worker->works[i].lease;
	tell(world, worker, &message);
}

/* ---- life and death */

static void starts(struct world *world, void *about, uint64_t number)
{
	struct model_worker *worker = about;
	struct process process = worker->process;

	if (process.is_alive || process.incarnation != number)
		return;
	*worker = (struct model_worker){.slots = 1 + (unsigned)dice_below(&world->dice, 3)};
	process.is_alive = true;
	process.incarnation = ++world->last_incarnation;
	process.is_welcome = process.is_leaving = false;
	process.asleep_until_ms = 0;
	process.heard_ms = world->now_ms;
	process.peer = 0;
	worker->process = process;
	say(world, "%s starts, incarnation %llu", process.name,
		(unsigned long long)process.incarnation);
	worker_say_hello(world, worker);
	process_beat(world, &worker->process);
	at(world, 1, copies, worker, process.incarnation);
}

void worker_start(struct world *world, struct model_worker *worker, uint64_t delay_ms)
{
	at(world, delay_ms, starts, worker, worker->process.incarnation);
}

void worker_kill(struct world *world, struct model_worker *worker)
{
	if (!worker->process.is_alive)
		return;
	say(world, "%s dies", worker->process.name);
	worker->process.is_alive = false;
	network_cut(world, &worker->process);
	worker_start(world, worker,
		dice_below(&world->dice, dice_percent(&world->dice, 20) ? 15000 : 300));
}
