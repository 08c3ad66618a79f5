/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a device. */
#include "broker/core/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/replies.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"
#include "common/check.h"

#define RETRY_MIN_MS 1000
#define RETRY_MAX_MS 30000

struct device *device_find(const struct core *core, const char *name)
{
	return index_find_name(&core->devices, name);
}

struct device *device_find_file(const struct imaged *imaged, const char *file)
{
	struct device *device;

	list_for_each(device, &imaged->devices, in_imaged)
		if (strcmp(device->record.file, file) == 0)
			return device;
	return NULL;
}

/* Its job looks at itself as well: what it may ask of imaged depends on the device. */
void device_touch(struct core *core, struct device *device)
{
	list_append_once(&core->touched_devices, &device->in_touched);
	if (device->job != NULL)
		job_touch(core, device->job);
}

static void timer_fired(struct core *core, struct timer *timer)
{
	device_touch(core, container_of(timer, struct device, timer));
}

/* ---- the record */

static void chain_free(struct record_device *record)
{
	for (size_t i = 0; i < record->chain_count; i++) {
		free((void *)record->chain[i].file);
		free((void *)record->chain[i].format);
		free((void *)record->chain[i].node_name);
	}
	free(record->chain);
	record->chain = NULL;
	record->chain_count = 0;
}

static void chain_set(
	struct record_device *record, const struct chain_layer_info *chain, size_t count)
{
	struct chain_layer_info *copy = must_calloc(count + 1, sizeof(*copy));

	for (size_t i = 0; i < count; i++) {
		copy[i] = chain[i];
		copy[i].file = text_copy(chain[i].file);
		copy[i].format = text_copy(chain[i].format);
		copy[i].node_name = text_copy(chain[i].node_name);
	}
	chain_free(record);
	record->chain = copy;
	record->chain_count = count;
}

static void store(struct core *core, const struct device *device)
{
	wire_buffer_clear(&core->buffer);
	record_device_encode(&device->record, &core->buffer);
	store_put(core, STORE_DEVICES, device->record.device, strlen(device->record.device));
}

struct device *device_new(
	struct core *core, struct imaged *imaged, const struct record_device *record)
{
	struct device *device = must_calloc(1, sizeof(*device));

	device->record = *record;
	device->record.device = text_copy(record->device);
	device->record.imaged = text_copy(record->imaged);
	device->record.realm = text_copy(record->realm);
	device->record.file = text_copy(record->file);
	device->record.format = text_copy(record->format);
	device->record.chain = NULL;
	device->record.chain_count = 0;
	chain_set(&device->record, record->chain, record->chain_count);
	device->imaged = imaged;
	device->is_read_only = record->read_only;
	device->retry_delay_ms = RETRY_MIN_MS;
	list_init(&device->in_realm);
	list_init(&device->in_touched);
	list_init(&device->requests);
	list_init(&device->waiters);
	list_init(&device->joins);
	list_append(&imaged->devices, &device->in_imaged);
	index_add_name(&core->devices, device->record.device, device);
	timer_init(&device->timer, timer_fired);
	return device;
}

static void leave_realm(struct core *core, struct device *device)
{
	list_remove(&device->in_realm);
	realm_release(core, device->realm);
	device->realm = NULL;
}

static void free_joins(struct core *core, struct device *device)
{
	struct join *join;

	while ((join = list_first(&device->joins, struct join, in_device)) != NULL)
		join_close(core, join);
}

void device_free(struct core *core, struct device *device)
{
	struct asker ignored;

	bug_if(device->job != NULL);
	free_joins(core, device);
	requests_disown(&device->requests);
	while (waiters_take(core, &device->waiters, &ignored))
		;
	leave_realm(core, device);
	timer_stop(&core->timers, &device->timer);
	list_remove(&device->in_imaged);
	list_remove(&device->in_touched);
	index_remove_name(&core->devices, device->record.device);
	chain_free(&device->record);
	free((void *)device->record.device);
	free((void *)device->record.imaged);
	free((void *)device->record.realm);
	free((void *)device->record.file);
	free((void *)device->record.format);
	free(device->trouble);
	free(device->nbd);
	free(device);
}

struct device_info device_info_of(const struct device *device)
{
	const struct record_device *record = &device->record;
	struct device_info info = {
		.device = record->device,
		.imaged = record->imaged,
		.realm = record->realm,
		.size = record->size,
		.cluster_size = record->cluster_size,
		.chain = record->chain,
		.chain_count = record->chain_count,
		.nbd = device->nbd ? device->nbd : "",
		.online = device->is_online,
		.read_only = device->is_read_only,
		.copy_on_read = record->copy_on_read,
	};

	if (device->job != NULL && device->job->is_accepted)
		info.job = device->job->record.job_id;
	return info;
}

/* ---- events */

static void publish_online(struct core *core, const struct device *device, const char *reason)
{
	struct event_device_online event = {device->record.device, device->record.imaged, reason};

	wire_buffer_clear(&core->data_buffer);
	event_device_online_encode(&event, &core->data_buffer);
	event_publish(core, EVENT_DEVICE_ONLINE, device->record.device,
		wire_buffer_bytes(&core->data_buffer));
}

static void publish_offline(struct core *core, const struct device *device, const char *reason)
{
	struct event_device_offline event = {device->record.device, device->record.imaged, reason};

	wire_buffer_clear(&core->data_buffer);
	event_device_offline_encode(&event, &core->data_buffer);
	event_publish(core, EVENT_DEVICE_OFFLINE, device->record.device,
		wire_buffer_bytes(&core->data_buffer));
}

/* ---- online and offline */

void device_seen(struct core *core, struct device *device, const struct device_state *state)
{
	struct record_device *record = &device->record;

	record->size = state->size;
	record->cluster_size = state->cluster_size;
	record->copy_on_read = state->copy_on_read;
	device->is_read_only = state->read_only;
	text_replace(&record->realm, device->imaged->realm);
	chain_set(record, state->chain, state->chain_count);
	free(device->nbd);
	device->nbd = text_copy(state->nbd);
	if (device->is_accepted)
		store(core, device);
}

static void go_online(struct core *core, struct device *device, const struct device_state *state,
	const char *reason)
{
	bool was_online = device->is_online;

	device->is_online = true;
	device->has_failed = false;
	device->is_offline_announced = false;
	device->retry_ms = 0;
	device->retry_delay_ms = RETRY_MIN_MS;
	free(device->trouble);
	device->trouble = NULL;
	device_seen(core, device, state);
	if (!was_online)
		publish_online(core, device, reason);
	device_touch(core, device);
	if (device->job != NULL)
		device->job->is_released = false;
}

void device_goes_offline(struct core *core, struct device *device, const char *reason)
{
	bool was_online = device->is_online;

	device->is_online = false;
	device->retry_ms = 0;
	device_touch(core, device);
	if (!device->is_accepted || (!was_online && device->is_offline_announced))
		return;
	device->is_offline_announced = true;
	publish_offline(core, device, reason);
}

void device_is_not_attached(struct core *core, struct device *device, const char *reason)
{
	device_goes_offline(core, device, reason);
	if (device->job != NULL)
		device->job->is_open = false;
}

void device_failed(struct core *core, struct device *device, const struct msg_device_failed *failed)
{
	struct job *job = device->job;

	device->has_failed = true;
	joins_leave(core, device);
	device_goes_offline(core, device, failed->msg);
	if (job == NULL || !job->is_accepted)
		return;
	job->is_open = false;
	if (!job->record.finishing) /* else its header tells, once the device is attached anew */
		job_fail(core, job, ERROR_CLASS_STREAMING_ERROR, failed->errno_name, failed->msg);
	job_touch(core, job);
}

/* ---- asking imaged */

static void send_attach(
	struct core *core, const struct device *device, const struct request *request)
{
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_ATTACH,
		.attach =
			{
				.request = request->number,
				.device = device->record.device,
				.file = device->record.file,
				.format = device->record.format,
				.copy_on_read = device->record.copy_on_read,
				.read_only = device->record.read_only,
			},
	};

	send_to_imaged(core, request->imaged, &message);
}

void device_attach(struct core *core, struct device *device)
{
	send_attach(core, device, request_for_device(core, device, REQUEST_ATTACH));
}

struct request *device_attach_elsewhere(
	struct core *core, const struct device *device, struct imaged *imaged)
{
	struct request *request = request_new(core, imaged, REQUEST_ATTACH);

	send_attach(core, device, request);
	return request;
}

void device_ask_detach(struct core *core, struct device *device)
{
	struct request *request = request_for_device(core, device, REQUEST_DETACH);
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_DETACH,
		.detach = {request->number, device->record.device}};

	send_to_imaged(core, device->imaged, &message);
}

void device_ask_detach_stranger(struct core *core, struct imaged *imaged, const char *name)
{
	struct request *request = request_new(core, imaged, REQUEST_DETACH);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_DETACH, .detach = {request->number, name}};

	send_to_imaged(core, imaged, &message);
}

void device_detach(struct core *core, struct device *device)
{
	if (!device->is_detaching)
		device->detaching_since_ms = core->now.now_ms;
	device->is_detaching = true;
	device_touch(core, device);
}

void device_forget(struct core *core, struct device *device, const char *reason)
{
	struct imaged *imaged = device->imaged;

	store_delete(core, STORE_DEVICES, device->record.device, strlen(device->record.device));
	if (device->is_online || !device->is_offline_announced)
		publish_offline(core, device, reason);
	device_free(core, device);
	imaged_release(core, imaged);
}

void device_move(struct core *core, struct device *device, struct imaged *imaged)
{
	struct imaged *before = device->imaged;

	device_goes_offline(core, device, "another imaged takes it over");
	free_joins(core, device);
	leave_realm(core, device);
	list_remove(&device->in_imaged);
	list_append(&imaged->devices, &device->in_imaged);
	device->imaged = imaged;
	text_replace(&device->record.imaged, imaged->name);
	text_replace(&device->record.realm, imaged->realm);
	if (device->job != NULL)
		leases_of_job_release(core, device->job);
	store(core, device);
	imaged_release(core, before);
}

/* ---- imaged answers */

static void answer_with_device(struct core *core, struct device *device)
{
	struct device_info info = device_info_of(device);
	struct wire_buffer value = {0};
	struct asker asker;

	device_info_encode(&info, &value);
	while (waiters_take(core, &device->waiters, &asker))
		reply_return(core, asker, wire_buffer_bytes(&value));
	wire_buffer_done(&value);
}

void device_attached(struct core *core, struct device *device, const struct device_state *state)
{
	bool is_new = !device->is_accepted;

	device->is_accepted = true;
	go_online(core, device, state, is_new ? "attached" : "its imaged has it again");
	if (!device->is_detaching)
		answer_with_device(core, device);
}

void device_attach_refused(
	struct core *core, struct device *device, const struct msg_image_error *error)
{
	struct asker asker;

	if (!device->is_accepted) {
		while (waiters_take(core, &device->waiters, &asker))
			reply_image_error(core, asker, device->record.device, error);
		device_free(core, device);
		return;
	}
	if (device->trouble == NULL || strcmp(device->trouble, error->msg) != 0)
		publish_offline(core, device, error->msg);
	device->is_offline_announced = true;
	device->has_failed = true; /* perhaps it is half open there: detached before the next try */
	free(device->trouble);
	device->trouble = text_copy(error->msg);
	if (!device->is_detaching)
		while (waiters_take(core, &device->waiters, &asker))
			reply_image_error(core, asker, device->record.device, error);
	device->retry_ms = core->now.now_ms + device->retry_delay_ms;
	device->retry_delay_ms *= 2;
	if (device->retry_delay_ms > RETRY_MAX_MS)
		device->retry_delay_ms = RETRY_MAX_MS;
	device_touch(core, device);
}

void device_detached(struct core *core, struct device *device)
{
	struct asker asker;
	struct list waiters;

	if (!device->is_detaching) { /* so that it can be attached anew */
		device->has_failed = false;
		device->is_online = false;
		device_touch(core, device);
		return;
	}
	list_init(&waiters);
	while (!list_is_empty(&device->waiters)) {
		struct list *first = device->waiters.next;

		list_remove(first);
		list_append(&waiters, first);
	}
	device_forget(core, device, "detached");
	while (waiters_take(core, &waiters, &asker))
		reply_empty(core, asker);
}

void device_detach_refused(
	struct core *core, struct device *device, const struct msg_image_error *error)
{
	struct asker asker;

	if (!device->is_detaching) {
		device->retry_ms = core->now.now_ms + RETRY_MIN_MS;
		device_touch(core, device);
		return;
	}
	device->is_detaching = false;
	while (waiters_take(core, &device->waiters, &asker))
		reply_image_error(core, asker, device->record.device, error);
	device_touch(core, device);
}

void device_request_lost(struct core *core, struct device *device, enum request_kind kind)
{
	struct asker asker;

	if (kind == REQUEST_DETACH && !device->is_detaching)
		return; /* of a failed device; a new incarnation has it anew anyway */
	device->is_detaching = false;
	while (waiters_take(core, &device->waiters, &asker))
		reply_device_offline(core, asker, device->record.device, device->imaged->name);
	device_touch(core, device);
	if (!device->is_accepted)
		device_free(core, device);
}
