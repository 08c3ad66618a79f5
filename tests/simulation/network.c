/* SPDX-License-Identifier: Apache-2.0 */
/* Connections between processes and the broker.  On one connection messages keep their order,
 * may be late, may come twice; a connection may break, and what was on its way is lost with it,
 * now and then after part of it came through.  A broken connection is noticed by the process (it
 * says hello on the next one) and by the broker when it sends.  Single messages of workers may
 * be lost as well. */
#include <stdlib.h>
#include <string.h>

#include "tests/simulation/parts.h"

#define TIMEOUT_MS 5000
#define BEAT_MS	   1000

struct parcel {
	struct process *process;
	uint64_t incarnation;
	uint64_t peer;
	size_t length;
	unsigned char bytes[];
};

static struct process *process_at(struct world *world, unsigned number)
{
	if (number < WORKERS)
		return &world->workers[number].process;
	return number - WORKERS < IMAGEDS ? &world->imageds[number - WORKERS].process : NULL;
}

struct process *process_of_peer(struct world *world, uint64_t peer)
{
	struct process *process;

	for (unsigned i = 0; (process = process_at(world, i)) != NULL; i++)
		if (peer != 0 && process->peer == peer)
			return process;
	return NULL;
}

static struct parcel *pack(struct process *process, const void *bytes, size_t length)
{
	struct parcel *parcel = malloc(sizeof(*parcel) + length);

	parcel->process = process;
	parcel->incarnation = process->incarnation;
	parcel->peer = process->peer;
	parcel->length = length;
	memcpy(parcel->bytes, bytes, length);
	return parcel;
}

static uint64_t delay(struct world *world)
{
	if (!world->is_calm && dice_permille(&world->dice, world->faults.late))
		return dice_below(&world->dice, 3000);
	return dice_below(&world->dice, 3);
}

static uint64_t in_order(struct world *world, uint64_t *last_ms)
{
	uint64_t due_ms = world->now_ms + delay(world);

	if (due_ms < *last_ms)
		due_ms = *last_ms;
	*last_ms = due_ms;
	return due_ms - world->now_ms;
}

static bool is_chance(struct world *world, unsigned permille)
{
	return !world->is_calm && dice_permille(&world->dice, permille);
}

/* ---- to the broker */

static void arrives_at_broker(struct world *world, void *about, uint64_t number)
{
	struct parcel *parcel = about;

	(void)number;
	if (parcel->peer == parcel->process->peer && parcel->peer != 0 && broker_is_alive(world)) {
		if (parcel->process->kind == PROCESS_WORKER)
			broker_worker_message(world, parcel->peer, parcel->bytes, parcel->length);
		else
			broker_imaged_message(world, parcel->peer, parcel->bytes, parcel->length);
	}
	free(parcel);
}

void process_send(struct world *world, struct process *process, struct wire_buffer *message)
{
	bool is_worker = process->kind == PROCESS_WORKER;

	if (!broker_is_alive(world))
		return; /* nobody listens: lost, as a full queue would */
	if (process->peer == 0) {
		process->peer = ++world->last_peer;
		process->last_sent_ms = process->last_got_ms = 0;
	}
	if (is_worker && is_chance(world, world->faults.lost))
		return;
	if (is_chance(world, world->faults.lies))
		lie(world, process, message);
	for (unsigned copies = 1 + is_chance(world, world->faults.doubled); copies > 0; copies--)
		at(world, in_order(world, &process->last_sent_ms), arrives_at_broker,
			pack(process, message->bytes, message->length), 0);
	if (is_chance(world, world->faults.reset))
		network_cut(world, process);
}

/* ---- from the broker */

static void arrives_at_process(struct world *world, void *about, uint64_t number);

/* A process that sleeps finds its messages when it wakes. */
static void deliver(struct world *world, struct parcel *parcel)
{
	struct process *process = parcel->process;

	process->heard_ms = world->now_ms;
	if (process->kind == PROCESS_WORKER)
		worker_receive(
			world, (struct model_worker *)process, parcel->bytes, parcel->length);
	else
		imaged_receive(
			world, (struct model_imaged *)process, parcel->bytes, parcel->length);
}

static void arrives_at_process(struct world *world, void *about, uint64_t number)
{
	struct parcel *parcel = about;
	struct process *process = parcel->process;
	/* What came in on a connection that broke meanwhile may still be read, also after what
	 * came on the next one. */
	bool comes_through = parcel->peer == process->peer || number == 1;

	if (process->is_alive && process->incarnation == parcel->incarnation && comes_through) {
		if (process->asleep_until_ms > world->now_ms) {
			at(world, process->asleep_until_ms - world->now_ms, arrives_at_process,
				parcel, 1);
			return;
		}
		deliver(world, parcel);
	}
	free(parcel);
}

bool network_to_peer(struct world *world, uint64_t peer, const void *bytes, size_t length)
{
	struct process *process = process_of_peer(world, peer);

	if (process == NULL)
		return false;
	if (process->kind == PROCESS_WORKER && is_chance(world, world->faults.lost))
		return true;
	for (unsigned copies = 1 + is_chance(world, world->faults.doubled); copies > 0; copies--)
		at(world, in_order(world, &process->last_got_ms), arrives_at_process,
			pack(process, bytes, length), dice_percent(&world->dice, 30));
	if (is_chance(world, world->faults.reset))
		network_cut(world, process);
	return true;
}

/* ---- the link */

static void say_hello(struct world *world, struct process *process)
{
	process->is_welcome = false;
	if (process->kind == PROCESS_WORKER)
		worker_say_hello(world, (struct model_worker *)process);
	else
		imaged_say_hello(world, (struct model_imaged *)process);
}

static void notices_cut(struct world *world, void *about, uint64_t number)
{
	struct process *process = about;

	if (process->is_alive && process->incarnation == number &&
		process->asleep_until_ms <= world->now_ms)
		say_hello(world, process);
}

void network_cut(struct world *world, struct process *process)
{
	if (process->peer == 0)
		return;
	say(world, "connection %llu of %s breaks", (unsigned long long)process->peer,
		process->name);
	process->peer = 0;
	process->is_welcome = false;
	process->lost_order = true;
	if (process->is_alive)
		at(world, dice_below(&world->dice, 100), notices_cut, process,
			process->incarnation);
}

void network_cut_all(struct world *world)
{
	struct process *process;

	for (unsigned i = 0; (process = process_at(world, i)) != NULL; i++)
		network_cut(world, process);
}

static void say_heartbeat(struct world *world, struct process *process)
{
	struct wire_buffer buffer = {0};
	struct worker_to_broker worker = {.type = WORKER_TO_BROKER_WORKER_HEARTBEAT};
	struct imaged_to_broker imaged = {.type = IMAGED_TO_BROKER_IMAGED_HEARTBEAT};

	if (process->kind == PROCESS_WORKER)
		worker_to_broker_encode(&worker, &buffer);
	else
		imaged_to_broker_encode(&imaged, &buffer);
	process_send(world, process, &buffer);
	wire_buffer_done(&buffer);
}

static void beats(struct world *world, void *about, uint64_t number)
{
	struct process *process = about;

	if (!process->is_alive || process->incarnation != number)
		return;
	at(world, BEAT_MS, beats, process, number);
	if (process->asleep_until_ms > world->now_ms)
		return;
	if (world->now_ms > process->heard_ms + TIMEOUT_MS)
		process->is_welcome = false;
	if (process->is_welcome)
		say_heartbeat(world, process);
	else if (!process->is_leaving)
		say_hello(world, process);
}

void process_beat(struct world *world, struct process *process)
{
	at(world, BEAT_MS, beats, process, process->incarnation);
}

/* At the end of a history: what is still on its way. */
void network_forget(const struct occasion *occasion)
{
	if (occasion->happens == arrives_at_broker || occasion->happens == arrives_at_process)
		free(occasion->about);
}
