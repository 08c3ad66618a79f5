/* SPDX-License-Identifier: Apache-2.0 */
/* The broker's shell as a model: performs the core's effects as the real one does, keeps a store
 * of which only what is committed survives, and dies at any moment. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/index.h"
#include "tests/simulation/parts.h"

struct record {
	char key[2 * EFFECT_KEY_MAX + 8]; /* table and key in hexadecimal */
	enum store_table table;
	unsigned char raw_key[EFFECT_KEY_MAX];
	size_t key_length;
	unsigned char *bytes;
	size_t length;
};

/* One step: its store effects are one transaction, its settled effects wait for that. */
struct transaction {
	struct transaction *next;
	struct effects effects;
};

struct broker_host {
	struct core *core; /* NULL: dead */
	uint64_t life;
	struct index store;
	struct transaction *first, **last;
	bool commit_is_due;
	uint64_t tick_ms; /* when the core wants to be called; the earliest call that is arranged */
};

struct broker_host *broker_new(void)
{
	struct broker_host *broker = calloc(1, sizeof(*broker));

	index_init(&broker->store, 1);
	broker->last = &broker->first;
	return broker;
}

static void record_free(struct record *record)
{
	free(record->bytes);
	free(record);
}

static void transactions_free(struct broker_host *broker)
{
	while (broker->first != NULL) {
		struct transaction *transaction = broker->first;

		broker->first = transaction->next;
		effects_done(&transaction->effects);
		free(transaction);
	}
	broker->last = &broker->first;
}

void broker_free(struct broker_host *broker)
{
	struct record *record;
	size_t place = 0;

	core_free(broker->core);
	transactions_free(broker);
	while ((record = index_next(&broker->store, &place)) != NULL)
		record_free(record);
	index_done(&broker->store);
	free(broker);
}

bool broker_is_alive(const struct world *world)
{
	return world->broker->core != NULL;
}

static struct core_time now(const struct world *world)
{
	return (struct core_time){world->now_ms, 1700000000000000 + world->now_ms * 1000};
}

/* ---- the store */

static void key_text(
	enum store_table table, const unsigned char *key, size_t length, char *ret_text)
{
	ret_text += sprintf(ret_text, "%d:", table);
	for (size_t i = 0; i < length; i++)
		ret_text += sprintf(ret_text, "%02x", key[i]);
	*ret_text = 0;
}

static void store_remove(struct broker_host *broker, const char *key)
{
	struct record *record = index_find_name(&broker->store, key);

	if (record == NULL)
		return;
	index_remove_name(&broker->store, key);
	record_free(record);
}

static uint64_t be64(const unsigned char *bytes)
{
	uint64_t number = 0;

	for (int i = 0; i < 8; i++)
		number = number << 8 | bytes[i];
	return number;
}

static void store_put(struct world *world, const struct effect *effect)
{
	struct record *record = calloc(1, sizeof(*record));

	key_text(effect->table, effect->key, effect->key_length, record->key);
	record->table = effect->table;
	memcpy(record->raw_key, effect->key, effect->key_length);
	record->key_length = effect->key_length;
	record->bytes = malloc(effect->length + 1);
	memcpy(record->bytes, effect->bytes, effect->length);
	record->length = effect->length;
	store_remove(world->broker, record->key);
	index_add_name(&world->broker->store, record->key, record);
	if (effect->table == STORE_EVENTS)
		watch_event_committed(world, be64(effect->key), effect->bytes, effect->length);
}

static void store_delete_prefix(struct broker_host *broker, const char *prefix)
{
	struct record *record;
	size_t place = 0;

	while ((record = index_next(&broker->store, &place)) != NULL)
		if (strncmp(record->key, prefix, strlen(prefix)) == 0) {
			store_remove(broker, record->key);
			place = 0;
		}
}

static bool is_store_effect(const struct effect *effect)
{
	return effect->kind == EFFECT_STORE_PUT || effect->kind == EFFECT_STORE_DELETE ||
	       effect->kind == EFFECT_STORE_DELETE_PREFIX;
}

static void commit(struct world *world, const struct transaction *transaction)
{
	char key[2 * EFFECT_KEY_MAX + 8];

	for (size_t i = 0; i < transaction->effects.count; i++) {
		const struct effect *effect = &transaction->effects.items[i];

		if (!is_store_effect(effect))
			continue;
		key_text(effect->table, effect->key, effect->key_length, key);
		if (effect->kind == EFFECT_STORE_PUT)
			store_put(world, effect);
		else if (effect->kind == EFFECT_STORE_DELETE)
			store_remove(world->broker, key);
		else
			store_delete_prefix(world->broker, key);
	}
}

size_t broker_jobs(const struct world *world)
{
	struct record *record;
	size_t place = 0, count = 0;

	while ((record = index_next(&world->broker->store, &place)) != NULL)
		count += record->table == STORE_JOBS;
	return count;
}

/* ---- effects */

static void follow(struct world *world, struct effects *effects);

/* What the real shell's network would say; the core hears of it after the step. */
static bool send(struct world *world, const struct effect *effect)
{
	if (effect->kind == EFFECT_SEND_WORKER) {
		struct process *process = process_of_peer(world, effect->peer);
		struct wire_memory memory = {0};
		struct broker_to_worker message;

		if (broker_to_worker_decode(
			    effect->bytes, effect->length, &memory, &message, NULL) < 0)
			wrong(world, "the core sends a worker what cannot be read");
		if (message.type == BROKER_TO_WORKER_COPY_ORDER && process != NULL)
			watch_order_sent(
				world, (struct model_worker *)process, message.copy_order.lease);
		wire_memory_done(&memory);
	}
	return network_to_peer(world, effect->peer, effect->bytes, effect->length);
}

static bool perform(struct world *world, const struct effect *effect)
{
	switch (effect->kind) {
	case EFFECT_SEND_WORKER:
	case EFFECT_SEND_IMAGED:
		return send(world, effect);
	case EFFECT_REPLY:
	case EFFECT_QUERY_EVENTS:
		client_receive(world, effect->peer, effect->bytes, effect->length);
		break;
	case EFFECT_PUBLISH:
		watch_event_published(world, effect->topic, effect->bytes, effect->length);
		break;
	case EFFECT_STORE_PUT:
	case EFFECT_STORE_DELETE:
	case EFFECT_STORE_DELETE_PREFIX:
	case EFFECT_FORGET_PEER:
		break;
	}
	return true;
}

static void tell_unreachable(struct world *world, uint64_t peer)
{
	struct effects effects;

	if (!broker_is_alive(world))
		return;
	effects_init(&effects);
	core_peer_unreachable(world->broker->core, now(world), peer, &effects);
	follow(world, &effects);
	effects_done(&effects);
}

static void check_settled(struct world *world, const struct effect *effect)
{
	struct wire_memory memory = {0};
	struct broker_to_imaged message;

	if ((effect->kind == EFFECT_REPLY || effect->kind == EFFECT_PUBLISH ||
		    effect->kind == EFFECT_QUERY_EVENTS) &&
		!effect->settled)
		wrong(world, "an effect that users see does not wait for the store");
	if (effect->kind != EFFECT_SEND_IMAGED)
		return;
	if (broker_to_imaged_decode(effect->bytes, effect->length, &memory, &message, NULL) < 0)
		wrong(world, "the core sends imaged what cannot be read");
	if (message.type == BROKER_TO_IMAGED_FINISH && !effect->settled)
		wrong(world, "a finish does not wait for the store");
	wire_memory_done(&memory);
}

static void commit_due(struct world *world, void *about, uint64_t number);

static void arrange_commit(struct world *world)
{
	struct broker_host *broker = world->broker;

	if (broker->commit_is_due || broker->first == NULL)
		return;
	broker->commit_is_due = true;
	at(world, dice_below(&world->dice, dice_percent(&world->dice, 5) ? 300 : 4), commit_due,
		NULL, broker->life);
}

/* Who cannot be reached is told of when all is done: what follows from it overtakes nothing. */
static void perform_all(struct world *world, const struct effects *effects)
{
	uint64_t *unreachable = calloc(effects->count + 1, sizeof(*unreachable));
	size_t count = 0;

	for (size_t i = 0; i < effects->count; i++)
		if (!perform(world, &effects->items[i]))
			unreachable[count++] = effects->items[i].peer;
	for (size_t i = 0; i < count; i++)
		tell_unreachable(world, unreachable[i]);
	free(unreachable);
}

/* Copies what waits for the commit into a transaction; the rest is performed at once. */
static void follow(struct world *world, struct effects *effects)
{
	struct broker_host *broker = world->broker;
	struct transaction *transaction = calloc(1, sizeof(*transaction));
	bool waits = broker->first != NULL;

	effects_init(&transaction->effects);
	for (size_t i = 0; i < effects->count; i++) {
		struct effect *effect = &effects->items[i];
		struct effect *copy;

		check_settled(world, effect);
		waits |= is_store_effect(effect);
		if (!is_store_effect(effect) && !(effect->settled && waits))
			continue;
		copy = effects_add(&transaction->effects, effect->kind, effect->settled);
		*copy = *effect;
		effect->bytes = NULL;
		effect->kind = EFFECT_FORGET_PEER;
	}
	if (transaction->effects.count > 0) {
		*broker->last = transaction;
		broker->last = &transaction->next;
		arrange_commit(world);
	} else {
		free(transaction);
	}
	perform_all(world, effects);
}

/* Everything that waits is committed together; then what waited for it is done. */
static void commit_due(struct world *world, void *about, uint64_t number)
{
	struct broker_host *broker = world->broker;
	struct transaction *batch = broker->first;

	(void)about;
	if (broker->life != number)
		return;
	broker->commit_is_due = false;
	broker->first = NULL;
	broker->last = &broker->first;
	for (struct transaction *one = batch; one != NULL; one = one->next)
		commit(world, one);
	while (batch != NULL) {
		struct transaction *done = batch;

		batch = batch->next;
		for (size_t i = 0; i < done->effects.count && broker->life == number; i++)
			if (!is_store_effect(&done->effects.items[i]) &&
				!perform(world, &done->effects.items[i]))
				tell_unreachable(world, done->effects.items[i].peer);
		effects_done(&done->effects);
		free(done);
		/* Now and then it dies between the commit and what follows. */
		if (broker->life == number && !world->is_calm &&
			dice_permille(&world->dice, world->faults.broker_kill / 4))
			broker_kill(world);
	}
}

/* ---- inputs */

static void tick(struct world *world, void *about, uint64_t number)
{
	struct broker_host *broker = world->broker;
	struct effects effects;
	uint64_t next_ms;

	(void)about;
	if (broker->life != number || world->now_ms < broker->tick_ms)
		return;
	effects_init(&effects);
	next_ms = core_tick(broker->core, now(world), &effects);
	if (next_ms <= world->now_ms)
		wrong(world, "the core wants to be called again at once");
	broker->tick_ms = next_ms;
	at(world, next_ms - world->now_ms, tick, NULL, number);
	follow(world, &effects);
	effects_done(&effects);
}

/* After any other input the core may want to be called earlier. */
static void after_input(struct world *world, struct effects *effects)
{
	struct broker_host *broker = world->broker;

	follow(world, effects);
	effects_done(effects);
	if (!broker_is_alive(world))
		return;
	broker->tick_ms = world->now_ms + 1;
	at(world, 1, tick, NULL, broker->life);
}

void broker_worker_message(struct world *world, uint64_t peer, const void *bytes, size_t length)
{
	struct wire_memory memory = {0};
	struct worker_to_broker message;
	struct effects effects;
	struct process *process = process_of_peer(world, peer);

	effects_init(&effects);
	if (worker_to_broker_decode(bytes, length, &memory, &message, NULL) < 0)
		wrong(world, "a worker's message cannot be read");
	if (world->is_verbose) {
		printf("%8llu        %s -> ", (unsigned long long)world->now_ms, process->name);
		worker_to_broker_print(stdout, &message);
		printf("\n");
	}
	if (message.type == WORKER_TO_BROKER_WORKER_HELLO)
		watch_hello_came(world, (struct model_worker *)process, &message.worker_hello);
	else if (message.type == WORKER_TO_BROKER_COPIED)
		watch_report_came(world, (struct model_worker *)process, message.copied.lease);
	else if (message.type == WORKER_TO_BROKER_COPY_FAILED)
		watch_report_came(world, (struct model_worker *)process, message.copy_failed.lease);
	else if (message.type == WORKER_TO_BROKER_COPY_STOPPED)
		watch_report_came(
			world, (struct model_worker *)process, message.copy_stopped.lease);
	core_worker_message(world->broker->core, now(world), peer, &message, &effects);
	wire_memory_done(&memory);
	after_input(world, &effects);
}

void broker_imaged_message(struct world *world, uint64_t peer, const void *bytes, size_t length)
{
	struct wire_memory memory = {0};
	struct imaged_to_broker message;
	struct effects effects;

	effects_init(&effects);
	if (imaged_to_broker_decode(bytes, length, &memory, &message, NULL) < 0)
		wrong(world, "an imaged's message cannot be read");
	if (world->is_verbose) {
		printf("%8llu        %s -> ", (unsigned long long)world->now_ms,
			process_of_peer(world, peer)->name);
		imaged_to_broker_print(stdout, &message);
		printf("\n");
	}
	core_imaged_message(world->broker->core, now(world), peer, &message, &effects);
	wire_memory_done(&memory);
	after_input(world, &effects);
}

void broker_client_request(struct world *world, uint64_t client, const void *bytes, size_t length)
{
	struct effects effects;

	effects_init(&effects);
	core_client_request(world->broker->core, now(world), client, bytes, length, &effects);
	after_input(world, &effects);
}

/* ---- life and death */

static void load(struct world *world, struct core *core)
{
	struct record *record;
	size_t place = 0;
	struct err err = {0};

	while ((record = index_next(&world->broker->store, &place)) != NULL)
		if (core_load(core, record->table, record->raw_key, record->key_length,
			    record->bytes, record->length, &err) < 0)
			wrong(world, "the store cannot be loaded: %s", err.text);
}

void broker_start(struct world *world)
{
	struct broker_host *broker = world->broker;
	struct core_options options = {
		.peer_timeout_ms = 5000,
		.lease_ms = 15000,
		.heartbeat_ms = 1000,
		.event_log = 40 + dice_below(&world->dice, 400),
		.floor = dice_below(&world->dice, 3) * dice_below(&world->dice, 4000000),
		/* So little that most of a device is not known while the first of it is copied. */
		.map_bytes = CLUSTER * dice_below(&world->dice, 8),
		.new_epoch = 1 + dice_below(&world->dice, 1000000),
		.version = "1.2.3",
	};
	struct effects effects;
	struct err err = {0};
	struct transaction first = {0};

	broker->life++;
	broker->core = core_new(&options);
	load(world, broker->core);
	effects_init(&effects);
	if (core_started(broker->core, now(world), &effects, &err) < 0)
		wrong(world, "the core does not start: %s", err.text);
	say(world, "broker starts, life %llu", (unsigned long long)broker->life);
	watch_broker_started(world);
	/* What the start stores is committed before anybody can connect. */
	first.effects = effects;
	commit(world, &first);
	for (size_t i = 0; i < effects.count; i++)
		perform(world, &effects.items[i]);
	effects_done(&effects);
	broker->commit_is_due = false;
	broker->tick_ms = world->now_ms;
	if (core_last_seq(broker->core) != watch_last_seq(world))
		wrong(world, "after a restart the last event is %llu, in the store %llu",
			(unsigned long long)core_last_seq(broker->core),
			(unsigned long long)watch_last_seq(world));
	at(world, 0, tick, NULL, broker->life);
}

static void starts_again(struct world *world, void *about, uint64_t number)
{
	(void)about;
	if (world->broker->life == number && !broker_is_alive(world))
		broker_start(world);
}

/* Of what waits for its commit, a beginning may have been committed already. */
void broker_kill(struct world *world)
{
	struct broker_host *broker = world->broker;

	if (!broker_is_alive(world))
		return;
	say(world, "broker dies");
	for (struct transaction *one = broker->first; one != NULL && dice_percent(&world->dice, 50);
		one = one->next)
		commit(world, one);
	transactions_free(broker);
	core_free(broker->core);
	broker->core = NULL;
	broker->life++;
	watch_broker_killed(world);
	clients_forget(world);
	network_cut_all(world);
	at(world, 1 + dice_below(&world->dice, dice_percent(&world->dice, 10) ? 20000 : 500),
		starts_again, NULL, broker->life);
}
