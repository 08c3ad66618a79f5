/* SPDX-License-Identifier: Apache-2.0 */
/* Questions that the core answers from what it knows. */
#include <stdlib.h>
#include <string.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/job.h"
#include "common/check.h"

#define JOB_TYPE "stream"

static void reply_buffer(struct core *core, const struct call *call, struct wire_buffer *value)
{
	reply_return(core, call->asker, wire_buffer_bytes(value));
	wire_buffer_done(value);
}

/* ---- jobs */

static enum io_status io_status_of(const struct job *job)
{
	if (job->record.error == NULL)
		return IO_STATUS_OK;
	return job->record.error_class == ERROR_CLASS_NO_SPACE ? IO_STATUS_NOSPACE
							       : IO_STATUS_FAILED;
}

static struct job_info job_info_of(struct core *core, struct job *job)
{
	uint64_t position = job_position(job);
	struct job_info info = {
		.job_id = job->record.job_id,
		.device = job->record.device,
		.type = JOB_TYPE,
		.status = job->record.status,
		.position = position,
		.end = job->record.size,
		.offset = position,
		.len = job->record.size,
		.speed = job->record.speed,
		.paused = false,
		.busy = !list_is_empty(&job->leases),
		.io_status = io_status_of(job),
		.auto_finalize = true,
		.auto_dismiss = true,
		.priority = job->record.priority,
		.base = job->record.base_found ? job->record.base_found : job->record.base,
		.has_stalled = job->record.has_stalled,
		.stalled = job->record.stalled,
		.copied = job->progress.copied,
		.zeroes = job->progress.zeroes,
		.present = job->progress.present,
		.superseded = job->progress.superseded,
		.error = job->record.error,
		.has_error_class = job->record.has_error_class,
		.error_class = job->record.error_class,
		.errno_name = job->record.errno_name,
	};

	info.has_rate = meter_is_known(&job->meter, core->now.now_ms);
	info.rate = info.has_rate ? job_rate(core, job) : 0;
	info.has_eta = job_has_eta(core, job, &info.eta);
	return info;
}

static int compare_numbers(const void *left, const void *right)
{
	const struct job *const *a = left, *const *b = right;

	return ((*a)->record.number > (*b)->record.number) -
	       ((*a)->record.number < (*b)->record.number);
}

/* All that are accepted, in the order in which they were; the caller frees. */
static struct job **list_jobs(const struct core *core, size_t *ret_count)
{
	struct job **jobs = must_calloc(core->jobs.count + 1, sizeof(struct job *));
	struct job *job;
	size_t place = 0, count = 0;

	while ((job = index_next(&core->jobs, &place)) != NULL)
		if (job->is_accepted)
			jobs[count++] = job;
	qsort(jobs, count, sizeof(struct job *), compare_numbers);
	*ret_count = count;
	return jobs;
}

static void reply_jobs(struct core *core, const struct call *call, struct job **jobs, size_t count)
{
	struct job_info *infos = must_calloc(count + 1, sizeof(*infos));
	struct wire_buffer value = {0};

	for (size_t i = 0; i < count; i++)
		infos[i] = job_info_of(core, jobs[i]);
	cmd_query_block_jobs_return_encode(infos, count, &value);
	reply_buffer(core, call, &value);
	free(infos);
}

void command_query_block_jobs(struct core *core, const struct call *call)
{
	struct cmd_query_block_jobs arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct device *device;
	struct job **jobs;
	size_t count;

	if (cmd_query_block_jobs_decode(call->arguments.bytes, call->arguments.length,
		    &core->memory, &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	if (arguments.device == NULL) {
		jobs = list_jobs(core, &count);
		reply_jobs(core, call, jobs, count);
		free(jobs);
		return;
	}
	device = device_find(core, arguments.device);
	if (device == NULL || !device->is_accepted)
		reply_device_not_found(core, call->asker, arguments.device);
	else
		reply_jobs(
			core, call, &device->job, device->job != NULL && device->job->is_accepted);
}

/* ---- devices */

static int compare_names(const void *left, const void *right)
{
	const struct device_info *a = left, *b = right;

	return strcmp(a->device, b->device);
}

static void reply_devices(
	struct core *core, const struct call *call, struct device_info *infos, size_t count)
{
	struct wire_buffer value = {0};

	qsort(infos, count, sizeof(*infos), compare_names);
	cmd_query_devices_return_encode(infos, count, &value);
	reply_buffer(core, call, &value);
}

static void reply_all_devices(struct core *core, const struct call *call)
{
	struct device_info *infos = must_calloc(core->devices.count + 1, sizeof(*infos));
	struct device *device;
	size_t place = 0, count = 0;

	while ((device = index_next(&core->devices, &place)) != NULL)
		if (device->is_accepted)
			infos[count++] = device_info_of(device);
	reply_devices(core, call, infos, count);
	free(infos);
}

void command_query_devices(struct core *core, const struct call *call)
{
	struct cmd_query_devices arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct device *device;
	struct device_info info;

	if (cmd_query_devices_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	if (arguments.device == NULL) {
		reply_all_devices(core, call);
		return;
	}
	device = device_find(core, arguments.device);
	if (device == NULL || !device->is_accepted) {
		reply_device_not_found(core, call->asker, arguments.device);
		return;
	}
	info = device_info_of(device);
	reply_devices(core, call, &info, 1);
}

/* ---- workers */

static int compare_worker_names(const void *left, const void *right)
{
	const struct worker_info *a = left, *b = right;

	return strcmp(a->name, b->name);
}

void command_query_workers(struct core *core, const struct call *call)
{
	struct cmd_query_workers arguments;
	struct worker_info *infos;
	struct worker *worker;
	struct wire_buffer value = {0};
	const char *argument = NULL;
	struct err err = {0};
	size_t place = 0, count = 0;

	if (cmd_query_workers_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	infos = must_calloc(core->workers.count + 1, sizeof(*infos));
	while ((worker = index_next(&core->workers, &place)) != NULL)
		infos[count++] = (struct worker_info){
			.name = worker->name,
			.host = worker->host,
			.realm = worker->realm->name,
			.slots = worker->slots,
			.busy = worker->in_hands,
			.ranges = worker->ranges,
			.bytes = worker->bytes,
			.idle_ms = worker->in_hands ? 0 : core->now.now_ms - worker->idle_since_ms,
		};
	qsort(infos, count, sizeof(*infos), compare_worker_names);
	cmd_query_workers_return_encode(infos, count, &value);
	reply_buffer(core, call, &value);
	free(infos);
}

/* ---- events: the store has them, the shell reads them there */

void command_query_events(struct core *core, const struct call *call)
{
	struct cmd_query_events arguments;
	const char *argument = NULL;
	struct err err = {0};
	struct effect *effect;

	if (cmd_query_events_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	effect = effects_add(core->effects, EFFECT_QUERY_EVENTS, true);
	effect->peer = call->asker.client;
	effect->bytes = must_calloc(1, call->request.length + 1);
	memcpy(effect->bytes, call->request.bytes, call->request.length);
	effect->length = call->request.length;
}

/* ---- the broker itself */

static size_t count_jobs(const struct core *core, struct wire_count *counts, uint64_t *ret_queued)
{
	uint64_t by_status[JOB_STATUS_COUNT] = {0};
	struct job *job;
	size_t place = 0, count = 0;

	*ret_queued = 0;
	while ((job = index_next(&core->jobs, &place)) != NULL) {
		by_status[job->record.status] += job->is_accepted;
		*ret_queued += work_map_bytes(&job->map, WORK_COPY);
	}
	if (*ret_queued > INT64_MAX)
		*ret_queued = INT64_MAX;
	for (enum job_status status = 0; status < JOB_STATUS_COUNT; status++)
		if (by_status[status] > 0)
			counts[count++] =
				(struct wire_count){job_status_name(status), by_status[status]};
	return count;
}

static void count_devices(const struct core *core, struct status_info *info)
{
	struct device *device;
	size_t place = 0;

	while ((device = index_next(&core->devices, &place)) != NULL) {
		info->devices += device->is_accepted;
		info->devices_online += device->is_accepted && device->is_online;
	}
}

void command_query_status(struct core *core, const struct call *call)
{
	struct cmd_query_status arguments;
	struct wire_count counts[JOB_STATUS_COUNT];
	struct wire_buffer value = {0};
	const char *argument = NULL;
	struct err err = {0};
	struct status_info info = {
		.version = core->version,
		.epoch = core->epoch,
		.uptime = (core->now.now_ms - core->started_ms) / 1000,
		.jobs = counts,
		.workers = core->workers.count,
		.rate = meter_rate(&core->meter, core->now.now_ms),
		.speed = core->bucket.speed,
	};

	if (cmd_query_status_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	info.jobs_count = count_jobs(core, counts, &info.queued_bytes);
	count_devices(core, &info);
	status_info_encode(&info, &value);
	reply_buffer(core, call, &value);
}

void command_query_version(struct core *core, const struct call *call)
{
	struct cmd_query_version arguments;
	struct version_info info = {.contract = 1, .package = ""};
	struct wire_buffer value = {0};
	const char *argument = NULL;
	char *rest = core->version;
	struct err err = {0};

	if (cmd_query_version_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	info.sluice.major = strtoul(rest, &rest, 10);
	info.sluice.minor = *rest == '.' ? strtoul(rest + 1, &rest, 10) : 0;
	info.sluice.micro = *rest == '.' ? strtoul(rest + 1, &rest, 10) : 0;
	version_info_encode(&info, &value);
	reply_buffer(core, call, &value);
}
