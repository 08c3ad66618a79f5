/* SPDX-License-Identifier: Apache-2.0 */
/* What a job does next: looked at anew after every step that touched it, so that it goes on from
 * wherever it stands, whatever was lost. */
#include <stdlib.h>

#include "broker/core/devices.h"
#include "broker/core/job.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/replies.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"
#include "broker/core/tokens.h"
#include "broker/core/wide.h"
#include "common/check.h"

#define LACK_MS		 1000 /* a lack that is over sooner is not told */
#define LACK_AT_START_MS 3000 /* peers need a moment to find a broker that started anew */
#define PROGRESS_MIN_MS	 250
#define PROGRESS_MAX_MS	 2000
#define STORE_MS	 250
#define PAGES_STORE_MS	 1000
#define HOLD_MIN_MS	 50
#define HOLD_MAX_MS	 5000
#define ZEROES_AT_ONCE	 4
#define ZERO_BYTES_MAX	 (UINT64_C(64) << 20)

void job_session_lost(struct core *core, struct job *job)
{
	job->is_open = job->is_released = false;
	job_touch(core, job);
}

void job_hold(struct core *core, struct job *job)
{
	uint64_t wait_ms = HOLD_MAX_MS;

	job_touch(core, job);
	if (core->now.now_ms < job->hold_until_ms)
		return; /* one refusal more of the same moment */
	if (job->refusals < 7)
		wait_ms = (uint64_t)HOLD_MIN_MS << job->refusals;
	if (wait_ms > HOLD_MAX_MS)
		wait_ms = HOLD_MAX_MS;
	job->refusals++;
	job->hold_until_ms = core->now.now_ms + wait_ms;
}

void job_went_well(struct job *job)
{
	job->refusals = 0;
}

void job_offer(struct core *core, struct job *job)
{
	struct join *join;

	if (!job_is_running(job) || job->device == NULL ||
		work_map_bytes(&job->map, WORK_COPY) == 0)
		return;
	list_for_each(join, &job->device->joins, in_device)
		if (join->state == JOIN_USABLE)
			worker_touch(core, join->worker);
}

/* ---- asking imaged */

static void ask_open(struct core *core, struct job *job)
{
	struct request *request = request_for_job(core, job, REQUEST_OPEN_JOB);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_OPEN_JOB,
		.open_job =
			{
				.request = request->number,
				.device = job->record.device,
				.job = job->record.job_id,
				.base = job->record.base,
				.bottom = job->record.bottom,
				.backing_file = job->record.backing_file,
			},
	};

	send_to_imaged(core, request->imaged, &message);
}

static void ask_close(struct core *core, struct job *job)
{
	struct request *request = request_for_job(core, job, REQUEST_CLOSE_JOB);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_CLOSE_JOB,
		.close_job = {request->number, job->record.device, job->record.job_id},
	};

	send_to_imaged(core, request->imaged, &message);
}

static void ask_map(struct core *core, struct job *job)
{
	struct request *request = request_for_job(core, job, REQUEST_MAP);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_MAP,
		.map = {request->number, job->record.device, job->record.job_id, job->map.scanned},
	};

	send_to_imaged(core, request->imaged, &message);
}

static void ask_zero(struct core *core, struct job *job, struct guest_range range)
{
	struct request *request = request_for_job(core, job, REQUEST_ZERO);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_ZERO,
		.zero = {request->number, job->record.device, job->record.job_id, range.offset,
			range.length},
	};

	request->range = range;
	send_to_imaged(core, request->imaged, &message);
}

/* Settled: that it may be finishing is in the store before imaged can begin to. */
static void ask_finish(struct core *core, struct job *job)
{
	struct request *request = request_for_job(core, job, REQUEST_FINISH);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_FINISH,
		.finish =
			{
				.request = request->number,
				.device = job->record.device,
				.job = job->record.job_id,
				.backing_name = job->record.backing_name,
				.backing_format = job->record.backing_format,
			},
	};

	send_to_imaged_settled(core, request->imaged, &message);
}

void job_begin(struct core *core, struct job *job)
{
	ask_open(core, job);
}

/* ---- imaged answers */

static void accept(struct core *core, struct job *job)
{
	struct asker asker;

	job->is_accepted = true;
	job->record.number = ++core->last_job;
	core->has_settings_changed = true;
	token_note(core, job);
	job->record.status = JOB_STATUS_CREATED;
	job_publish_status(core, job, JOB_STATUS_CREATED);
	job_become(core, job, JOB_STATUS_RUNNING);
	while (waiters_take(core, &job->waiters, &asker))
		reply_empty(core, asker);
}

/* Another size than before is an image that somebody changed meanwhile: what was counted cannot
 * be more than it is. */
static void set_size(struct job *job, const struct msg_job_opened *opened)
{
	job->record.size = opened->size;
	job->record.cluster_size = opened->cluster_size;
	if (job->progress.position > opened->size)
		job->progress.position = opened->size;
	if (job->progress.scanned > opened->size)
		job->progress.scanned = opened->size;
}

void job_opened(struct core *core, struct job *job, const struct msg_job_opened *opened)
{
	text_replace(&job->record.backing_name, opened->backing_name);
	text_replace(&job->record.backing_format, opened->backing_format);
	text_replace(&job->record.base_found, opened->base);
	set_size(job, opened);
	if (!job->is_accepted)
		accept(core, job);
	job->is_open = true;
	work_map_reset(&job->map, opened->size, opened->cluster_size ? opened->cluster_size : 1);
	wanted_done(&job->wanted); /* it may be of another size now */
	if (opened->nothing_to_do)
		job->map.scanned = opened->size;
	job_pages_forget(core, job);
	job_changed(core, job);
	device_touch(core, job->device);
}

/* Present bytes are counted the first time that a part of the device is scanned; what was copied
 * ahead is counted already.  Zeroes that are left unallocated are not among what is present, so a
 * few bytes too many may be taken off. */
static void count_present(struct job *job, const struct msg_map_page *page)
{
	uint64_t from = page->offset > job->progress.scanned ? page->offset : job->progress.scanned;
	uint64_t ahead;
	unsigned_wide share;

	if (page->end <= from)
		return;
	share = (unsigned_wide)page->present * (page->end - from) / (page->end - page->offset);
	ahead = job->progress.ahead < share ? job->progress.ahead : (uint64_t)share;
	job_set_ahead(job, job->progress.ahead - ahead);
	job->progress.present += (uint64_t)share - ahead;
	job->progress.scanned = page->end;
}

int job_mapped(struct core *core, struct job *job, const struct msg_map_page *page, struct err *err)
{
	const struct lease *lease;
	const struct request *request;

	if (!job->is_open || page->offset != job->map.scanned)
		return 0; /* of an earlier opening */
	if (work_map_add_page(&job->map, page, err) < 0)
		return -1;
	count_present(job, page);
	list_for_each(lease, &job->leases, in_job)
		work_map_exclude(&job->map, lease->range);
	list_for_each(request, &job->requests, of_owner)
		if (request->kind == REQUEST_ZERO)
			work_map_exclude(&job->map, request->range);
	if (page->runs_count > 0)
		job_pages_add(core, job, page->offset, page->end);
	job_progress_changed(core, job);
	job_offer(core, job);
	device_touch(core, job->device); /* there may be work for workers now */
	return 0;
}

void job_zeroed(struct core *core, struct job *job, struct guest_range range,
	const struct msg_zeroed *zeroed)
{
	uint64_t zeroes = zeroed->zeroes < range.length ? zeroed->zeroes : range.length;
	uint64_t rest = range.length - zeroes;

	job->progress.zeroes += zeroes;
	job->progress.superseded += zeroed->superseded < rest ? zeroed->superseded : rest;
	job_pages_touch(job, range);
	job_went_well(job);
	job_progress_changed(core, job);
}

void job_unfinished(struct core *core, struct job *job, uint64_t offset)
{
	job->record.finishing = false;
	job_changed(core, job);
	if (job->is_open) { /* else it is opened again, and mapped from the beginning */
		work_map_reset(&job->map, job->map.size, job->map.cluster_size);
		if (offset < job->map.size)
			job->map.scanned = offset - offset % job->map.cluster_size;
		job_pages_forget(core, job);
	}
	job->finish_tries++;
	job_hold(core, job);
	if (job->record.cancelled)
		job_cancel(core, job);
}

/* ---- what is lacking */

static bool find_lack(const struct job *job, enum stall_reason *ret_reason)
{
	if (!job_is_running(job))
		return false;
	if (!job->device->is_online) {
		*ret_reason = STALL_REASON_DEVICE_OFFLINE;
		return true;
	}
	*ret_reason = STALL_REASON_NO_WORKER;
	return job->is_open && work_map_bytes(&job->map, WORK_COPY) > 0 &&
	       job->device->usable_joins == 0 && list_is_empty(&job->leases);
}

static uint64_t lack_told_ms(const struct core *core, const struct job *job)
{
	uint64_t told_ms = job->lacking_since_ms + LACK_MS;

	return told_ms > core->started_ms + LACK_AT_START_MS ? told_ms
							     : core->started_ms + LACK_AT_START_MS;
}

static void tell_lack(struct core *core, struct job *job, bool is_stalled, enum stall_reason reason)
{
	job->record.has_stalled = is_stalled;
	job->record.stalled = is_stalled ? reason : 0;
	job_changed(core, job);
	job_publish_stalled(core, job, is_stalled ? stall_reason_name(reason) : "");
}

static void advance_lack(struct core *core, struct job *job)
{
	enum stall_reason reason = 0;
	bool lacks = find_lack(job, &reason);

	if (lacks && (!job->lacks_something || job->lacks != reason))
		job->lacking_since_ms = core->now.now_ms;
	job->lacks_something = lacks;
	job->lacks = reason;
	if (!lacks && job->record.has_stalled && job_is_running(job))
		tell_lack(core, job, false, reason);
	if (!lacks || (job->record.has_stalled && job->record.stalled == reason))
		return;
	if (core->now.now_ms >= lack_told_ms(core, job))
		tell_lack(core, job, true, reason);
}

/* ---- what is next */

static void advance_abort(struct core *core, struct job *job)
{
	if (job->device->imaged->peer.number == 0 || core->now.now_ms < job->hold_until_ms)
		return; /* it ends when its imaged is back, or by force */
	if (!requests_have(&job->requests, REQUEST_CLOSE_JOB))
		ask_close(core, job);
}

/* The device must be attached anew, but the header may be half switched: close the job there
 * without ending it. */
static void advance_release(struct core *core, struct job *job)
{
	if (job->device->has_failed && job->device->imaged->peer.number != 0 && !job->is_released &&
		!requests_have(&job->requests, REQUEST_CLOSE_JOB))
		ask_close(core, job);
}

static size_t count_requests(const struct job *job, enum request_kind kind)
{
	const struct request *request;
	size_t count = 0;

	list_for_each(request, &job->requests, of_owner)
		count += request->kind == kind;
	return count;
}

static void advance_copying(struct core *core, struct job *job)
{
	struct guest_range range;
	size_t zeroing = count_requests(job, REQUEST_ZERO);

	if (work_map_wants_page(&job->map) && !requests_have(&job->requests, REQUEST_MAP) &&
		!job_is_reserving_ahead(job))
		ask_map(core, job);
	for (; zeroing < ZEROES_AT_ONCE &&
		work_map_take(&job->map, WORK_ZERO, ZERO_BYTES_MAX, &range);
		zeroing++)
		ask_zero(core, job, range);
	if (!work_map_is_exhausted(&job->map) || !list_is_empty(&job->leases) ||
		!list_is_empty(&job->requests))
		return;
	job->record.finishing = true;
	job_changed(core, job);
	ask_finish(core, job);
}

static void advance_work(struct core *core, struct job *job)
{
	if (job->record.status == JOB_STATUS_ABORTING)
		advance_abort(core, job);
	else if (!job->device->is_online)
		advance_release(core, job);
	else if (!job_is_running(job) || core->now.now_ms < job->hold_until_ms)
		return;
	else if (job->record.finishing) {
		if (!requests_have(&job->requests, REQUEST_FINISH))
			ask_finish(core, job);
	} else if (job->is_open)
		advance_copying(core, job);
	else if (!requests_have(&job->requests, REQUEST_OPEN_JOB))
		ask_open(core, job);
}

/* ---- what is told and stored now and then */

static void store_progress(struct core *core, struct job *job)
{
	struct store_key key = store_key_of(job->record.number);

	job_position(job);
	wire_buffer_clear(&core->buffer);
	record_job_progress_encode(&job->progress, &core->buffer);
	store_put(core, STORE_PROGRESS, key.bytes, key.length);
	job->is_progress_changed = false;
	job->stored_ms = core->now.now_ms;
}

static uint64_t tell_due_ms(const struct job *job)
{
	return job->told_ms + (job->has_news ? PROGRESS_MIN_MS : PROGRESS_MAX_MS);
}

static void advance_telling(struct core *core, struct job *job)
{
	job->has_news |= job->is_progress_changed;
	if (job_is_running(job) && core->now.now_ms >= tell_due_ms(job)) {
		job_publish_progress(core, job);
		job->told_ms = core->now.now_ms;
		job->has_news = false;
	}
	if (job->is_progress_changed && core->now.now_ms >= job->stored_ms + STORE_MS)
		store_progress(core, job);
	if (core->now.now_ms >= job->pages_stored_ms + PAGES_STORE_MS &&
		job_pages_have_changed(job))
		job_pages_store(core, job);
}

static void set_timer(struct core *core, struct job *job)
{
	struct timers *timers = &core->timers;
	struct timer *timer = &job->timer;
	uint64_t now_ms = core->now.now_ms;

	timer_stop(timers, timer);
	if (job_is_running(job))
		timer_set(timers, timer, tell_due_ms(job));
	if (job->is_progress_changed)
		timer_set_earlier(timers, timer, job->stored_ms + STORE_MS);
	if (job_pages_have_changed(job))
		timer_set_earlier(timers, timer, job->pages_stored_ms + PAGES_STORE_MS);
	if (job->hold_until_ms > now_ms)
		timer_set_earlier(timers, timer, job->hold_until_ms);
	if (job->lacks_something && !(job->record.has_stalled && job->record.stalled == job->lacks))
		timer_set_earlier(timers, timer, lack_told_ms(core, job));
	if (pace_due_ms(&job->pace) != UINT64_MAX)
		timer_set_earlier(timers, timer, pace_due_ms(&job->pace));
	if (work_map_bytes(&job->map, WORK_COPY) == 0)
		return;
	if (!bucket_has_any(&job->bucket, now_ms))
		timer_set_earlier(timers, timer, bucket_ready_ms(&job->bucket));
	if (!bucket_has_any(&job->pace.bucket, now_ms))
		timer_set_earlier(timers, timer, bucket_ready_ms(&job->pace.bucket));
}

void job_advance(struct core *core, struct job *job)
{
	if (!job->is_accepted)
		return; /* waits for imaged's answer */
	job_advance_pace(core, job);
	advance_lack(core, job);
	advance_work(core, job);
	advance_telling(core, job);
	set_timer(core, job);
}
