/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers, stores, publishes and prunes events.
 *
 * Invariant: the events first..last are in the store, and the settings record that is stored in
 * the same step says `last` and `last_by_event`; so after a crash the numbers go on without a
 * gap and without a number used twice. */
#include "broker/core/event_log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/outbox.h"
#include "broker/core/state.h"
#include "broker/core/tokens.h"
#include "common/check.h"
#include "schemas/envelope.gen.h"

/* How many old events go with each new one while there are too many. */
#define PRUNED_WITH_EACH 4

void event_log_found(struct core *core, uint64_t seq)
{
	struct event_log *log = &core->log;

	if (log->first == 0 || seq < log->first)
		log->first = seq;
}

void event_log_load(struct core *core, const struct record_settings *settings)
{
	struct event_log *log = &core->log;

	log->last = settings->last_seq;
	for (size_t i = 0; i < settings->last_by_event_count; i++) {
		enum event_name event;

		if (event_name_parse(settings->last_by_event[i].name, &event))
			log->last_by_event[event] = settings->last_by_event[i].value;
	}
}

size_t event_log_counts(const struct core *core, struct wire_count *counts)
{
	size_t count = 0;

	for (enum event_name event = 0; event < EVENT_COUNT; event++)
		if (core->log.last_by_event[event] != 0)
			counts[count++] = (struct wire_count){
				event_name_string(event), core->log.last_by_event[event]};
	return count;
}

void event_log_prune(struct core *core, size_t most)
{
	struct event_log *log = &core->log;

	for (size_t i = 0; i < most && log->last + 1 - log->first > core->options.event_log; i++) {
		struct store_key key = store_key_of(log->first);

		store_delete(core, STORE_EVENTS, key.bytes, key.length);
		log->first++;
	}
	tokens_prune(core, log->first);
}

static void number_event(struct core *core, enum event_name event, struct event_envelope *envelope)
{
	struct event_log *log = &core->log;

	log->last++;
	envelope->has_seq = envelope->has_prev = true;
	envelope->seq = log->last;
	envelope->prev = log->last_by_event[event];
	log->last_by_event[event] = log->last;
	core->has_settings_changed = true;
}

static void store_event(struct core *core, enum event_name event, const char *device, uint64_t seq,
	struct wire_bytes packed)
{
	struct store_key key = store_key_of(seq);
	struct record_event record = {
		.event = event_name_string(event),
		.device = device ? device : "",
		.packed = packed,
	};

	wire_buffer_clear(&core->buffer);
	record_event_encode(&record, &core->buffer);
	store_put(core, STORE_EVENTS, key.bytes, key.length);
	event_log_prune(core, PRUNED_WITH_EACH);
}

void event_publish(
	struct core *core, enum event_name event, const char *device, struct wire_bytes data)
{
	struct event_envelope envelope = {
		.event = event_name_string(event),
		.data = data,
		.timestamp = {core->now.real_us / 1000000, core->now.real_us % 1000000},
	};
	struct wire_buffer packed = {0};
	struct effect *effect;

	if (event_is_durable(event))
		number_event(core, event, &envelope);
	event_envelope_encode(&envelope, &packed);
	if (event_is_durable(event))
		store_event(core, event, device, envelope.seq, wire_buffer_bytes(&packed));
	/* One that is not durable waits in the same line: it must not overtake what happened
	 * before it. */
	effect = effects_add(core->effects, EFFECT_PUBLISH, true);
	snprintf(effect->topic, sizeof(effect->topic), "%s/%s/", event_name_string(event),
		device ? device : "");
	effect->bytes = packed.bytes;
	effect->length = packed.length;
}
