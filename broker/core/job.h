/* SPDX-License-Identifier: Apache-2.0 */
/* A job: one block_stream on one device.
 *
 *     created --> running --> waiting --> pending --> concluded --> null
 *                    |                                   ^
 *                    '---------> aborting ---------------'
 *
 * `paused` has its place in the table beside running.  Within running, a job goes through these,
 * each entered anew after every restart of the broker or of its imaged:
 *
 *     device online? -> opened at imaged? -> map, copy, zero until nothing is left
 *         -> finishing (stored) -> finished
 *
 * From `finishing` on the header may have been rewritten, and a cancel comes too late. */
#ifndef SLUICE_BROKER_CORE_JOB_H
#define SLUICE_BROKER_CORE_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/core/state.h"

/* ---- job.c: the record and its keeping */

/* One that is not accepted yet, in the tables of devices and ids.  The record's strings are
 * copied. */
struct job *job_new(struct core *core, struct device *device, const struct record_job *record);
/* Without a word to anybody. */
void job_free(struct core *core, struct job *job);
struct job *job_find(const struct core *core, const char *id);
/* By its id, else by its device; only accepted ones. */
struct job *job_find_active(const struct core *core, const char *id_or_device);
/* Stores the job's record at the end of the step. */
void job_changed(struct core *core, struct job *job);
void job_progress_changed(struct core *core, struct job *job);
void job_touch(struct core *core, struct job *job);
/* Stores records and progress of all changed jobs; end of the step. */
void jobs_store(struct core *core);
/* Moves to another status, stores and publishes it.  The move must be in the table. */
void job_become(struct core *core, struct job *job, enum job_status status);
bool job_may_become(enum job_status from, enum job_status to);
bool job_is_running(const struct job *job);
/* Replaces an owned string; `text` may be NULL. */
void text_replace(const char **text, const char *replacement);

/* Bytes that no longer depend on the dropped layers; never less than was told before. */
uint64_t job_position(struct job *job);
/* What became of a range. */
struct job_outcome {
	uint64_t copied, zeroes, superseded; /* bytes */
};
void job_count(struct job *job, uint64_t offset, const struct job_outcome *outcome);
/* Bytes that are counted although they lie beyond what is scanned. */
void job_set_ahead(struct job *job, uint64_t bytes);
uint64_t job_rate(struct core *core, struct job *job);
bool job_has_eta(struct core *core, struct job *job, uint64_t *ret_seconds);

/* ---- job_events.c: what is published of it */

void job_publish_status(struct core *core, const struct job *job, enum job_status status);
void job_publish_progress(struct core *core, struct job *job);
void job_publish_stalled(struct core *core, const struct job *job, const char *reason);
void job_publish_completed(struct core *core, struct job *job);
void job_publish_cancelled(struct core *core, struct job *job);
struct io_trouble {
	enum operation operation;
	struct guest_range range;
	const char *file, *reason, *errno_name;
};
void job_publish_error(struct core *core, const struct job *job, const struct io_trouble *trouble);

/* ---- job_flow.c: what is next */

/* A new one: asks imaged to open it.  It is accepted when imaged did. */
void job_begin(struct core *core, struct job *job);
/* Looks at the job and does what is next. */
void job_advance(struct core *core, struct job *job);
/* imaged answered. */
void job_opened(struct core *core, struct job *job, const struct msg_job_opened *opened);
/* -1 and err: the page is none, imaged is not to be believed. */
int MUST_CHECK job_mapped(
	struct core *core, struct job *job, const struct msg_map_page *page, struct err *err);
void job_zeroed(struct core *core, struct job *job, struct guest_range range,
	const struct msg_zeroed *zeroed);
void job_unfinished(struct core *core, struct job *job, uint64_t offset);
/* imaged is away or starts anew with us: nothing is open there, what was asked is lost. */
void job_session_lost(struct core *core, struct job *job);
/* The job has work for workers, or may have it now. */
void job_offer(struct core *core, struct job *job);
/* Asks imaged nothing for a while; longer each time it refuses again. */
void job_hold(struct core *core, struct job *job);
void job_went_well(struct job *job);

/* ---- job_end.c: how it ends */

/* imaged refused `kind`, about `range` if it has a length: the job fails, or tries again. */
void job_refused(struct core *core, struct job *job, enum request_kind kind,
	struct guest_range range, const struct msg_image_error *error);
/* A range cannot be read or written. */
void job_io_failed(struct core *core, struct job *job, const struct io_trouble *trouble);
void job_fail(struct core *core, struct job *job, enum error_class class, const char *errno_name,
	const char *reason);
/* One that is finishing completes all the same, unless imaged finds that something is missing. */
void job_cancel(struct core *core, struct job *job);
/* Its device is away, and may stay so: it ends in the ledger, whatever stands in the header. */
void job_cancel_by_force(struct core *core, struct job *job);
void job_finished(struct core *core, struct job *job);
/* imaged has closed it. */
void job_closed(struct core *core, struct job *job);
/* Aborting, and nobody is left to wait for: the last events, and it is gone. */
void job_end(struct core *core, struct job *job);
/* A block_stream that is not accepted: answers those who wait and frees it. */
void job_reject(struct core *core, struct job *job, const struct msg_image_error *error);

/* ---- job_guest.c: guests go first */

/* The rate below which it does not fall while it gives way. */
uint64_t job_floor(const struct core *core, const struct job *job);
void job_hears_of_guest(struct core *core, struct job *job, const struct msg_guest_report *report);
void job_advance_pace(struct core *core, struct job *job);
/* The next range that guests wait for, at most `most_bytes`; it is out of the map.  false: there
 * is none now. */
bool job_take_wanted(struct job *job, uint64_t most_bytes, struct guest_range *ret_range);
/* While it is, no page of the map may be asked for. */
bool job_is_reserving_ahead(const struct job *job);

/* ---- job_pages.c: the map as the store knows it */

void job_pages_add(struct core *core, struct job *job, uint64_t offset, uint64_t end);
void job_pages_touch(struct job *job, struct guest_range range);
/* Stores those that changed; deletes those where nothing is left. */
void job_pages_store(struct core *core, struct job *job);
bool job_pages_have_changed(const struct job *job);
void job_pages_forget(struct core *core, struct job *job);
void job_pages_free(struct job *job);

#endif
