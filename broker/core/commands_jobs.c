/* SPDX-License-Identifier: Apache-2.0 */
/* Commands that start, change and end jobs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/tokens.h"
#include "common/check.h"

#define DEFAULT_PRIORITY 5

/* ---- block_stream */

/* The same arguments always pack to the same bytes. */
static void pack_arguments(const struct cmd_block_stream *arguments, struct wire_buffer *ret_buffer)
{
	cmd_block_stream_encode(arguments, ret_buffer);
}

static bool is_same(struct wire_bytes a, struct wire_bytes b)
{
	return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

static void refuse_token(struct core *core, const struct call *call)
{
	reply_bad_argument(core, call->asker, "token",
		"argument 'token' was used before with other arguments");
}

static void wait_for(struct core *core, struct job *job, const struct call *call)
{
	struct waiter *waiter = waiter_new(core, call->asker);

	if (waiter != NULL)
		list_append(&job->waiters, &waiter->in_list);
}

/* A token that was seen before starts nothing.  true: the request is answered, or will be. */
static bool is_repeat(struct core *core, const struct call *call,
	const struct cmd_block_stream *arguments, struct wire_bytes packed)
{
	const struct token *token = arguments->token ? token_find(core, arguments->token) : NULL;

	if (token == NULL)
		return false;
	if (!is_same(token->record.arguments, packed))
		refuse_token(core, call);
	else if (token->starting != NULL)
		wait_for(core, token->starting, call);
	else
		reply_empty(core, call->asker);
	return true;
}

static bool are_arguments_sound(
	struct core *core, const struct call *call, const struct cmd_block_stream *arguments)
{
	if (arguments->base != NULL && arguments->bottom != NULL) {
		reply_bad_argument(core, call->asker, "bottom",
			"arguments 'base' and 'bottom' cannot be given together");
		return false;
	}
	if (arguments->backing_file != NULL && arguments->base == NULL &&
		arguments->bottom == NULL) {
		reply_bad_argument(core, call->asker, "backing-file",
			"argument 'backing-file' needs 'base': nothing is kept without it");
		return false;
	}
	return true;
}

static bool is_id_free(
	struct core *core, const struct call *call, const char *id, const struct device *device)
{
	const struct device *other = device_find(core, id);
	struct refusal refusal = {
		.class = ERROR_CLASS_GENERIC_ERROR, .job_id = id, .argument = "job-id"};

	if (job_find(core, id) != NULL)
		snprintf(refusal.desc, sizeof(refusal.desc), "Job ID '%s' already in use", id);
	else if (other != NULL && other != device)
		snprintf(refusal.desc, sizeof(refusal.desc),
			"Job ID '%s' is the name of another device", id);
	else
		return true;
	reply_refusal(core, call->asker, &refusal);
	return false;
}

/* The device, if it can have a job now; else it is answered. */
static struct device *device_for_job(struct core *core, const struct call *call, const char *name)
{
	struct device *device = device_find(core, name);

	if (device == NULL || !device->is_accepted)
		reply_device_not_found(core, call->asker, name);
	else if (device->job != NULL || device->is_detaching)
		reply_device_in_use(core, call->asker, name, NULL, NULL);
	else if (!device->is_online)
		reply_device_offline(core, call->asker, name, device->imaged->name);
	else
		return device;
	return NULL;
}

static void start(struct core *core, const struct call *call, struct device *device,
	const struct cmd_block_stream *arguments, struct wire_bytes packed)
{
	struct record_job record = {
		.job_id = arguments->job_id ? arguments->job_id : arguments->device,
		.device = arguments->device,
		.status = JOB_STATUS_CREATED,
		.base = arguments->base,
		.bottom = arguments->bottom,
		.backing_file = arguments->backing_file,
		.speed = arguments->has_speed ? arguments->speed : 0,
		.has_floor = arguments->has_floor,
		.floor = arguments->floor,
		.priority = DEFAULT_PRIORITY,
		.token = arguments->token,
		.backing_name = "",
		.backing_format = "",
	};
	unsigned char *copy;
	struct job *job;

	if (!may_wait(core, call->asker))
		return;
	job = job_new(core, device, &record);
	copy = must_calloc(1, packed.length + 1);
	memcpy(copy, packed.bytes, packed.length);
	job->arguments = (struct wire_bytes){copy, packed.length};
	token_take(core, job);
	wait_for(core, job, call);
	job_begin(core, job);
}

static void block_stream(struct core *core, const struct call *call,
	const struct cmd_block_stream *arguments, struct wire_bytes packed)
{
	struct device *device;

	if (!are_arguments_sound(core, call, arguments) || is_repeat(core, call, arguments, packed))
		return;
	device = device_for_job(core, call, arguments->device);
	if (device == NULL ||
		!is_id_free(core, call, arguments->job_id ? arguments->job_id : arguments->device,
			device))
		return;
	if (core->jobs.count >= JOBS_MAX)
		reply_error(core, call->asker, "there are too many jobs");
	else
		start(core, call, device, arguments, packed);
}

void command_block_stream(struct core *core, const struct call *call)
{
	struct cmd_block_stream arguments;
	struct wire_buffer packed = {0};
	const char *argument = NULL;
	struct err err = {0};

	if (cmd_block_stream_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	pack_arguments(&arguments, &packed);
	block_stream(core, call, &arguments, wire_buffer_bytes(&packed));
	wire_buffer_done(&packed);
}

/* ---- on a job that is there */

static struct job *job_of_call(struct core *core, const struct call *call, const char *name)
{
	struct job *job = job_find_active(core, name);
	struct refusal refusal = {.class = ERROR_CLASS_DEVICE_NOT_ACTIVE, .device = name};

	if (job != NULL)
		return job;
	snprintf(refusal.desc, sizeof(refusal.desc), "No job is active on device '%s'", name);
	reply_refusal(core, call->asker, &refusal);
	return NULL;
}

static void cancel(struct core *core, struct job *job, bool by_force)
{
	if (by_force && !(job->device->is_online && imaged_is_here(job->device->imaged)))
		job_cancel_by_force(core, job);
	else if (job_is_running(job))
		job_cancel(core, job);
}

void command_block_job_cancel(struct core *core, const struct call *call)
{
	struct cmd_block_job_cancel arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct job *job;

	if (cmd_block_job_cancel_decode(call->arguments.bytes, call->arguments.length,
		    &core->memory, &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	job = job_of_call(core, call, arguments.device);
	if (job == NULL)
		return;
	cancel(core, job, arguments.has_force && arguments.force);
	reply_empty(core, call->asker);
}

static void refuse_verb(
	struct core *core, const struct call *call, const struct job *job, const char *verb)
{
	struct refusal refusal = {.class = ERROR_CLASS_GENERIC_ERROR, .job_id = job->record.job_id};

	snprintf(refusal.desc, sizeof(refusal.desc),
		"Job '%s' in state '%s' cannot accept command verb '%s'", job->record.job_id,
		job_status_name(job->record.status), verb);
	reply_refusal(core, call->asker, &refusal);
}

void command_block_job_set_speed(struct core *core, const struct call *call)
{
	struct cmd_block_job_set_speed arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct job *job;

	if (cmd_block_job_set_speed_decode(call->arguments.bytes, call->arguments.length,
		    &core->memory, &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	job = job_of_call(core, call, arguments.device);
	if (job == NULL)
		return;
	if (!job_is_running(job)) {
		refuse_verb(core, call, job, "set-speed");
		return;
	}
	job->record.speed = arguments.speed;
	bucket_set_speed(&job->bucket, arguments.speed, core->now.now_ms);
	job_changed(core, job);
	job_offer(core, job);
	reply_empty(core, call->asker);
}
