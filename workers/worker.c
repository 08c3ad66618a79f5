/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker says and does when the broker says something.
 *
 * An order is in exactly one of three places:
 *
 *      copy_order ──▶ in hand (waiting for a thread, or being copied) ──its end──▶ report ──acknowledged──▶ only remembered
 *                        │ copy_stop: taken back, or told to stop ──────▲
 *
 * Its id is remembered from the first mention on, so that no message, however late or doubled, makes it be copied (again) after
 * the broker was told that nothing is written under it.  Between a hello and its welcome no order is taken: the broker that
 * reads that hello takes every lease that is not in it for one that this worker does not hold. */
#include "workers/worker.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/link.h"
#include "common/log.h"
#include "common/random.h"
#include "schemas/worker_broker.gen.h"
#include "workers/copy_threads.h"
#include "workers/joins.h"
#include "workers/lease_memory.h"
#include "workers/voice.h"

#define PROTOCOL	     1
#define HEARTBEAT_MS	     1000
#define TIMEOUT_MS	     5000
#define FRAME_BYTES_MAX	     ((size_t)4 << 20)
#define PROGRESS_INTERVAL_MS 500
#define LEASES_MAX	     MSG_WORKER_HELLO_LEASES_MAX /* in hand and to be acknowledged */
#define GOODBYE_FINISH_MS    3000 /* what is being copied may go on so long ... */
#define GOODBYE_END_MS \
	4500 /* ... and what has not ended by then is left to the end of the process */

struct in_hand {
	struct copy_task *task;
	struct join *join;
	uint64_t bytes_told;
};

struct worker {
	struct worker_options options;
	const struct roots *roots;
	struct loop *loop;
	struct copy_threads *threads;
	struct joins *joins;
	struct voice voice;
	struct lease_memory *seen;
	struct in_hand in_hand[LEASES_MAX];
	size_t in_hand_count;
	struct wire_memory memory; /* of the message being handled */
	uint64_t incarnation;
	uint64_t generation; /* of the last welcome */
	uint64_t progress_due_ms;
	uint64_t goodbye_ms; /* when goodbye was said; 0: it was not */
	bool is_refused;
	struct err refusal;
};

/* ---- saying */

static void say_hello(void *owner)
{
	struct worker *worker = owner;
	uint64_t joins[JOINS_MAX];
	uint64_t leases[LEASES_MAX];
	size_t joins_said = joins_count(worker->joins);
	size_t leases_said = 0;

	for (size_t i = 0; i < joins_said; i++)
		joins[i] = joins_at(worker->joins, i)->id;
	for (size_t i = 0; i < worker->in_hand_count; i++)
		leases[leases_said++] = worker->in_hand[i].task->order->lease;
	for (size_t i = 0; i < reports_count(worker->voice.reports); i++)
		leases[leases_said++] = reports_at(worker->voice.reports, i)->lease;

	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_WORKER_HELLO,
		.worker_hello =
			{
				.protocol = PROTOCOL,
				.name = worker->options.name,
				.incarnation = worker->incarnation,
				.host = worker->options.host,
				.boot_id = worker->options.boot_id,
				.realm = worker->options.realm,
				.pid = (uint64_t)getpid(),
				.slots = worker->options.slots,
				.joins = joins,
				.joins_count = joins_said,
				.leases = leases,
				.leases_count = leases_said,
			},
	};
	voice_say(&worker->voice, &message);
}

static void say_heartbeat(void *owner)
{
	struct worker *worker = owner;
	const struct worker_to_broker message = {.type = WORKER_TO_BROKER_WORKER_HEARTBEAT};

	voice_say(&worker->voice, &message);
}

static void link_lost(void *owner)
{
	struct worker *worker = owner;

	log_warn("lost the broker, looking for it; orders in hand: %zu, going on with them",
		worker->in_hand_count);
}

static void say_progress(struct worker *worker)
{
	for (size_t i = 0; i < worker->in_hand_count; i++) {
		struct in_hand *held = &worker->in_hand[i];
		uint64_t bytes =
			atomic_load_explicit(&held->task->control.bytes_done, memory_order_relaxed);
		if (bytes == held->bytes_told)
			continue;
		voice_say_progress(&worker->voice, held->task->order->lease, bytes);
		held->bytes_told = bytes;
	}
}

/* ---- joins */

static void handle_join(struct worker *worker, const struct msg_join *message)
{
	struct err err = {0};
	struct join *join = joins_find(worker->joins, message->join);

	if (join && join->is_leaving)
		return; /* it will hear that we left */
	if (join) {
		voice_say_joined(&worker->voice, join, worker->options.boot_id);
		return;
	}
	if (joins_open(worker->joins, worker->roots, message, &join, &err) < 0) {
		log_warn("device=%s join=%" PRIu64 " refused: %s", message->device, message->join,
			err.text);
		voice_say_join_refused(&worker->voice, message->join, &err);
		return;
	}
	log_info("device=%s join=%" PRIu64 " joined the leaf %s", join->device, join->id,
		join->files.leaf.path);
	voice_say_joined(&worker->voice, join, worker->options.boot_id);
}

static void leave_if_idle(struct worker *worker, struct join *join)
{
	uint64_t id = join->id;

	if (!join->is_leaving || join->orders > 0)
		return;
	log_info("device=%s join=%" PRIu64 " left the leaf %s", join->device, id,
		join->files.leaf.path);
	joins_close(worker->joins, join);
	voice_say_left(&worker->voice, id);
}

/* ---- orders */

/* Takes the order out of the hand; its task is the caller's again. */
static struct in_hand let_go(struct worker *worker, size_t index)
{
	struct in_hand held = worker->in_hand[index];

	bug_if(held.join->orders == 0);
	held.join->orders--;
	worker->in_hand[index] = worker->in_hand[--worker->in_hand_count];
	return held;
}

static size_t find_in_hand(const struct worker *worker, uint64_t lease)
{
	size_t i = 0;

	while (i < worker->in_hand_count && worker->in_hand[i].task->order->lease != lease)
		i++;
	return i;
}

/* One that no thread has taken up ends at once, another as soon as its write in progress is done. */
static void stop_order(struct worker *worker, size_t index)
{
	struct copy_task *task = worker->in_hand[index].task;

	if (!copy_threads_withdraw(worker->threads, task)) {
		atomic_store_explicit(&task->control.stop, true, memory_order_relaxed);
		return;
	}
	struct in_hand held = let_go(worker, index);
	voice_report_stopped(&worker->voice, task->order->lease);
	copy_task_free(task);
	leave_if_idle(worker, held.join);
}

/* Why an order is not even looked at; NULL: it is. */
static const char *order_is_void(const struct worker *worker, const struct msg_copy_order *order)
{
	if (lease_memory_knows(worker->seen, order->lease))
		return "its lease was seen before";
	if (!link_is_up(worker->voice.link))
		return "it came before the broker's welcome";
	if (order->generation != worker->generation)
		return "it is of another start of the broker";
	if (worker->in_hand_count + reports_count(worker->voice.reports) >= LEASES_MAX)
		return "there are too many in hand";
	return NULL;
}

static void take_up(struct worker *worker, struct join *join, struct copy_order *order)
{
	struct copy_task *task = copy_task_new(order, &join->files);

	worker->in_hand[worker->in_hand_count++] = (struct in_hand){.task = task, .join = join};
	join->orders++;
	copy_threads_submit(worker->threads, task);
}

static void handle_copy_order(struct worker *worker, const struct msg_copy_order *message)
{
	const char *reason = order_is_void(worker, message);
	struct err err = {0};

	if (reason)
		log_warn("lease=%" PRIu64 " copy order ignored: %s", message->lease, reason);
	lease_memory_add(worker->seen, message->lease);
	if (reason)
		return;

	struct join *join = joins_find(worker->joins, message->join);
	if (!join || join->is_leaving || worker->goodbye_ms) {
		voice_report_stopped(&worker->voice, message->lease);
		return;
	}
	const struct copy_order_frame frame = {
		.cluster_bytes = join->cluster_bytes, .files_count = join->sources_count};
	struct copy_order *order;
	if (copy_order_new(message, &frame, &order, &err) < 0) {
		log_error("device=%s lease=%" PRIu64 " malformed copy order, not carried out: %s",
			join->device, message->lease, err.text);
		voice_report_malformed(&worker->voice, message, join->files.leaf.path, &err);
		return;
	}
	take_up(worker, join, order);
}

static void handle_copy_stop(struct worker *worker, const struct msg_copy_stop *message)
{
	size_t index = find_in_hand(worker, message->lease);

	lease_memory_add(worker->seen, message->lease);
	if (index < worker->in_hand_count)
		stop_order(worker, index);
	else if (!voice_repeat(&worker->voice, message->lease))
		voice_say_not_held(&worker->voice, message->lease);
}

static void handle_leave(struct worker *worker, const struct msg_leave *message)
{
	struct join *join = joins_find(worker->joins, message->join);

	if (!join) {
		voice_say_left(&worker->voice, message->join);
		return;
	}
	join->is_leaving = true;
	join->orders++; /* so that the last stop does not close it under our hands */
	for (size_t i = worker->in_hand_count; i-- > 0;) {
		if (worker->in_hand[i].join == join)
			stop_order(worker, i);
	}
	join->orders--;
	leave_if_idle(worker, join);
}

/* ---- ends of orders */

static void log_end(const struct in_hand *held)
{
	const struct copy_task *task = held->task;

	if (task->outcome.end == COPY_END_FAILED)
		log_warn("device=%s lease=%" PRIu64 " gave up the range: %s", held->join->device,
			task->order->lease, task->outcome.failure.err.text);
}

static void take_finished(void *owner)
{
	struct worker *worker = owner;
	struct copy_task *task;

	while ((task = copy_threads_finished(worker->threads))) {
		size_t index = find_in_hand(worker, task->order->lease);
		bug_if(index == worker->in_hand_count);

		struct in_hand held = let_go(worker, index);
		log_end(&held);
		voice_report_end(&worker->voice, task);
		copy_task_free(task);
		leave_if_idle(worker, held.join);
	}
}

/* ---- the conversation */

static void handle_worker_welcome(struct worker *worker, const struct msg_worker_welcome *message)
{
	log_info("welcomed by the broker generation=%" PRIu64, message->generation);
	worker->generation = message->generation;
	link_welcomed(worker->voice.link, message->heartbeat_ms);
	voice_repeat_all(&worker->voice);
}

static void handle_worker_refused(struct worker *worker, const struct msg_worker_refused *message)
{
	worker->is_refused = true;
	err_set(&worker->refusal, "refused by the broker: %s", message->msg);
	loop_stop(worker->loop);
}

static void handle(struct worker *worker, const struct broker_to_worker *message)
{
	switch (message->type) {
	case BROKER_TO_WORKER_WORKER_WELCOME:
		handle_worker_welcome(worker, &message->worker_welcome);
		return;
	case BROKER_TO_WORKER_WORKER_REFUSED:
		handle_worker_refused(worker, &message->worker_refused);
		return;
	case BROKER_TO_WORKER_WORKER_UNKNOWN:
		link_say_hello(worker->voice.link);
		return;
	case BROKER_TO_WORKER_BROKER_HEARTBEAT:
		return;
	case BROKER_TO_WORKER_JOIN:
		handle_join(worker, &message->join);
		return;
	case BROKER_TO_WORKER_LEAVE:
		handle_leave(worker, &message->leave);
		return;
	case BROKER_TO_WORKER_COPY_ORDER:
		handle_copy_order(worker, &message->copy_order);
		return;
	case BROKER_TO_WORKER_COPY_STOP:
		handle_copy_stop(worker, &message->copy_stop);
		return;
	case BROKER_TO_WORKER_REPORT_ACKNOWLEDGED:
		reports_forget(worker->voice.reports, message->report_acknowledged.lease);
		return;
	}
}

static void received(void *owner, const void *bytes, size_t length)
{
	struct worker *worker = owner;
	struct broker_to_worker message;
	struct err err = {0};

	wire_memory_reset(&worker->memory);
	if (broker_to_worker_decode(bytes, length, &worker->memory, &message, &err) < 0) {
		log_warn("a message of %zu bytes from the broker ignored: %s", length, err.text);
		return;
	}
	handle(worker, &message);
}

/* ---- time */

/* Gives up what has not ended in time; stops the loop when nothing is left to be said. */
static uint64_t tick_goodbye(struct worker *worker, uint64_t now_ms)
{
	uint64_t finish_ms = worker->goodbye_ms + GOODBYE_FINISH_MS;
	uint64_t end_ms = worker->goodbye_ms + GOODBYE_END_MS;
	bool is_said = reports_count(worker->voice.reports) == 0 || !link_is_up(worker->voice.link);

	if ((worker->in_hand_count == 0 && is_said) || now_ms >= end_ms)
		loop_stop(worker->loop);
	if (now_ms < finish_ms)
		return finish_ms;
	for (size_t i = worker->in_hand_count; i-- > 0;)
		stop_order(worker, i);
	return end_ms;
}

static uint64_t tick(void *owner, uint64_t now_ms)
{
	struct worker *worker = owner;
	uint64_t due_ms = UINT64_MAX;

	if (now_ms >= worker->progress_due_ms) {
		worker->progress_due_ms = now_ms + PROGRESS_INTERVAL_MS;
		if (link_is_up(worker->voice.link))
			say_progress(worker);
	}
	if (worker->in_hand_count > 0)
		due_ms = worker->progress_due_ms;
	if (worker->goodbye_ms) {
		uint64_t goodbye_due_ms = tick_goodbye(worker, now_ms);
		due_ms = goodbye_due_ms < due_ms ? goodbye_due_ms : due_ms;
	}
	return due_ms;
}

void worker_begin_goodbye(struct worker *worker)
{
	const struct worker_to_broker message = {.type = WORKER_TO_BROKER_WORKER_GOODBYE};

	log_info("taking no more orders; in hand: %zu", worker->in_hand_count);
	worker->goodbye_ms = clock_monotonic_ms();
	if (link_is_up(worker->voice.link))
		voice_say(&worker->voice, &message);
	for (size_t i = worker->in_hand_count; i-- > 0;) {
		if (atomic_load(&worker->in_hand[i].task->control.bytes_done) == 0)
			stop_order(worker, i);
	}
}

bool worker_is_refused(const struct worker *worker, struct err *err)
{
	if (worker->is_refused)
		*err = worker->refusal;
	return worker->is_refused;
}

/* ---- life */

static int connect_parts(struct worker *worker, struct mq *mq, struct err *err)
{
	const struct link_options link_options = {
		.endpoint = worker->options.endpoint,
		.heartbeat_ms = HEARTBEAT_MS,
		.timeout_ms = TIMEOUT_MS,
		.max_frame_bytes = FRAME_BYTES_MAX,
	};
	const struct link_owner owner = {
		.owner = worker,
		.received = received,
		.say_hello = say_hello,
		.say_heartbeat = say_heartbeat,
		.lost = link_lost,
	};

	worker->threads = copy_threads_new(worker->options.slots, err);
	if (!worker->threads)
		return -1;
	worker->voice.link = link_new(mq, worker->loop, &link_options, &owner, err);
	if (!worker->voice.link)
		return -1;
	if (loop_add_fd(worker->loop, copy_threads_descriptor(worker->threads), take_finished,
		    worker, err) < 0)
		return -1;
	return loop_add_tick(worker->loop, tick, worker, err);
}

struct worker *worker_new(const struct worker_options *options, const struct roots *roots,
	struct mq *mq, struct loop *loop, struct err *err)
{
	struct worker *worker = must_calloc(1, sizeof *worker);

	worker->options = *options;
	worker->roots = roots;
	worker->loop = loop;
	worker->joins = joins_new();
	worker->seen = lease_memory_new();
	worker->incarnation = random_id();
	voice_init(&worker->voice);
	wire_memory_init(&worker->memory);
	if (connect_parts(worker, mq, err) < 0) {
		worker_free(worker);
		return NULL;
	}
	return worker;
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	link_free(worker->voice.link);
	wire_memory_done(&worker->memory);
	voice_done(&worker->voice);
	lease_memory_free(worker->seen);
	if (worker->in_hand_count > 0) {
		log_warn(
			"%zu copies hang; the end of the process ends them", worker->in_hand_count);
		return; /* threads still use the rest */
	}
	if (worker->threads)
		loop_remove_fd(worker->loop, copy_threads_descriptor(worker->threads));
	copy_threads_free(worker->threads);
	joins_free(worker->joins);
	free(worker);
}
