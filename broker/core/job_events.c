/* SPDX-License-Identifier: Apache-2.0 */
/* Packs the events of a job and publishes them. */
#include "broker/core/job.h"
#include "broker/core/tokens.h"

#define JOB_TYPE "stream"

static void publish(struct core *core, const struct job *job, enum event_name event)
{
	event_publish(core, event, job->record.device, wire_buffer_bytes(&core->data_buffer));
}

void job_publish_status(struct core *core, const struct job *job, enum job_status status)
{
	struct event_job_status_change event = {
		.device = job->record.device,
		.job_id = job->record.job_id,
		.id = job->record.job_id,
		.status = status,
	};

	wire_buffer_clear(&core->data_buffer);
	event_job_status_change_encode(&event, &core->data_buffer);
	publish(core, job, EVENT_JOB_STATUS_CHANGE);
}

void job_publish_progress(struct core *core, struct job *job)
{
	struct event_block_job_progress event = {
		.device = job->record.device,
		.job_id = job->record.job_id,
		.position = job_position(job),
		.end = job->record.size,
		.copied = job->progress.copied,
		.rate = job_rate(core, job),
	};

	event.has_eta = job_has_eta(core, job, &event.eta);
	wire_buffer_clear(&core->data_buffer);
	event_block_job_progress_encode(&event, &core->data_buffer);
	publish(core, job, EVENT_BLOCK_JOB_PROGRESS);
}

void job_publish_stalled(struct core *core, const struct job *job, const char *reason)
{
	struct event_block_job_stalled event = {
		.device = job->record.device,
		.job_id = job->record.job_id,
		.reason = reason,
	};

	wire_buffer_clear(&core->data_buffer);
	event_block_job_stalled_encode(&event, &core->data_buffer);
	publish(core, job, EVENT_BLOCK_JOB_STALLED);
}

/* Both of these are terminal: from now on the token's time runs. */
void job_publish_completed(struct core *core, struct job *job)
{
	uint64_t position = job_position(job);
	struct event_block_job_completed event = {
		.device = job->record.device,
		.job_id = job->record.job_id,
		.type = JOB_TYPE,
		.end = job->record.size,
		.position = position,
		.speed = job->record.speed,
		.len = job->record.size,
		.offset = position,
		.error = job->record.error,
		.has_error_class = job->record.error != NULL,
		.error_class = job->record.error_class,
		.errno_name = job->record.errno_name,
	};

	wire_buffer_clear(&core->data_buffer);
	event_block_job_completed_encode(&event, &core->data_buffer);
	publish(core, job, EVENT_BLOCK_JOB_COMPLETED);
	token_end(core, job, core->log.last);
}

void job_publish_cancelled(struct core *core, struct job *job)
{
	uint64_t position = job_position(job);
	struct event_block_job_cancelled event = {
		.device = job->record.device,
		.job_id = job->record.job_id,
		.type = JOB_TYPE,
		.end = job->record.size,
		.position = position,
		.speed = job->record.speed,
		.len = job->record.size,
		.offset = position,
	};

	wire_buffer_clear(&core->data_buffer);
	event_block_job_cancelled_encode(&event, &core->data_buffer);
	publish(core, job, EVENT_BLOCK_JOB_CANCELLED);
	token_end(core, job, core->log.last);
}

void job_publish_error(struct core *core, const struct job *job, const struct io_trouble *trouble)
{
	struct event_block_job_error event = {
		.device = job->record.device,
		.job_id = job->record.job_id,
		.operation = trouble->operation,
		.action = ERROR_ACTION_REPORT,
		.offset = trouble->range.offset,
		.length = trouble->range.length,
		.file = trouble->file ? trouble->file : "",
		.reason = trouble->reason ? trouble->reason : "",
		.errno_name = trouble->errno_name ? trouble->errno_name : "",
	};

	wire_buffer_clear(&core->data_buffer);
	event_block_job_error_encode(&event, &core->data_buffer);
	publish(core, job, EVENT_BLOCK_JOB_ERROR);
}
