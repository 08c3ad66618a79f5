/* SPDX-License-Identifier: Apache-2.0 */
/* What a device does next, and what an imaged's hello says of its devices. */
#include <string.h>

#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/replies.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"

#define LINGER_MS      2000 /* workers stay joined so long without work */
#define LEAVING_MS     2000 /* a detach waits so long for workers to let go */
#define JOINS_RETRY_MS 5000 /* workers that had too many joins may have room again */

bool device_wants_workers(const struct device *device)
{
	const struct job *job = device->job;

	if (job == NULL || !job_is_running(job) || job->record.finishing || !job->is_open ||
		!device->is_online || device->is_detaching)
		return false;
	return work_map_bytes(&job->map, WORK_COPY) > 0 || job->map.scanned < job->map.size ||
	       !list_is_empty(&job->leases);
}

static void wake_at(struct core *core, struct device *device, uint64_t due_ms)
{
	timer_set_earlier(&core->timers, &device->timer, due_ms);
}

/* ---- workers */

static void call_workers(struct core *core, struct device *device)
{
	if (device->realm == NULL) {
		device->realm = realm_get(core, device->imaged->realm);
		list_append(&device->realm->devices, &device->in_realm);
	}
	device->idle_since_ms = 0;
	joins_begin(core, device);
	wake_at(core, device, core->now.now_ms + JOINS_RETRY_MS);
}

static void let_workers_go(struct core *core, struct device *device)
{
	list_remove(&device->in_realm);
	realm_release(core, device->realm);
	device->realm = NULL;
	if (list_is_empty(&device->joins))
		return;
	if (device->idle_since_ms == 0)
		device->idle_since_ms = core->now.now_ms;
	if (device->is_detaching || core->now.now_ms >= device->idle_since_ms + LINGER_MS)
		joins_leave(core, device);
	else
		wake_at(core, device, device->idle_since_ms + LINGER_MS);
}

/* ---- attached or not */

static void advance_attach(struct core *core, struct device *device)
{
	const struct job *job = device->job;

	if (!list_is_empty(&device->requests))
		return;
	if (core->now.now_ms < device->retry_ms) {
		wake_at(core, device, device->retry_ms);
		return;
	}
	if (!device->has_failed)
		device_attach(core, device);
	else if (job == NULL || job->is_released)
		device_ask_detach(core, device);
}

static void advance_detach(struct core *core, struct device *device)
{
	if (requests_have(&device->requests, REQUEST_DETACH))
		return;
	joins_leave(core, device);
	if (!list_is_empty(&device->joins) &&
		core->now.now_ms < device->detaching_since_ms + LEAVING_MS)
		wake_at(core, device, device->detaching_since_ms + LEAVING_MS);
	else
		device_ask_detach(core, device);
}

/* Nothing was heard of it since our start: who listens should know. */
static void advance_away(struct core *core, struct device *device)
{
	uint64_t told_ms = core->started_ms + core->options.peer_timeout_ms;

	if (device->is_offline_announced || !device->is_accepted)
		return;
	if (core->now.now_ms < told_ms)
		wake_at(core, device, told_ms);
	else
		device_goes_offline(
			core, device, "its imaged did not come since the broker started");
}

void device_advance(struct core *core, struct device *device)
{
	timer_stop(&core->timers, &device->timer);
	if (!imaged_is_here(device->imaged)) {
		if (device->is_detaching)
			device_request_lost(core, device, REQUEST_DETACH);
		else if (device->is_accepted && !list_is_empty(&device->waiters))
			device_request_lost(core, device, REQUEST_ATTACH); /* not asked yet */
		advance_away(core, device);
	} else if (device->is_detaching) {
		advance_detach(core, device);
	} else if (!device->is_online && device->is_accepted) {
		advance_attach(core, device);
	}
	if (device_wants_workers(device))
		call_workers(core, device);
	else
		let_workers_go(core, device);
}

/* ---- a hello */

static void take_in(struct core *core, struct imaged *imaged, const struct device_state *state)
{
	struct record_device record = {
		.device = state->device,
		.imaged = imaged->name,
		.realm = imaged->realm,
		.file = state->file,
		.format = state->format,
		.read_only = state->read_only,
		.copy_on_read = state->copy_on_read,
	};
	struct job *job = job_find(core, state->device);

	if (core->devices.count >= DEVICES_MAX || device_find_file(imaged, state->file) != NULL ||
		(job != NULL && strcmp(job->record.device, state->device) != 0)) {
		device_ask_detach_stranger(core, imaged, state->device);
		return;
	}
	device_attached(core, device_new(core, imaged, &record), state);
	device_find(core, state->device)->hello = imaged->hellos;
}

static void compare(struct core *core, struct imaged *imaged, const struct device_state *state)
{
	struct device *device = device_find(core, state->device);

	if (imaged_take_gone(imaged, state->device)) {
		device_ask_detach_stranger(core, imaged, state->device);
		return;
	}
	if (device == NULL) {
		take_in(core, imaged, state);
		return;
	}
	if (strcmp(device->record.file, state->file) != 0 ||
		(device->imaged != imaged && imaged_is_here(device->imaged))) {
		device_ask_detach_stranger(core, imaged, state->device);
		return;
	}
	if (device->imaged != imaged)
		device_move(core, device, imaged);
	device->hello = imaged->hellos;
	if (!device->has_failed)
		device_attached(core, device, state);
}

void devices_compare(
	struct core *core, struct imaged *imaged, const struct device_state *states, size_t count)
{
	struct device *device, *following;

	for (size_t i = 0; i < count; i++)
		compare(core, imaged, &states[i]);
	list_for_each_safe(device, following, &imaged->devices, in_imaged) {
		if (device->hello != imaged->hellos && device->is_online)
			device_goes_offline(core, device, "its imaged does not have it open");
		if (device->hello != imaged->hellos)
			device->has_failed = false;
		device_touch(core, device);
	}
}
