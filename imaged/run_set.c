/* SPDX-License-Identifier: Apache-2.0 */
/* Sorted runs in one array: binary search to find, memmove to insert.  Zones keep the number of runs small. */
#include "imaged/run_set.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

void run_set_done(struct run_set *set)
{
	free(set->runs);
	*set = (struct run_set){0};
}

/* Index of the first run that ends after `cluster`. */
static size_t first_ending_after(const struct run_set *set, uint64_t cluster)
{
	size_t low = 0, high = set->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (set->runs[middle].first + set->runs[middle].count > cluster)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

bool run_set_overlaps(const struct run_set *set, uint64_t first, uint64_t count)
{
	size_t at = first_ending_after(set, first);

	return count > 0 && at < set->count && set->runs[at].first < first + count;
}

static void insert_at(struct run_set *set, size_t at, uint64_t first, uint64_t count)
{
	if (set->count == set->capacity) {
		set->capacity = set->capacity ? set->capacity * 2 : 16;
		set->runs = must_realloc(set->runs, set->capacity, sizeof(*set->runs));
	}
	memmove(&set->runs[at + 1], &set->runs[at], (set->count - at) * sizeof(*set->runs));
	set->runs[at] = (struct run){.first = first, .count = count};
	set->count++;
}

static void delete_at(struct run_set *set, size_t at)
{
	set->count--;
	memmove(&set->runs[at], &set->runs[at + 1], (set->count - at) * sizeof(*set->runs));
}

void run_set_add(struct run_set *set, uint64_t first, uint64_t count)
{
	size_t at = first_ending_after(set, first);
	bool joins_previous, joins_next;

	if (count == 0)
		return;
	bug_if(run_set_overlaps(set, first, count));
	joins_previous = at > 0 && set->runs[at - 1].first + set->runs[at - 1].count == first;
	joins_next = at < set->count && set->runs[at].first == first + count;
	set->total += count;
	if (joins_previous && joins_next) {
		set->runs[at - 1].count += count + set->runs[at].count;
		delete_at(set, at);
	} else if (joins_previous) {
		set->runs[at - 1].count += count;
	} else if (joins_next) {
		set->runs[at].first = first;
		set->runs[at].count += count;
	} else {
		insert_at(set, at, first, count);
	}
}

void run_set_remove(struct run_set *set, uint64_t first, uint64_t count)
{
	size_t at = first_ending_after(set, first);
	struct run whole;

	if (count == 0)
		return;
	bug_if(at == set->count);
	whole = set->runs[at];
	bug_if(first < whole.first || first + count > whole.first + whole.count);
	set->total -= count;
	if (count == whole.count) {
		delete_at(set, at);
	} else if (first == whole.first) {
		set->runs[at].first += count;
		set->runs[at].count -= count;
	} else {
		set->runs[at].count = first - whole.first;
		if (first + count < whole.first + whole.count)
			insert_at(set, at + 1, first + count,
				whole.first + whole.count - first - count);
	}
}

const struct run *run_set_best(const struct run_set *set, uint64_t count)
{
	const struct run *best = NULL;

	for (size_t i = 0; i < set->count; i++) {
		const struct run *run = &set->runs[i];

		if (run->count >= count && (!best || run->count < best->count))
			best = run;
		if (best && best->count == count)
			break;
	}
	return best;
}

size_t run_set_largest(const struct run_set *set, struct run *ret_runs, size_t wanted)
{
	size_t found = 0;

	for (size_t i = 0; i < set->count; i++) {
		size_t at = found;

		while (at > 0 && ret_runs[at - 1].count < set->runs[i].count)
			at--;
		if (at == wanted)
			continue;
		if (found < wanted)
			found++;
		memmove(&ret_runs[at + 1], &ret_runs[at], (found - at - 1) * sizeof(*ret_runs));
		ret_runs[at] = set->runs[i];
	}
	return found;
}

void run_set_copy(const struct run_set *set, struct run_set *ret_copy)
{
	*ret_copy =
		(struct run_set){.count = set->count, .capacity = set->count, .total = set->total};
	if (set->count == 0)
		return;
	ret_copy->runs = must_calloc(set->count, sizeof(*set->runs));
	memcpy(ret_copy->runs, set->runs, set->count * sizeof(*set->runs));
}

void run_set_move(struct run_set *from, const struct run_set *chosen, struct run_set *to)
{
	for (size_t i = 0; i < chosen->count; i++) {
		uint64_t first = chosen->runs[i].first, end = first + chosen->runs[i].count;

		while (first < end) {
			size_t at = first_ending_after(from, first);
			uint64_t stop;

			if (at == from->count || from->runs[at].first >= end)
				break;
			if (from->runs[at].first > first)
				first = from->runs[at].first;
			stop = from->runs[at].first + from->runs[at].count;
			if (stop > end)
				stop = end;
			run_set_remove(from, first, stop - first);
			run_set_add(to, first, stop - first);
			first = stop;
		}
	}
}
