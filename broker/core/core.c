/* SPDX-License-Identifier: Apache-2.0 */
/* The frame of a step: from an input to the effects that follow from it.
 *
 *     input -> whom it is about -> who was touched, until nobody is -> what changed, into the store
 * / */
#include "broker/core/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/leases.h"
#include "broker/core/load.h"
#include "broker/core/roster.h"
#include "broker/core/scheduler.h"
#include "broker/core/state.h"
#include "broker/core/tokens.h"
#include "common/check.h"

/* Of the event, for whoever listens; peers have a pace of their own. */
#define EVENT_HEARTBEAT_MS    1000
#define PRUNED_WITH_HEARTBEAT 256

/* ---- small things that every file may use */

void name_copy(char *ret_name, const char *name)
{
	snprintf(ret_name, NAME_SIZE, "%s", name);
}

char *text_copy(const char *text)
{
	return text != NULL ? must_strdup(text) : NULL;
}

bool id_list_has(const struct id_list *list, uint64_t id)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->ids[i] == id)
			return true;
	return false;
}

void id_list_add(struct id_list *list, uint64_t id)
{
	if (id_list_has(list, id))
		return;
	if (list->count == list->capacity) {
		list->capacity = list->capacity ? 2 * list->capacity : 8;
		list->ids = must_realloc(list->ids, list->capacity, sizeof(*list->ids));
	}
	list->ids[list->count++] = id;
}

void id_list_remove(struct id_list *list, uint64_t id)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->ids[i] == id)
			list->ids[i--] = list->ids[--list->count];
}

void id_list_done(struct id_list *list)
{
	free(list->ids);
	*list = (struct id_list){0};
}

/* ---- a step */

static void begin(struct core *core, struct core_time time, struct effects *effects)
{
	core->now = time;
	core->effects = effects;
	wire_memory_reset(&core->memory);
}

static void advance_all(struct core *core)
{
	struct device *device;
	struct job *job;

	for (;;) {
		device = list_first(&core->touched_devices, struct device, in_touched);
		job = list_first(&core->touched_jobs, struct job, in_touched);
		if (device != NULL) {
			list_remove(&device->in_touched);
			device_advance(core, device);
		} else if (job != NULL) {
			list_remove(&job->in_touched);
			job_advance(core, job);
		} else if (!list_is_empty(&core->touched_workers)) {
			scheduler_run(core);
		} else {
			return;
		}
	}
}

static void end(struct core *core)
{
	advance_all(core);
	jobs_store(core);
	settings_store(core);
	core->effects = NULL;
}

/* ---- timers of the core itself */

static void heartbeat(struct core *core, struct timer *timer)
{
	struct wire_count counts[EVENT_COUNT];
	struct event_broker_heartbeat event = {
		.epoch = core->epoch,
		.first = core_first_seq(core),
		.last = core->log.last,
		.last_by_event = counts,
		.last_by_event_count = event_log_counts(core, counts),
	};

	event_log_prune(core, PRUNED_WITH_HEARTBEAT);
	event.first = core_first_seq(core);
	wire_buffer_clear(&core->data_buffer);
	event_broker_heartbeat_encode(&event, &core->data_buffer);
	event_publish(core, EVENT_BROKER_HEARTBEAT, NULL, wire_buffer_bytes(&core->data_buffer));
	timer_set(&core->timers, timer, core->now.now_ms + EVENT_HEARTBEAT_MS);
}

static void budget_refilled(struct core *core, struct timer *timer)
{
	(void)timer;
	scheduler_offer_all(core);
}

/* ---- beginning and end */

static void init_indices(struct core *core)
{
	uint64_t key = core->options.new_epoch;
	struct index *const indices[] = {&core->peers, &core->realms, &core->workers,
		&core->imageds, &core->devices, &core->jobs, &core->joins, &core->leases,
		&core->requests, &core->tokens, &core->loaded_progress};

	for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++)
		index_init(indices[i], key);
}

struct core *core_new(const struct core_options *options)
{
	struct core *core = must_calloc(1, sizeof(*core));

	core->options = *options;
	core->version = must_strdup(options->version ? options->version : "0");
	core->options.version = core->version;
	init_indices(core);
	list_init(&core->ended_tokens);
	list_init(&core->all_imageds);
	list_init(&core->touched_devices);
	list_init(&core->touched_jobs);
	list_init(&core->touched_workers);
	list_init(&core->changed_jobs);
	timers_init(&core->timers);
	timer_init(&core->heartbeat_timer, heartbeat);
	timer_init(&core->budget_timer, budget_refilled);
	meter_init(&core->meter);
	return core;
}

static void free_objects(struct core *core)
{
	struct worker *worker;
	struct imaged *imaged, *following;
	struct device *device;
	struct job *job;
	struct lease *lease;
	size_t place;

	for (place = 0; (job = index_next(&core->jobs, &place)) != NULL; place = 0)
		job_free(core, job);
	for (place = 0; (device = index_next(&core->devices, &place)) != NULL; place = 0)
		device_free(core, device);
	for (place = 0; (lease = index_next(&core->leases, &place)) != NULL; place = 0)
		lease_free(core, lease);
	list_for_each_safe(imaged, following, &core->all_imageds, in_core) {
		imaged_session_lost(core, imaged);
		imaged_free(core, imaged);
	}
	for (place = 0; (worker = index_next(&core->workers, &place)) != NULL; place = 0)
		worker_free(core, worker);
}

void core_free(struct core *core)
{
	struct effects unwanted;

	if (core == NULL)
		return;
	effects_init(&unwanted);
	core->effects = &unwanted;
	free_objects(core);
	tokens_free(core);
	effects_done(&unwanted);
	index_done(&core->peers);
	index_done(&core->realms);
	index_done(&core->workers);
	index_done(&core->imageds);
	index_done(&core->devices);
	index_done(&core->jobs);
	index_done(&core->joins);
	index_done(&core->leases);
	index_done(&core->requests);
	timers_done(&core->timers);
	wire_buffer_done(&core->buffer);
	wire_buffer_done(&core->data_buffer);
	wire_memory_done(&core->memory);
	free(core->version);
	free(core);
}

int core_started(struct core *core, struct core_time time, struct effects *effects, struct err *err)
{
	begin(core, time, effects);
	if (core_start(core, err) < 0)
		return -1;
	timer_set(&core->timers, &core->heartbeat_timer, time.now_ms + EVENT_HEARTBEAT_MS);
	end(core);
	return 0;
}

/* ---- inputs */

void core_client_request(struct core *core, struct core_time time, uint64_t client,
	const void *bytes, size_t length, struct effects *effects)
{
	begin(core, time, effects);
	client_request(core, client, bytes, length);
	end(core);
}

void core_worker_message(struct core *core, struct core_time time, uint64_t peer,
	const struct worker_to_broker *message, struct effects *effects)
{
	struct peer *known;

	begin(core, time, effects);
	known = index_find(&core->peers, peer);
	worker_message(core, peer, known != NULL ? known->worker : NULL, message);
	end(core);
}

void core_imaged_message(struct core *core, struct core_time time, uint64_t peer,
	const struct imaged_to_broker *message, struct effects *effects)
{
	struct peer *known;

	begin(core, time, effects);
	known = index_find(&core->peers, peer);
	imaged_message(core, peer, known != NULL ? known->imaged : NULL, message);
	end(core);
}

void core_peer_unreachable(
	struct core *core, struct core_time time, uint64_t peer, struct effects *effects)
{
	struct peer *known;

	begin(core, time, effects);
	known = index_find(&core->peers, peer);
	if (known != NULL && known->worker != NULL)
		worker_lose(core, known->worker, "its connection is gone");
	else if (known != NULL)
		imaged_lose(core, known->imaged, "the connection of its imaged is gone");
	end(core);
}

uint64_t core_tick(struct core *core, struct core_time time, struct effects *effects)
{
	struct timer *timer;

	begin(core, time, effects);
	while ((timer = timers_take_due(&core->timers, time.now_ms)) != NULL)
		timer->fire(core, timer);
	end(core);
	return timers_next_ms(&core->timers);
}

uint64_t core_epoch(const struct core *core)
{
	return core->epoch;
}

uint64_t core_first_seq(const struct core *core)
{
	return core->log.first > core->log.last ? 0 : core->log.first;
}

uint64_t core_last_seq(const struct core *core)
{
	return core->log.last;
}
