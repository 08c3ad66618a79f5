/* SPDX-License-Identifier: Apache-2.0 */
/* The work map in the store, page by page: a hint for people who look into the store, never read
 * back as the truth (after a restart imaged tells the map anew).  So it is stored lazily, and
 * lost pages do no harm. */
#include <stdlib.h>

#include "broker/core/job.h"
#include "broker/core/outbox.h"
#include "common/check.h"

void job_pages_add(struct core *core, struct job *job, uint64_t offset, uint64_t end)
{
	struct page *page = must_calloc(1, sizeof(*page));

	page->offset = offset;
	page->end = end;
	page->is_changed = true;
	list_append(&job->pages, &page->in_job);
	job->pages_stored_ms = core->now.now_ms;
}

void job_pages_touch(struct job *job, struct guest_range range)
{
	struct page *page;

	list_for_each(page, &job->pages, in_job)
		if (page->offset < range.offset + range.length && range.offset < page->end)
			page->is_changed = true;
}

bool job_pages_have_changed(const struct job *job)
{
	const struct page *page;

	list_for_each(page, &job->pages, in_job)
		if (page->is_changed)
			return true;
	return false;
}

static void add_run(struct record_map_page *record, const struct page *page,
	struct guest_range range, enum range_state state, const char *worker)
{
	uint64_t offset = range.offset > page->offset ? range.offset : page->offset;
	uint64_t end =
		range.offset + range.length < page->end ? range.offset + range.length : page->end;

	if (offset >= end || record->runs_count == RECORD_MAP_PAGE_RUNS_MAX)
		return;
	record->runs[record->runs_count++] = (struct map_run){offset, end - offset, state, worker};
}

static int compare_offsets(const void *left, const void *right)
{
	const struct map_run *a = left, *b = right;

	return (a->offset > b->offset) - (a->offset < b->offset);
}

static void collect(const struct job *job, const struct page *page, struct record_map_page *record)
{
	const struct guest_range *run;
	const struct lease *lease;

	for (run = work_map_find(&job->map, WORK_COPY, page->offset);
		run && run->offset < page->end; run = work_map_after(&job->map, WORK_COPY, run))
		add_run(record, page, *run, RANGE_STATE_PENDING, NULL);
	for (run = work_map_find(&job->map, WORK_ZERO, page->offset);
		run && run->offset < page->end; run = work_map_after(&job->map, WORK_ZERO, run))
		add_run(record, page, *run, RANGE_STATE_PENDING_ZERO, NULL);
	list_for_each(lease, &job->leases, in_job)
		add_run(record, page, lease->range, RANGE_STATE_LEASED,
			lease->worker ? lease->worker->name : NULL);
	qsort(record->runs, record->runs_count, sizeof(*record->runs), compare_offsets);
}

/* Nothing is left to do in it and nothing of it is in anybody's hands. */
static void page_delete(struct core *core, struct job *job, struct page *page)
{
	struct store_key key = store_key_of_two(job->record.number, page->offset);

	store_delete(core, STORE_MAP_PAGES, key.bytes, key.length);
	list_remove(&page->in_job);
	free(page);
}

static void page_store(struct core *core, struct job *job, struct page *page, struct map_run *runs)
{
	struct record_map_page record = {.end = page->end, .runs = runs};
	struct store_key key = store_key_of_two(job->record.number, page->offset);

	page->is_changed = false;
	collect(job, page, &record);
	if (record.runs_count == 0) {
		page_delete(core, job, page);
		return;
	}
	wire_buffer_clear(&core->buffer);
	record_map_page_encode(&record, &core->buffer);
	store_put(core, STORE_MAP_PAGES, key.bytes, key.length);
}

void job_pages_store(struct core *core, struct job *job)
{
	struct map_run *runs = must_calloc(RECORD_MAP_PAGE_RUNS_MAX, sizeof(*runs));
	struct page *page, *following;

	list_for_each_safe(page, following, &job->pages, in_job)
		if (page->is_changed)
			page_store(core, job, page, runs);
	job->pages_stored_ms = core->now.now_ms;
	free(runs);
}

void job_pages_free(struct job *job)
{
	struct page *page, *following;

	list_for_each_safe(page, following, &job->pages, in_job) {
		list_remove(&page->in_job);
		free(page);
	}
}

void job_pages_forget(struct core *core, struct job *job)
{
	struct store_key key = store_key_of(job->record.number);

	job_pages_free(job);
	store_delete_prefix(core, STORE_MAP_PAGES, key.bytes, key.length);
}
