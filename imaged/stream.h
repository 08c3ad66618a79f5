/* SPDX-License-Identifier: Apache-2.0 */
/* A job's side of a device: what it keeps, what is left to do, and its end.
 *
 *   none ──open──▶ open ──finish: nothing is missing, header switched, layers closed──▶ none
 *                    └────close: the header stays as it is────────────────────────────▶ none
 *
 * Invariant: the header is switched only after a walk of the leaf's own tables found that nothing depends on what is dropped.  All
 * functions run on the device's strand. */
#ifndef SLUICE_IMAGED_STREAM_H
#define SLUICE_IMAGED_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/device.h"
#include "imaged/plan.h"
#include "imaged/work_map.h"

struct stream {
	char job[DEVICE_NAME_MAX + 1];
	size_t kept; /* index in the chain of the first layer that stays; the chain's count where none does */
	bool has_nothing_to_do;
	char base[QCOW2_NAME_MAX + 1];	       /* the kept layer's name in the chain; empty: none */
	char backing_name[QCOW2_NAME_MAX + 1]; /* for the header */
	char backing_format[QCOW2_FORMAT_MAX + 1];
	struct zero_set known_zero;
	bool is_counted;   /* that it fits is known */
	struct plan count; /* until then */
};

/* As a user asks for it; NULL: not given. */
struct stream_wish {
	const char *base, *bottom, *backing_file;
};

/* What that means for the device's chain, or why it can't be done: everything but the space is checked.  0, or -1 and trouble. */
int MUST_CHECK stream_resolve(struct device *device, const struct stream_wish *wish,
	struct stream *ret_stream, struct trouble *trouble);
/* After a name was resolved that is not the open job's: the header keeps room for the open job's again. */
void stream_renew_promise(struct device *device);
/* Opens the job, also when it is open already; another one open is refused.  The stream is device->stream. */
int MUST_CHECK stream_open(struct device *device, const char *job, const struct stream_wish *wish,
	struct trouble *trouble);
/* 0 if this job is open on the open device; else -1 and trouble. */
int MUST_CHECK stream_check_open(
	const struct device *device, const char *job, struct trouble *trouble);
/* Revokes the leases and forgets the job; nothing where it is not open. */
void stream_close(struct device *device, const char *job);
/* The same for whatever job there is, but leaves the zones as they are. */
void stream_forget(struct device *device);

/* What the work map is asked with; of the open job. */
struct work_scope stream_scope(const struct device *device);
/* Of a job that is not open. */
struct work_scope stream_scope_for(const struct device *device, const struct stream *stream);

/* Counts until the deadline whether the job fits. 1: it does; 0: not known yet; -1 and trouble (NoSpace: it does not). */
int MUST_CHECK stream_count(struct device *device, struct stream *stream, uint64_t deadline_us,
	struct trouble *trouble);

#define STREAM_UNFINISHED 1
/* 0: the header names what is kept, the rest of the chain is closed, no job is open.  STREAM_UNFINISHED: *ret_missing still depends on
 * a dropped layer.  -1 and trouble. */
int MUST_CHECK stream_finish(struct device *device, const char *job, const char *backing_name,
	const char *backing_format, uint64_t *ret_missing, struct trouble *trouble);

#endif
