/* SPDX-License-Identifier: Apache-2.0 */
/* The record of a job: made, changed, stored, moved from status to status. */
#include "broker/core/job.h"

#include <stdlib.h>
#include <string.h>

#include "broker/core/devices.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/replies.h"
#include "broker/core/requests.h"
#include "broker/core/tokens.h"
#include "common/check.h"

#define TO(status) (1u << JOB_STATUS_##status)

static const unsigned allowed[JOB_STATUS_COUNT] = {
	[JOB_STATUS_CREATED] = TO(RUNNING) | TO(ABORTING) | TO(NULL),
	[JOB_STATUS_RUNNING] = TO(PAUSED) | TO(WAITING) | TO(ABORTING),
	[JOB_STATUS_PAUSED] = TO(RUNNING) | TO(ABORTING),
	[JOB_STATUS_WAITING] = TO(PENDING) | TO(ABORTING),
	[JOB_STATUS_PENDING] = TO(CONCLUDED) | TO(ABORTING),
	[JOB_STATUS_ABORTING] = TO(CONCLUDED),
	[JOB_STATUS_CONCLUDED] = TO(NULL),
};

bool job_may_become(enum job_status from, enum job_status to)
{
	return (allowed[from] & (1u << to)) != 0;
}

void text_replace(const char **text, const char *replacement)
{
	char *copy = text_copy(replacement);

	free((void *)*text);
	*text = copy;
}

static void own_strings(struct record_job *record)
{
	record->job_id = text_copy(record->job_id);
	record->device = text_copy(record->device);
	record->base = text_copy(record->base);
	record->bottom = text_copy(record->bottom);
	record->backing_file = text_copy(record->backing_file);
	record->token = text_copy(record->token);
	record->base_found = text_copy(record->base_found);
	record->backing_name = text_copy(record->backing_name);
	record->backing_format = text_copy(record->backing_format);
	record->error = text_copy(record->error);
	record->errno_name = text_copy(record->errno_name);
}

static void free_strings(struct record_job *record)
{
	free((void *)record->job_id);
	free((void *)record->device);
	free((void *)record->base);
	free((void *)record->bottom);
	free((void *)record->backing_file);
	free((void *)record->token);
	free((void *)record->base_found);
	free((void *)record->backing_name);
	free((void *)record->backing_format);
	free((void *)record->error);
	free((void *)record->errno_name);
}

static void timer_fired(struct core *core, struct timer *timer)
{
	struct job *job = container_of(timer, struct job, timer);

	job_touch(core, job);
	job_offer(core, job);
}

struct job *job_new(struct core *core, struct device *device, const struct record_job *record)
{
	struct job *job = must_calloc(1, sizeof(*job));

	job->record = *record;
	own_strings(&job->record);
	job->device = device;
	list_init(&job->in_touched);
	list_init(&job->in_changed);
	list_init(&job->requests);
	list_init(&job->leases);
	list_init(&job->waiters);
	list_init(&job->pages);
	work_map_init(&job->map, core->options.map_bytes);
	bucket_init(&job->bucket, record->speed, core->now.now_ms);
	pace_init(&job->pace, core->now.now_ms);
	meter_init(&job->meter);
	timer_init(&job->timer, timer_fired);
	job->virtual_bytes = core->virtual_bytes;
	job->told_ms = job->stored_ms = job->pages_stored_ms = core->now.now_ms;
	index_add_name(&core->jobs, job->record.job_id, job);
	if (device != NULL)
		device->job = job;
	return job;
}

void job_free(struct core *core, struct job *job)
{
	struct asker ignored;

	leases_of_job_release(core, job);
	requests_disown(&job->requests);
	token_give_up(core, job);
	while (waiters_take(core, &job->waiters, &ignored))
		;
	index_remove_name(&core->jobs, job->record.job_id);
	list_remove(&job->in_touched);
	list_remove(&job->in_changed);
	timer_stop(&core->timers, &job->timer);
	job_pages_free(job);
	work_map_done(&job->map);
	wanted_done(&job->wanted);
	if (job->device != NULL) {
		job->device->job = NULL;
		device_touch(core, job->device);
	}
	free((void *)job->arguments.bytes);
	free_strings(&job->record);
	free(job);
}

struct job *job_find(const struct core *core, const char *id)
{
	return index_find_name(&core->jobs, id);
}

struct job *job_find_active(const struct core *core, const char *id_or_device)
{
	struct job *job = job_find(core, id_or_device);

	if (job == NULL || !job->is_accepted) {
		struct device *device = index_find_name(&core->devices, id_or_device);

		job = device != NULL ? device->job : NULL;
	}
	return job != NULL && job->is_accepted ? job : NULL;
}

bool job_is_running(const struct job *job)
{
	return job->is_accepted && job->record.status == JOB_STATUS_RUNNING;
}

void job_touch(struct core *core, struct job *job)
{
	list_append_once(&core->touched_jobs, &job->in_touched);
}

void job_changed(struct core *core, struct job *job)
{
	job->is_changed = true;
	list_append_once(&core->changed_jobs, &job->in_changed);
	job_touch(core, job);
}

/* The record of progress is stored by job_advance, at most every 250 ms. */
void job_progress_changed(struct core *core, struct job *job)
{
	job->is_progress_changed = true;
	job_touch(core, job);
}

void jobs_store(struct core *core)
{
	struct job *job;

	while ((job = list_first(&core->changed_jobs, struct job, in_changed)) != NULL) {
		struct store_key key = store_key_of(job->record.number);

		list_remove(&job->in_changed);
		job->is_changed = false;
		wire_buffer_clear(&core->buffer);
		record_job_encode(&job->record, &core->buffer);
		store_put(core, STORE_JOBS, key.bytes, key.length);
	}
}

void job_become(struct core *core, struct job *job, enum job_status status)
{
	bug_if(!job_may_become(job->record.status, status));
	job->record.status = status;
	job_changed(core, job);
	job_publish_status(core, job, status);
}

static uint64_t below(uint64_t limit, struct guest_range range)
{
	if (range.offset >= limit)
		return 0;
	return range.length < limit - range.offset ? range.length : limit - range.offset;
}

/* What is scanned, less what is to be done, less what is being done. */
static uint64_t position_now(const struct job *job)
{
	uint64_t scanned = job->map.scanned, open;
	const struct lease *lease;
	const struct request *request;

	open = work_map_bytes(&job->map, WORK_COPY) + work_map_bytes(&job->map, WORK_ZERO);
	list_for_each(lease, &job->leases, in_job)
		open += below(scanned, lease->range);
	list_for_each(request, &job->requests, of_owner)
		if (request->kind == REQUEST_ZERO)
			open += below(scanned, request->range);
	return open < scanned ? scanned - open : 0;
}

uint64_t job_position(struct job *job)
{
	uint64_t position = position_now(job);

	if (position > job->progress.position)
		job->progress.position = position;
	return job->progress.position;
}

void job_set_ahead(struct job *job, uint64_t bytes)
{
	job->progress.ahead = bytes;
	job->progress.has_ahead = bytes > 0;
}

void job_count(struct job *job, uint64_t offset, const struct job_outcome *outcome)
{
	job->progress.copied += outcome->copied;
	job->progress.zeroes += outcome->zeroes;
	job->progress.superseded += outcome->superseded;
	if (offset >= job->progress.scanned)
		job_set_ahead(job, job->progress.ahead + outcome->copied + outcome->zeroes +
					   outcome->superseded);
}

uint64_t job_rate(struct core *core, struct job *job)
{
	return meter_rate(&job->meter, core->now.now_ms);
}

bool job_has_eta(struct core *core, struct job *job, uint64_t *ret_seconds)
{
	uint64_t rate = job_rate(core, job);

	if (!meter_is_known(&job->meter, core->now.now_ms) || rate == 0)
		return false;
	*ret_seconds = (job->record.size - job_position(job)) / rate;
	return true;
}
