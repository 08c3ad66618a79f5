/* SPDX-License-Identifier: Apache-2.0 */
/* Credit, turns, budgets and the size of ranges. */
#include "broker/core/scheduler.h"

#include "broker/core/job.h"
#include "broker/core/leases.h"
#include "broker/core/roster.h"

#define RANGE_MAX	(UINT64_C(64) << 20)
#define RANGE_MAX_ITEMS 4096 /* clusters: a report of zeroes holds at most half as many runs */
#define TOO_SHORT_US	50000
#define TOO_LONG_US	200000
#define GRAINS		20 /* a limited job takes at least so many ranges a second */
#define LAST_RANGE_MIN	(UINT64_C(1) << 20)
/* Of less most of the time is the flush's, which takes as long however little there is to flush. */
#define LEARNED_MIN (UINT64_C(1) << 20)

void scheduler_learn(const struct lease *lease, uint64_t microseconds)
{
	struct join *join = lease->join;

	if (join == NULL)
		return;
	/* What was shorter for other reasons tells of the flush, and of a busy guest. */
	if (microseconds > TOO_LONG_US && lease->range.length > join->range_bytes / 2 &&
		lease->range.length <= join->range_bytes)
		join->range_bytes = lease->range.length / 2;
	else if (microseconds < TOO_SHORT_US && lease->range.length >= join->range_bytes)
		join->range_bytes *= 2;
	if (join->range_bytes > RANGE_MAX)
		join->range_bytes = RANGE_MAX;
	if (join->range_bytes < LEARNED_MIN)
		join->range_bytes = LEARNED_MIN;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Towards the end: two ranges for each that works on it. */
static uint64_t fair_share(const struct job *job)
{
	uint64_t left = work_map_bytes(&job->map, WORK_COPY);
	uint64_t share = left / (2 * (job->device->usable_joins ? job->device->usable_joins : 1));

	if (job->map.scanned < job->map.size)
		return RANGE_MAX;
	return share > LAST_RANGE_MIN ? share : LAST_RANGE_MIN;
}

static uint64_t range_size(const struct core *core, const struct join *join, const struct job *job)
{
	uint64_t cluster = job->map.cluster_size;
	uint64_t size = least(join->range_bytes, least(RANGE_MAX, cluster * RANGE_MAX_ITEMS));

	size = least(size, least(fair_share(job), pace_range_max(&job->pace)));
	if (job->bucket.speed != 0)
		size = least(size, job->bucket.speed / GRAINS);
	if (core->bucket.speed != 0)
		size = least(size, core->bucket.speed / GRAINS);
	size -= size % cluster;
	return size > 0 ? size : cluster;
}

static bool is_ready(struct core *core, struct job *job)
{
	return job != NULL && job_is_running(job) && job->is_open && job->device->is_online &&
	       work_map_bytes(&job->map, WORK_COPY) > 0 && core->now.now_ms >= job->hold_until_ms &&
	       bucket_has_any(&job->bucket, core->now.now_ms) &&
	       bucket_has_any(&job->pace.bucket, core->now.now_ms);
}

static bool goes_before(const struct job *job, const struct job *other)
{
	if (job->record.priority != other->record.priority)
		return job->record.priority > other->record.priority;
	return job->virtual_bytes < other->virtual_bytes;
}

static struct join *choose(struct core *core, const struct worker *worker)
{
	struct join *join, *best = NULL;

	list_for_each(join, &worker->joins, in_worker)
		if (join->state == JOIN_USABLE && is_ready(core, join->device->job) &&
			(best == NULL || goes_before(join->device->job, best->device->job)))
			best = join;
	return best;
}

/* A job that had nothing to do for a while does not get what it did not ask for then. */
static void count_share(struct core *core, struct job *job, uint64_t bytes)
{
	if (core->virtual_bytes > job->virtual_bytes && list_is_empty(&job->leases))
		job->virtual_bytes = core->virtual_bytes;
	core->virtual_bytes = job->virtual_bytes;
	job->virtual_bytes += bytes;
}

static bool has_credit(const struct worker *worker)
{
	return !worker->says_goodbye && worker->in_hands < worker->slots + 1;
}

static bool take_one(struct core *core, struct worker *worker)
{
	struct join *join;
	struct job *job;
	struct guest_range range;
	uint64_t size;

	if (!has_credit(worker))
		return false;
	if (!bucket_has_any(&core->bucket, core->now.now_ms)) {
		timer_set_earlier(
			&core->timers, &core->budget_timer, bucket_ready_ms(&core->bucket));
		return false;
	}
	join = choose(core, worker);
	if (join == NULL)
		return false;
	job = join->device->job;
	size = range_size(core, join, job);
	if (!job_take_wanted(job, size, &range) &&
		!work_map_take(&job->map, WORK_COPY, size, &range))
		return false;
	bucket_take(&core->bucket, range.length);
	bucket_take(&job->bucket, range.length);
	bucket_take(&job->pace.bucket, range.length);
	count_share(core, job, range.length);
	lease_reserve(core, join, job, range, range.length);
	job_touch(core, job);
	return true;
}

void scheduler_run(struct core *core)
{
	struct worker *worker;

	while ((worker = list_first(&core->touched_workers, struct worker, in_touched)) != NULL) {
		list_remove(&worker->in_touched);
		if (take_one(core, worker))
			worker_touch(core, worker);
	}
}

void scheduler_offer_all(struct core *core)
{
	struct worker *worker;
	size_t place = 0;

	while ((worker = index_next(&core->workers, &place)) != NULL)
		if (has_credit(worker))
			worker_touch(core, worker);
}
