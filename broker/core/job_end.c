/* SPDX-License-Identifier: Apache-2.0 */
/* How a job ends: well, by a cancel, or by an error.  Whichever way, its terminal event, its
 * last statuses and the removal of its records are one step, so one transaction. */
#include <stdio.h>
#include <string.h>

#include "broker/core/devices.h"
#include "broker/core/job.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/replies.h"
#include "broker/core/requests.h"
#include "common/check.h"

/* So many moments in a row at which imaged refused something without naming an error of the
 * file. */
#define REFUSALS_MAX 10

#define FAILED_WORDS "An error occurred during streaming: "

static bool is_space_errno(const char *errno_name)
{
	return errno_name != NULL &&
	       (strcmp(errno_name, "ENOSPC") == 0 || strcmp(errno_name, "EDQUOT") == 0);
}

/* Nothing more is copied: what is in flight is revoked, answers that come late are nobody's. */
static void stop_work(struct core *core, struct job *job)
{
	job->record.finishing = false;
	job->is_open = false;
	job->refusals = 0;
	job->hold_until_ms = 0;
	job_position(job); /* keeps how far it was */
	leases_of_job_release(core, job);
	requests_disown(&job->requests);
	work_map_reset(&job->map, job->record.size,
		job->record.cluster_size ? job->record.cluster_size : 1);
	job_pages_forget(core, job);
	job_become(core, job, JOB_STATUS_ABORTING);
}

void job_fail(struct core *core, struct job *job, enum error_class class, const char *errno_name,
	const char *reason)
{
	char error[RECORD_JOB_ERROR_MAX];

	if (!job_is_running(job))
		return;
	snprintf(error, sizeof(error), FAILED_WORDS "%s", reason);
	text_replace(&job->record.error, error);
	text_replace(&job->record.errno_name, errno_name && errno_name[0] ? errno_name : NULL);
	job->record.has_error_class = true;
	job->record.error_class = class;
	stop_work(core, job);
}

void job_io_failed(struct core *core, struct job *job, const struct io_trouble *trouble)
{
	bool has_space = !is_space_errno(trouble->errno_name);

	if (!job_is_running(job))
		return;
	job_publish_error(core, job, trouble);
	job_fail(core, job, has_space ? ERROR_CLASS_STREAMING_ERROR : ERROR_CLASS_NO_SPACE,
		trouble->errno_name,
		trouble->reason ? trouble->reason : "a range could not be copied");
}

static void io_refused(struct core *core, struct job *job, struct guest_range range,
	const struct msg_image_error *error)
{
	struct io_trouble trouble = {
		.operation = error->has_operation ? error->operation : OPERATION_WRITE,
		.range = range,
		.file = error->file,
		.reason = error->msg,
		.errno_name = error->errno_name,
	};

	if (error->class == ERROR_CLASS_NO_SPACE && !is_space_errno(trouble.errno_name))
		trouble.errno_name = "ENOSPC";
	job_io_failed(core, job, &trouble);
}

/* A job that was open before and can't be opened again as it was asked for. */
static bool is_for_good(enum request_kind kind, enum error_class class)
{
	return kind == REQUEST_OPEN_JOB &&
	       (class == ERROR_CLASS_BASE_NOT_FOUND || class == ERROR_CLASS_NOT_SUPPORTED);
}

/* Nothing is wrong with the file: the two sides lost each other's thread.  Open and map again. */
static void try_again(struct core *core, struct job *job, enum request_kind kind)
{
	if (kind == REQUEST_FINISH) {
		job->record.finishing = false;
		job_changed(core, job);
	}
	if (kind != REQUEST_COMMIT)
		job->is_open = false;
	job_hold(core, job);
	if (kind == REQUEST_FINISH && job->record.cancelled)
		job_cancel(core, job);
}

static void close_refused(struct core *core, struct job *job)
{
	job_hold(core, job);
	if (job->refusals > REFUSALS_MAX)
		job_closed(core, job);
}

void job_refused(struct core *core, struct job *job, enum request_kind kind,
	struct guest_range range, const struct msg_image_error *error)
{
	if (!job->is_accepted) {
		job_reject(core, job, error);
		return;
	}
	if (kind == REQUEST_CLOSE_JOB) {
		close_refused(core, job);
		return;
	}
	if (error->class == ERROR_CLASS_NO_SPACE || is_space_errno(error->errno_name) ||
		error->has_operation) {
		io_refused(core, job, range, error);
		return;
	}
	if (error->class == ERROR_CLASS_DEVICE_NOT_FOUND ||
		error->class == ERROR_CLASS_DEVICE_OFFLINE)
		device_is_not_attached(core, job->device, error->msg);
	try_again(core, job, kind);
	if (job->refusals > REFUSALS_MAX || is_for_good(kind, error->class))
		job_fail(core, job, ERROR_CLASS_STREAMING_ERROR, error->errno_name, error->msg);
}

void job_cancel(struct core *core, struct job *job)
{
	job->record.cancelled = true;
	if (job->record.finishing) /* too late, unless imaged finds that something is missing */
		job_changed(core, job);
	else
		stop_work(core, job);
}

void job_cancel_by_force(struct core *core, struct job *job)
{
	job->record.cancelled = true;
	if (job->record.status != JOB_STATUS_ABORTING)
		stop_work(core, job);
	job_end(core, job);
}

/* Leaves the lists and the store. */
static void forget(struct core *core, struct job *job)
{
	struct store_key key = store_key_of(job->record.number);

	job_become(core, job, JOB_STATUS_CONCLUDED);
	job_become(core, job, JOB_STATUS_NULL);
	store_delete(core, STORE_JOBS, key.bytes, key.length);
	store_delete(core, STORE_PROGRESS, key.bytes, key.length);
	job_pages_forget(core, job);
	job_free(core, job);
}

void job_finished(struct core *core, struct job *job)
{
	job->progress.position = job->record.size;
	job_become(core, job, JOB_STATUS_WAITING);
	job_become(core, job, JOB_STATUS_PENDING);
	job_publish_completed(core, job);
	forget(core, job);
}

void job_end(struct core *core, struct job *job)
{
	bug_if(job->record.status != JOB_STATUS_ABORTING);
	if (job->record.error != NULL)
		job_publish_completed(core, job);
	else
		job_publish_cancelled(core, job);
	forget(core, job);
}

void job_closed(struct core *core, struct job *job)
{
	if (job->record.status == JOB_STATUS_ABORTING) {
		job_end(core, job);
		return;
	}
	job->is_open = false;
	job->is_released = true;
	device_touch(core, job->device);
}

void job_reject(struct core *core, struct job *job, const struct msg_image_error *error)
{
	struct asker asker;

	while (waiters_take(core, &job->waiters, &asker)) {
		if (error != NULL)
			reply_image_error(core, asker, job->record.device, error);
		else
			reply_device_offline(
				core, asker, job->record.device, job->device->imaged->name);
	}
	job_free(core, job);
}
