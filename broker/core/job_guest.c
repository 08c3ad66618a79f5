/* SPDX-License-Identifier: Apache-2.0 */
/* A job and the guests of its device: what they miss goes first, and while they are busy the job
 * gives way (pace.h).
 *
 * What is wanted below `scanned` is taken out of the work map.  What lies beyond is not known to
 * need anything; there a reservation is asked for all the same, and imaged trims it to what is
 * needed.  Invariant for those *ahead* of the map: none is asked for while a page is on its way,
 * and no page is asked for while one of them has no answer.  So a page meets only leases whose
 * exact range is known (and is taken out of it), and an answer never finds that the map has gone
 * past its range meanwhile. */
#include "broker/core/devices.h"
#include "broker/core/job.h"
#include "broker/core/leases.h"
#include "broker/core/requests.h"

uint64_t job_floor(const struct core *core, const struct job *job)
{
	return job->record.has_floor ? job->record.floor : core->options.floor;
}

void job_advance_pace(struct core *core, struct job *job)
{
	pace_advance(&job->pace, job_floor(core, job), job_rate(core, job), core->now.now_ms);
}

void job_hears_of_guest(struct core *core, struct job *job, const struct msg_guest_report *report)
{
	const struct wanted_disk disk = {job->map.size, job->map.cluster_size};
	const struct pace_load load = {report->requests, report->busy, report->interval_ms};

	if (!job_is_running(job) || !job->is_open)
		return;
	pace_hear(&job->pace, &load, core->now.now_ms);
	wanted_add(&job->wanted, &disk, report->wanted, report->wanted_count);
	job_touch(core, job);
	if (report->wanted_count > 0)
		job_offer(core, job);
}

bool job_is_reserving_ahead(const struct job *job)
{
	const struct lease *lease;

	list_for_each(lease, &job->leases, in_job)
		if (lease->is_ahead && lease->state == LEASE_RESERVING)
			return true;
	return false;
}

/* The map's next page goes first: else guests that miss much would keep it from coming. */
static bool may_go_ahead(const struct job *job)
{
	return !work_map_wants_page(&job->map) && !requests_have(&job->requests, REQUEST_MAP);
}

static uint64_t end_of(struct guest_range range)
{
	return range.offset + range.length;
}

/* Where whoever has the byte at `offset` in its hands ends; `offset` itself where nobody has.
 * Lowers *end to where the next one begins. */
static uint64_t taken_until(const struct job *job, uint64_t offset, uint64_t *end)
{
	const struct lease *lease;

	list_for_each(lease, &job->leases, in_job) {
		if (lease->range.offset <= offset && offset < end_of(lease->range))
			return end_of(lease->range);
		if (lease->range.offset > offset && lease->range.offset < *end)
			*end = lease->range.offset;
	}
	return offset;
}

/* The first clusters of the range that nobody has in its hands, at most `most_bytes`.  false:
 * there are none. */
static bool find_free(const struct job *job, struct guest_range range, uint64_t most_bytes,
	struct guest_range *ret_free)
{
	uint64_t cluster = job->map.cluster_size, offset = range.offset, end, next;

	for (;;) {
		end = end_of(range);
		if (offset >= end)
			return false;
		next = taken_until(job, offset, &end);
		if (next == offset)
			break;
		offset = next + (cluster - next % cluster) % cluster;
	}
	if (end < job->map.size)
		end -= end % cluster;
	if (end <= offset)
		return false;
	*ret_free =
		(struct guest_range){offset, end - offset < most_bytes ? end - offset : most_bytes};
	return true;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

bool job_take_wanted(struct job *job, uint64_t most_bytes, struct guest_range *ret_range)
{
	struct wanted *wanted = &job->wanted;
	bool goes_ahead = may_go_ahead(job);
	size_t place = 0;

	while (place < wanted->count) {
		struct guest_range range = wanted->ranges[place];
		bool is_known = range.offset < job->map.scanned;
		uint64_t known_end = least(end_of(range), job->map.scanned);
		bool is_taken = false;

		if (is_known)
			is_taken = work_map_take_within(&job->map, WORK_COPY,
				(struct guest_range){range.offset, known_end - range.offset},
				most_bytes, ret_range);
		else if (goes_ahead)
			is_taken = find_free(job, range, most_bytes, ret_range);
		if (is_taken)
			wanted_cut(wanted, place, end_of(*ret_range));
		else if (is_known)
			wanted_cut(wanted, place, known_end);
		else if (goes_ahead)
			wanted_cut(wanted, place, end_of(range));
		else
			place++;
		if (is_taken)
			return true;
	}
	return false;
}
