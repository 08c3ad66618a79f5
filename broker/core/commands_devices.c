/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that attach and detach devices. */
#include <stdio.h>
#include <string.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "common/check.h"

/* ---- device-attach */

static void refuse_imaged(
	struct core *core, const struct call *call, const char *device, const char *name)
{
	struct refusal refusal = {.class = ERROR_CLASS_DEVICE_OFFLINE,
		.device = device,
		.argument = "imaged",
		.msg = name};

	if (name != NULL)
		snprintf(refusal.desc, sizeof(refusal.desc), "imaged '%s' is not here", name);
	else
		snprintf(refusal.desc, sizeof(refusal.desc), "no imaged is here");
	reply_refusal(core, call->asker, &refusal);
}

/* The imaged that is meant; else it is answered. */
static struct imaged *choose_imaged(
	struct core *core, const struct call *call, const struct cmd_device_attach *arguments)
{
	struct imaged *imaged = NULL;
	size_t count = 1;

	if (arguments->imaged != NULL)
		imaged = imaged_find(core, arguments->imaged);
	else
		count = imageds_here(core, &imaged);
	if (count > 1) {
		reply_bad_argument(core, call->asker, "imaged",
			"argument 'imaged' is missing: %zu imageds are here", count);
		return NULL;
	}
	if (imaged != NULL && imaged_is_here(imaged))
		return imaged;
	refuse_imaged(core, call, arguments->device, arguments->imaged);
	return NULL;
}

static bool is_name_free(struct core *core, const struct call *call, const char *name)
{
	struct job *job = job_find(core, name);
	struct refusal refusal = {
		.class = ERROR_CLASS_GENERIC_ERROR, .device = name, .job_id = name};

	if (job == NULL || strcmp(job->record.device, name) == 0)
		return true;
	snprintf(refusal.desc, sizeof(refusal.desc),
		"Device name '%s' is the id of a job on another device", name);
	reply_refusal(core, call->asker, &refusal);
	return false;
}

static void wait_for(struct core *core, struct device *device, const struct call *call)
{
	struct waiter *waiter = waiter_new(core, call->asker);

	if (waiter != NULL)
		list_append(&device->waiters, &waiter->in_list);
}

static void attach_new(struct core *core, const struct call *call, struct imaged *imaged,
	const struct cmd_device_attach *arguments)
{
	struct record_device record = {
		.device = arguments->device,
		.imaged = imaged->name,
		.realm = imaged->realm,
		.file = arguments->file,
		.format = arguments->format,
		.read_only = arguments->has_read_only && arguments->read_only,
		.copy_on_read = arguments->has_copy_on_read && arguments->copy_on_read,
	};
	struct device *device;

	if (!may_wait(core, call->asker))
		return;
	if (core->devices.count >= DEVICES_MAX) {
		reply_error(core, call->asker, "there are too many devices");
		return;
	}
	device = device_new(core, imaged, &record);
	wait_for(core, device, call);
	device_attach(core, device);
}

static bool is_taken(const struct device *device, const struct imaged *imaged)
{
	return !device->is_accepted || device->is_online || device->is_detaching ||
	       (device->imaged != imaged && imaged_is_here(device->imaged));
}

/* From an imaged that seems to be away.  That it opens in the other one is the proof: the locks on the
 * file say who has it, however long nothing was heard of the first.  Only then it moves. */
static void take_over(
	struct core *core, const struct call *call, struct imaged *imaged, struct device *device)
{
	struct query *query = must_calloc(1, sizeof(*query));

	waiter_init(core, &query->waiter, call->asker);
	name_copy(query->device, device->record.device);
	device_attach_elsewhere(core, device, imaged)->query = query;
}

/* The name is there already: the same file may be taken over. */
static void attach_known(struct core *core, const struct call *call, struct imaged *imaged,
	struct device *device, const char *file)
{
	if (strcmp(device->record.file, file) != 0)
		reply_device_in_use(core, call->asker, device->record.device, device->record.file,
			"it is attached with another file");
	else if (is_taken(device, imaged))
		reply_device_in_use(
			core, call->asker, device->record.device, file, "it is attached already");
	else if (!may_wait(core, call->asker))
		return;
	else if (device->imaged != imaged)
		take_over(core, call, imaged, device);
	else {
		wait_for(core, device, call);
		device->retry_ms = 0;
		device_touch(core, device);
	}
}

void query_attached(struct core *core, struct query *query, struct imaged *imaged,
	const struct device_state *state)
{
	struct device *device = device_find(core, query->device);
	struct asker asker = asker_of(&query->waiter);

	if (device == NULL || is_taken(device, imaged) ||
		strcmp(device->record.file, state->file) != 0) {
		reply_device_in_use(core, asker, query->device, NULL, "it came back meanwhile");
		/* The other one has it, unless it is this one by now. */
		if (device == NULL || device->imaged != imaged)
			device_ask_detach_stranger(core, imaged, query->device);
	} else {
		struct device_info info;
		struct wire_buffer value = {0};

		if (device->imaged != imaged)
			device_move(core, device, imaged);
		device_attached(core, device, state);
		info = device_info_of(device);
		device_info_encode(&info, &value);
		reply_return(core, asker, wire_buffer_bytes(&value));
		wire_buffer_done(&value);
	}
	query_free(core, query);
}

void command_device_attach(struct core *core, const struct call *call)
{
	struct cmd_device_attach arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct imaged *imaged;
	struct device *device;

	if (cmd_device_attach_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	if (arguments.format != NULL && strcmp(arguments.format, "qcow2") != 0 &&
		strcmp(arguments.format, "raw") != 0) {
		reply_bad_argument(
			core, call->asker, "format", "argument 'format' must be qcow2 or raw");
		return;
	}
	imaged = choose_imaged(core, call, &arguments);
	if (imaged == NULL || !is_name_free(core, call, arguments.device))
		return;
	device = device_find(core, arguments.device);
	if (device != NULL) {
		attach_known(core, call, imaged, device, arguments.file);
		return;
	}
	device = device_find_file(imaged, arguments.file);
	if (device != NULL)
		reply_device_in_use(core, call->asker, device->record.device, arguments.file,
			"the file is attached under this name");
	else
		attach_new(core, call, imaged, &arguments);
}

/* ---- device-detach */

static void detach_away(struct core *core, struct device *device)
{
	imaged_note_gone(device->imaged, device->record.device);
	device_forget(core, device, "detached by force while its imaged is away");
}

static void detach(struct core *core, const struct call *call, struct device *device, bool by_force)
{
	if (device->job != NULL) {
		reply_device_in_use(
			core, call->asker, device->record.device, NULL, "a job is active on it");
	} else if (!device->is_detaching && !list_is_empty(&device->waiters)) {
		reply_device_in_use(
			core, call->asker, device->record.device, NULL, "it is being attached");
	} else if (imaged_is_here(device->imaged)) {
		if (!may_wait(core, call->asker))
			return;
		wait_for(core, device, call);
		device_detach(core, device);
	} else if (by_force) {
		detach_away(core, device);
		reply_empty(core, call->asker);
	} else {
		reply_device_offline(
			core, call->asker, device->record.device, device->imaged->name);
	}
}

void command_device_detach(struct core *core, const struct call *call)
{
	struct cmd_device_detach arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct device *device;

	if (cmd_device_detach_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	device = device_find(core, arguments.device);
	if (device == NULL || !device->is_accepted)
		reply_device_not_found(core, call->asker, arguments.device);
	else
		detach(core, call, device, arguments.has_force && arguments.force);
}
