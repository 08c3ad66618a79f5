/* SPDX-License-Identifier: Apache-2.0 */
/* What workers say of their leases: any of it may come late, twice, or about a lease that nobody
 * knows any more. */
#include <stdlib.h>
#include <string.h>

#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/scheduler.h"
#include "common/check.h"

/* Nothing is written under this id any more, by the word of the worker that had it.  Whichever
 * imaged it was of frees its clusters; the others do not know it. */
static void stopped_unknown(
	struct core *core, const struct worker *worker, uint64_t id, enum worker_writes writes)
{
	struct imaged *imaged;

	list_for_each(imaged, &core->all_imageds, in_core)
		if (strcmp(imaged->realm, worker->realm->name) == 0)
			lease_abort(core, imaged, id, writes);
	lease_acknowledge(core, worker, id);
}

/* The lease, if the report is this worker's to make; else it is answered here. */
static struct lease *lease_of_report(
	struct core *core, const struct worker *worker, uint64_t id, enum worker_writes writes)
{
	struct lease *lease = lease_find(core, id);

	if (lease == NULL)
		stopped_unknown(core, worker, id, writes);
	else if (lease->worker != worker)
		lease_acknowledge(core, worker, id);
	return lease != NULL && lease->worker == worker ? lease : NULL;
}

/* It is over without a commit. */
static void close_stopped(struct core *core, struct lease *lease, enum worker_writes writes)
{
	const struct worker *worker = lease->worker;
	uint64_t id = lease->id;
	struct imaged *imaged = lease->imaged;

	lease_leave_job(core, lease);
	lease_free(core, lease);
	if (imaged == NULL) {
		stopped_unknown(core, worker, id, writes);
		return;
	}
	lease_abort(core, imaged, id, writes);
	lease_acknowledge(core, worker, id);
}

void lease_progress(
	struct core *core, struct worker *worker, const struct msg_copy_progress *progress)
{
	struct lease *lease = lease_find(core, progress->lease);

	if (lease == NULL || lease->worker != worker || lease->state != LEASE_COPYING ||
		progress->bytes <= lease->reported_bytes)
		return;
	lease->has_started = true;
	lease->reported_bytes = progress->bytes;
	lease->renewed_ms = worker->progress_ms = core->now.now_ms;
}

static void keep_report(struct lease *lease, const struct msg_copied *copied)
{
	free(lease->zeroes);
	lease->has_report = true;
	lease->reported_bytes = copied->bytes;
	lease->zeroes_count = copied->zeroes_count;
	lease->zeroes = must_calloc(copied->zeroes_count + 1, sizeof(*lease->zeroes));
	if (copied->zeroes_count > 0)
		memcpy(lease->zeroes, copied->zeroes,
			copied->zeroes_count * sizeof(*lease->zeroes));
}

void lease_copied(struct core *core, struct worker *worker, const struct msg_copied *copied)
{
	struct lease *lease = lease_of_report(core, worker, copied->lease, WORKER_WRITES_NO_MORE);

	if (lease == NULL)
		return;
	switch (lease->state) {
	case LEASE_COPYING:
		worker->progress_ms = core->now.now_ms;
		keep_report(lease, copied);
		scheduler_learn(lease, copied->microseconds);
		lease_commit(core, lease);
		break;
	case LEASE_CLAIMED:
		keep_report(lease, copied);
		break;
	case LEASE_REVOKED: /* too late */
		close_stopped(core, lease, WORKER_WRITES_NO_MORE);
		break;
	case LEASE_COPIED: /* said twice; acknowledged when imaged has answered */
	case LEASE_RESERVING:
	case LEASE_ORPHANED:
		break;
	}
}

void lease_failed(struct core *core, struct worker *worker, const struct msg_copy_failed *failed)
{
	enum worker_writes writes = failed->operation == OPERATION_FLUSH ? WORKER_COULD_NOT_FLUSH
									 : WORKER_WRITES_NO_MORE;
	struct lease *lease = lease_of_report(core, worker, failed->lease, writes);
	struct io_trouble trouble = {
		.operation = failed->operation,
		.range = {failed->offset, failed->length},
		.file = failed->file,
		.reason = failed->msg,
		.errno_name = failed->errno_name,
	};
	struct job *job;

	if (lease == NULL || lease->state == LEASE_COPIED)
		return;
	job = lease->job;
	close_stopped(core, lease, writes);
	if (job != NULL)
		job_io_failed(core, job, &trouble);
}

void lease_stopped(struct core *core, struct worker *worker, const struct msg_copy_stopped *stopped)
{
	struct lease *lease = lease_of_report(core, worker, stopped->lease, WORKER_WRITES_NO_MORE);
	struct join *join;

	if (lease == NULL || lease->state == LEASE_COPIED)
		return;
	/* Nobody told it to: perhaps it does not have that leaf open any more.  Both begin anew. */
	join = lease->state == LEASE_COPYING && !worker->says_goodbye ? lease->join : NULL;
	close_stopped(core, lease, WORKER_WRITES_NO_MORE);
	if (join != NULL)
		join_leave(core, join);
}
