/* SPDX-License-Identifier: Apache-2.0 */
/* Durable events: numbered without a gap for the life of the store, stored before they are
 * published, pruned from the oldest end.  And those that are not durable, which have no number. */
#ifndef SLUICE_BROKER_CORE_EVENT_LOG_H
#define SLUICE_BROKER_CORE_EVENT_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "schemas/events.gen.h"
#include "schemas/records.gen.h"

struct core;

struct event_log {
	uint64_t first; /* oldest in the store; last + 1: none */
	uint64_t last;
	uint64_t last_by_event[EVENT_COUNT];
};

/* At start: a stored event, and what the settings say of them all. */
void event_log_found(struct core *core, uint64_t seq);
void event_log_load(struct core *core, const struct record_settings *settings);
/* Fills in the settings' part. `counts` has room for EVENT_COUNT; returns how many it used. */
size_t event_log_counts(const struct core *core, struct wire_count *counts);
/* Forgets what is over the limit, at most `most` events. */
void event_log_prune(struct core *core, size_t most);

/* Stores (if durable) and publishes.  `data` is the packed map; `device` NULL or the device it
 * is about. */
void event_publish(
	struct core *core, enum event_name event, const char *device, struct wire_bytes data);

#endif
