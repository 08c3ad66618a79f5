/* SPDX-License-Identifier: Apache-2.0 */
/* Every callback of the loop ends in the same way: the core has put effects into `effects`, perform_effects does them, and peers
 * that could not be reached go back into the core, until nothing is left to do.
 *
 * Limits: while more than WAITING_BYTES_MAX wait for the disk, or the store works on its reserve, clients that want something new are
 * refused with words; what workers and imageds report is always taken up.  If the disk does not move at all, the process ends at
 * WAITING_BYTES_FATAL rather than by lack of memory; the supervisor starts it anew. */
#include "broker/broker.h"

#include <stdlib.h>
#include <string.h>

#include "broker/event_feed.h"
#include "broker/front.h"
#include "broker/query_events.h"
#include "broker/settle.h"
#include "broker/store.h"
#include "broker/store_writer.h"
#include "common/check.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "schemas/wire_request.h"

#define WAITING_BYTES_MAX   (64U << 20)
#define WAITING_BYTES_FATAL (512U << 20)
#define START_FLUSH_MS	    10000
#define STOP_FLUSH_MS	    500
#define LOG_EVERY_MS	    1000
#define TICK_MS_MAX	    1000

struct broker {
	struct mq *mq;
	struct loop *loop;
	struct front *commands, *workers, *images;
	struct event_feed *events;
	struct store *store;
	struct store_writer *writer;
	struct settle *settle;
	struct core *core;
	struct effects effects;
	struct wire_memory memory; /* of the message in hand */
	uint64_t next_peer, next_client;
	uint64_t submitted, committed; /* the writer's tickets */
	uint64_t *unreachable;	       /* peers that the core does not know to be gone yet */
	size_t unreachable_count, unreachable_room;
	uint64_t rubbish, rubbish_logged, rubbish_log_at_ms;
	char store_folder[1024];
	bool has_failed;
	struct err failure;
};

DEFINE_CLEANUP(broker, broker_free)

static struct core_time time_now(void)
{
	return (struct core_time){clock_monotonic_ms(), clock_realtime_us()};
}

static void fail(struct broker *broker, const struct err *err)
{
	if (!broker->has_failed)
		broker->failure = *err;
	broker->has_failed = true;
	loop_stop(broker->loop);
}

/* ---- effects */

static void send_to_peer(struct broker *broker, struct front *front, const struct effect *effect)
{
	if (front_send(front, effect->peer, effect->bytes, effect->length) == MQ_SENT)
		return;
	if (broker->unreachable_count == broker->unreachable_room) {
		broker->unreachable_room =
			broker->unreachable_room ? broker->unreachable_room * 2 : 16;
		broker->unreachable = must_realloc(broker->unreachable, broker->unreachable_room,
			sizeof(*broker->unreachable));
	}
	broker->unreachable[broker->unreachable_count++] = effect->peer;
}

static void reply(struct broker *broker, uint64_t client, const void *bytes, size_t length)
{
	if (front_send(broker->commands, client, bytes, length) != MQ_SENT)
		log_debug("a client did not wait for its reply");
}

static void answer_query_events(struct broker *broker, const struct effect *effect)
{
	struct wire_buffer answer;
	struct err err;

	wire_buffer_init(&answer);
	if (query_events_answer(broker->store, core_epoch(broker->core), effect->bytes,
		    effect->length, &answer, &err))
		fail(broker, &err);
	else
		reply(broker, effect->peer, answer.bytes, answer.length);
	wire_buffer_done(&answer);
}

static void publish(struct broker *broker, const struct effect *effect)
{
	event_feed_publish(broker->events, effect->topic, effect->bytes, effect->length);
	log_debug("published %s", effect->topic);
}

static void perform(void *owner, const struct effect *effect)
{
	struct broker *broker = owner;

	switch (effect->kind) {
	case EFFECT_SEND_WORKER:
		send_to_peer(broker, broker->workers, effect);
		break;
	case EFFECT_SEND_IMAGED:
		send_to_peer(broker, broker->images, effect);
		break;
	case EFFECT_REPLY:
		reply(broker, effect->peer, effect->bytes, effect->length);
		break;
	case EFFECT_PUBLISH:
		publish(broker, effect);
		break;
	case EFFECT_QUERY_EVENTS:
		answer_query_events(broker, effect);
		break;
	case EFFECT_FORGET_PEER:
		front_forget(broker->workers, effect->peer);
		front_forget(broker->images, effect->peer);
		break;
	case EFFECT_STORE_PUT:
	case EFFECT_STORE_DELETE:
	case EFFECT_STORE_DELETE_PREFIX:
		bug_if(true); /* these go to the writer */
	}
}

static bool is_change(const struct effect *effect)
{
	return effect->kind == EFFECT_STORE_PUT || effect->kind == EFFECT_STORE_DELETE ||
	       effect->kind == EFFECT_STORE_DELETE_PREFIX;
}

static void store_changes(struct broker *broker)
{
	struct store_batch *batch = NULL;

	for (size_t i = 0; i < broker->effects.count; i++) {
		if (!is_change(&broker->effects.items[i]))
			continue;
		if (!batch)
			batch = store_batch_new();
		store_batch_take(batch, &broker->effects.items[i]);
	}
	if (batch)
		broker->submitted = store_writer_submit(broker->writer, batch);
}

/* A peer is forgotten only after what waits to be sent to it. */
static bool must_wait(const struct broker *broker, const struct effect *effect)
{
	if (effect->kind == EFFECT_FORGET_PEER)
		return settle_count(broker->settle) > 0;
	return effect->settled &&
	       (settle_count(broker->settle) > 0 || broker->submitted > broker->committed);
}

static void perform_step(struct broker *broker)
{
	store_changes(broker);
	for (size_t i = 0; i < broker->effects.count; i++) {
		struct effect *effect = &broker->effects.items[i];

		if (is_change(effect))
			continue;
		if (must_wait(broker, effect))
			settle_add(broker->settle, broker->submitted, effect);
		else
			perform(broker, effect);
	}
	effects_clear(&broker->effects);
}

/* What the core asked for, and what follows from peers that are gone. */
static void perform_effects(struct broker *broker)
{
	perform_step(broker);
	while (broker->unreachable_count) {
		uint64_t peer = broker->unreachable[--broker->unreachable_count];

		core_peer_unreachable(broker->core, time_now(), peer, &broker->effects);
		perform_step(broker);
	}
}

/* ---- clients */

/* Answers without the core: nothing of this is stored, so nothing is waited for. */
static void refuse(struct broker *broker, uint64_t client, struct wire_bytes id, const char *why)
{
	struct wire_buffer answer;

	wire_buffer_init(&answer);
	wire_reply_put_error(&answer, id, 0, ERROR_CLASS_GENERIC_ERROR, why, NULL, 0);
	reply(broker, client, answer.bytes, answer.length);
	wire_buffer_done(&answer);
}

static bool asks_for_more(const char *command)
{
	return !strcmp(command, "block_stream") || !strcmp(command, "block-stream") ||
	       !strcmp(command, "device-attach") || !strcmp(command, "device_attach");
}

/* Why nothing can be taken up now; NULL where it can. */
static const char *reason_to_refuse(struct broker *broker, const struct request_envelope *request)
{
	if (settle_bytes(broker->settle) + store_writer_waiting_bytes(broker->writer) >
		WAITING_BYTES_MAX)
		return "the broker's disk is too slow for what is asked of it: try again later";
	if (front_count(broker->commands) > FRONT_REQUESTS_MAX / 4 * 3)
		return "too many requests wait for their reply: try again later";
	if (request->execute && asks_for_more(request->execute) &&
		store_writer_is_low(broker->writer))
		return "the broker's state folder is full: nothing new is taken up until there is space";
	return NULL;
}

static void client_received(void *owner, uint64_t client, const void *bytes, size_t length)
{
	struct broker *broker = owner;
	struct request_envelope request;
	struct err ignored;
	const char *why;

	wire_memory_reset(&broker->memory);
	if (wire_request_read(bytes, length, &broker->memory, &request, &ignored))
		request.execute = NULL;
	why = reason_to_refuse(broker, &request);
	if (why) {
		refuse(broker, client, request.id, why);
		return;
	}
	core_client_request(broker->core, time_now(), client, bytes, length, &broker->effects);
	perform_effects(broker);
}

/* ---- workers and imageds */

/* At most one line a second: rubbish may come fast. */
static void log_rubbish(struct broker *broker, const char *from, const struct err *err)
{
	uint64_t now_ms = clock_monotonic_ms();

	broker->rubbish++;
	if (now_ms < broker->rubbish_log_at_ms)
		return;
	log_warn("%s: a message was refused: %s (%llu since the last such line)", from, err->text,
		(unsigned long long)(broker->rubbish - broker->rubbish_logged));
	broker->rubbish_logged = broker->rubbish;
	broker->rubbish_log_at_ms = now_ms + LOG_EVERY_MS;
}

static void worker_received(void *owner, uint64_t peer, const void *bytes, size_t length)
{
	struct broker *broker = owner;
	struct worker_to_broker message;
	bool is_read;
	struct err err;

	wire_memory_reset(&broker->memory);
	is_read = !worker_to_broker_decode(bytes, length, &broker->memory, &message, &err);
	if (!is_read)
		log_rubbish(broker, "workers", &err);
	core_worker_message(
		broker->core, time_now(), peer, is_read ? &message : NULL, &broker->effects);
	perform_effects(broker);
}

static void imaged_received(void *owner, uint64_t peer, const void *bytes, size_t length)
{
	struct broker *broker = owner;
	struct imaged_to_broker message;
	bool is_read;
	struct err err;

	wire_memory_reset(&broker->memory);
	is_read = !imaged_to_broker_decode(bytes, length, &broker->memory, &message, &err);
	if (!is_read)
		log_rubbish(broker, "images", &err);
	core_imaged_message(
		broker->core, time_now(), peer, is_read ? &message : NULL, &broker->effects);
	perform_effects(broker);
}

/* ---- time and commits */

static void take_commits(void *owner)
{
	struct broker *broker = owner;
	struct err err = {0};
	int64_t committed = store_writer_committed(broker->writer, &err);

	if (committed < 0) {
		fail(broker, &err);
		return;
	}
	broker->committed = (uint64_t)committed;
	settle_release(broker->settle, broker->committed);
	perform_effects(broker);
}

static uint64_t earlier(uint64_t one, uint64_t other)
{
	return one < other ? one : other;
}

static uint64_t tick(void *owner, uint64_t now_ms)
{
	struct broker *broker = owner;
	uint64_t next_ms = now_ms + TICK_MS_MAX;
	struct err err;

	mq_guard_descriptors(broker->mq, now_ms);
	next_ms = earlier(next_ms, core_tick(broker->core, time_now(), &broker->effects));
	perform_effects(broker);
	next_ms = earlier(next_ms, front_tick(broker->commands, now_ms));
	front_tick(broker->workers, now_ms);
	front_tick(broker->images, now_ms);
	if (store_writer_waiting_bytes(broker->writer) > WAITING_BYTES_FATAL) {
		err_set(&err, "the store does not move: %zu bytes wait for '%s'",
			store_writer_waiting_bytes(broker->writer), broker->store_folder);
		fail(broker, &err);
	}
	return next_ms;
}

/* ---- start */

static int load_table(struct broker *broker, enum store_table table, struct err *err)
{
	CLEANUP(store_view_cleanup) struct store_view *view = NULL;
	struct store_record record;
	int found;

	if (store_view_open(broker->store, table, &view, err))
		return -1;
	for (found = store_view_seek(view, "", 0, &record, err); found == 1;
		found = store_view_next(view, &record, err))
		if (core_load(broker->core, table, record.key, record.key_length, record.bytes,
			    record.length, err))
			return -1;
	return found;
}

/* The generation must be durable before anybody hears of it. */
static int start_core(struct broker *broker, const struct broker_options *options, struct err *err)
{
	broker->core = core_new(&options->core);
	for (int table = 0; table < STORE_TABLES; table++)
		if (load_table(broker, (enum store_table)table, err))
			return -1;
	if (core_started(broker->core, time_now(), &broker->effects, err))
		return -1;
	perform_effects(broker);
	if (!store_writer_flush(broker->writer, START_FLUSH_MS))
		return err_set(err, "the store in '%s' could not be written within %d s",
			options->state, START_FLUSH_MS / 1000);
	take_commits(broker);
	if (broker->has_failed)
		*err = broker->failure;
	return broker->has_failed ? -1 : 0;
}

static int open_store(struct broker *broker, const struct broker_options *options, struct err *err)
{
	struct store_options store_options = {.folder = options->state};

	strncpy(broker->store_folder, options->state, sizeof(broker->store_folder) - 1);
	if (store_open(&store_options, &broker->store, err) || store_upgrade(broker->store, err))
		return -1;
	broker->writer = store_writer_new(broker->store, err);
	if (!broker->writer)
		return -1;
	return loop_add_fd(
		broker->loop, store_writer_fd(broker->writer), take_commits, broker, err);
}

static struct front *new_front(struct broker *broker, const char *name, enum front_kind kind,
	uint64_t *next_number, void (*received)(void *, uint64_t, const void *, size_t),
	struct err *err)
{
	struct front_options options = {
		.name = name,
		.kind = kind,
		.next_number = next_number,
		.received = received,
		.owner = broker,
	};

	return front_new(broker->mq, broker->loop, &options, err);
}

static int make_sockets(struct broker *broker, struct err *err)
{
	broker->commands = new_front(
		broker, "commands", FRONT_CLIENTS, &broker->next_client, client_received, err);
	if (!broker->commands)
		return -1;
	broker->workers =
		new_front(broker, "workers", FRONT_PEERS, &broker->next_peer, worker_received, err);
	if (!broker->workers)
		return -1;
	broker->images =
		new_front(broker, "images", FRONT_PEERS, &broker->next_peer, imaged_received, err);
	if (!broker->images)
		return -1;
	broker->events = event_feed_new(broker->mq, err);
	return broker->events ? 0 : -1;
}

static int bind_front(struct front *front, const struct option_list *endpoints, struct err *err)
{
	for (size_t i = 0; i < endpoints->count; i++)
		if (front_bind(front, endpoints->values[i], err))
			return -1;
	return 0;
}

static int bind_all(struct broker *broker, const struct broker_options *options, struct err *err)
{
	for (size_t i = 0; i < options->events->count; i++)
		if (event_feed_bind(broker->events, options->events->values[i], err))
			return -1;
	if (bind_front(broker->workers, options->workers, err) ||
		bind_front(broker->images, options->images, err))
		return -1;
	return bind_front(broker->commands, options->commands, err);
}

struct broker *broker_new(const struct broker_options *options, struct err *err)
{
	CLEANUP(broker_cleanup) struct broker *broker = must_calloc(1, sizeof(*broker));

	effects_init(&broker->effects);
	wire_memory_init(&broker->memory);
	broker->settle = settle_new(perform, broker);
	broker->loop = loop_new(err);
	if (!broker->loop || loop_stop_on_signals(broker->loop, err))
		return NULL;
	broker->mq = mq_new(err);
	if (!broker->mq || make_sockets(broker, err))
		return NULL;
	if (open_store(broker, options, err) || start_core(broker, options, err) ||
		bind_all(broker, options, err))
		return NULL;
	if (loop_add_tick(broker->loop, tick, broker, err))
		return NULL;
	return steal(&broker);
}

/* ---- end */

void broker_free(struct broker *broker)
{
	if (!broker)
		return;
	if (broker->writer) {
		loop_remove_fd(broker->loop, store_writer_fd(broker->writer));
		store_writer_free(broker->writer);
	}
	if (broker->loop)
		loop_remove_tick(broker->loop, tick, broker);
	front_free(broker->commands);
	front_free(broker->workers);
	front_free(broker->images);
	event_feed_free(broker->events);
	settle_free(broker->settle);
	core_free(broker->core);
	store_close(broker->store);
	loop_free(broker->loop);
	mq_free(broker->mq);
	wire_memory_done(&broker->memory);
	effects_done(&broker->effects);
	free(broker->unreachable);
	free(broker);
}

/* Commits what is queued and lets go of what waited for it. */
static void finish(struct broker *broker)
{
	if (!store_writer_flush(broker->writer, STOP_FLUSH_MS))
		log_warn(
			"stopping while %zu bytes still wait for the disk: what was not answered is not done",
			store_writer_waiting_bytes(broker->writer));
	take_commits(broker);
}

int broker_run(struct broker *broker, struct err *err)
{
	if (loop_run(broker->loop, err))
		return -1;
	if (!broker->has_failed)
		finish(broker);
	if (broker->has_failed)
		*err = broker->failure;
	return broker->has_failed ? -1 : 0;
}
