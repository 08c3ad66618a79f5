/* SPDX-License-Identifier: Apache-2.0 */
/* A lease: a range of a job in the hands of one worker, for as long as it makes progress.
 *
 *     RESERVING --reserved--> COPYING --copied--> COPIED --committed--> gone
 *         |                      |
 *         |                      '--no progress, job over--> REVOKED --stopped, late report--> gone
 *         '--nothing left there, refused--> gone
 *
 * After a restart imaged and workers say which leases they have: ORPHANED is one that only
 * imaged has named so far, CLAIMED one that only a worker has; when the other side speaks up
 * they become COPYING or COPIED, else they are closed.
 *
 * Invariants: an order is sent once, in the step that makes a lease COPYING; a lease that was
 * given up is never taken up again, its range gets a new one with clusters of its own; clusters
 * are called free (abort, stopped) only if the worker never got the order or said that it
 * stopped. */
#ifndef SLUICE_BROKER_CORE_LEASES_H
#define SLUICE_BROKER_CORE_LEASES_H

#include <stdbool.h>

#include "broker/core/state.h"

/* ---- leases.c */

struct lease *lease_find(const struct core *core, uint64_t id);
/* Asks imaged for clusters for this range of the job. */
void lease_reserve(struct core *core, struct join *join, struct job *job, struct guest_range range,
	uint64_t charged);
/* -1 and err: imaged is not to be believed. */
int MUST_CHECK lease_reserved(struct core *core, struct lease *lease,
	const struct msg_reserved *reserved, struct err *err);
void lease_refused(struct core *core, struct lease *lease, const struct msg_image_error *error);
/* Asks for the commit of what was reported. */
void lease_commit(struct core *core, struct lease *lease);
void lease_committed(struct core *core, struct lease *lease, const struct msg_committed *committed);
void lease_commit_refused(
	struct core *core, struct lease *lease, const struct msg_image_error *error);
/* Tells the worker to stop and imaged to close it; the range is to be done again. */
void lease_revoke(struct core *core, struct lease *lease);
/* Takes it away from its job; the range goes back to the map. */
void lease_leave_job(struct core *core, struct lease *lease);
void lease_free(struct core *core, struct lease *lease);
/* What is known of a worker and the clusters of a lease. */
enum worker_writes {
	WORKER_MAY_WRITE,
	WORKER_WRITES_NO_MORE,
	WORKER_COULD_NOT_FLUSH, /* and writes no more */
};
/* Closes it at imaged, if that is here; what it has open it will name when it comes back. */
void lease_abort(struct core *core, struct imaged *imaged, uint64_t id, enum worker_writes writes);
void lease_acknowledge(struct core *core, const struct worker *worker, uint64_t id);
/* The job is over, or not worked on any more. */
void leases_of_job_release(struct core *core, struct job *job);
void leases_of_worker_lost(struct core *core, struct worker *worker);
/* imaged is away: what it was asked is lost, what is in workers' hands goes on. */
void leases_of_imaged_away(struct core *core, struct imaged *imaged);

/* Named by one side after a restart. */
struct lease *lease_new_orphan(struct core *core, struct imaged *imaged, struct job *job,
	const struct open_lease *open, const char *worker, uint64_t worker_incarnation);
/* NULL: that worker names too many; it was told to stop this one. */
struct lease *lease_new_claim(struct core *core, struct worker *worker, uint64_t id);
/* imaged names it, but it is not wanted: closed there; the worker (NULL: not here) is told to
 * stop. */
void lease_close_unwanted(
	struct core *core, struct imaged *imaged, uint64_t id, struct worker *worker);
/* A worker's claim is what imaged named. */
void lease_match_claim(struct core *core, struct lease *lease, struct imaged *imaged,
	struct job *job, const struct open_lease *open);
/* What imaged named is in this worker's hands. */
void lease_match_orphan(struct core *core, struct lease *lease, struct worker *worker);

/* ---- lease_reports.c: what workers say */

void lease_progress(
	struct core *core, struct worker *worker, const struct msg_copy_progress *progress);
void lease_copied(struct core *core, struct worker *worker, const struct msg_copied *copied);
void lease_failed(struct core *core, struct worker *worker, const struct msg_copy_failed *failed);
void lease_stopped(
	struct core *core, struct worker *worker, const struct msg_copy_stopped *stopped);

#endif
