/* SPDX-License-Identifier: Apache-2.0 */
/* Two sorted arrays of runs, one for copying and one for zeroing.  Work is taken from their
 * beginning, which costs nothing; putting back in the middle moves what comes after, and is
 * rare. */
#include "broker/core/work_map.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"

/* The next page is asked for when less than this is left, and not before, so that memory stays
 * bounded. */
#define ENOUGH_BYTES (UINT64_C(512) << 20)
#define ENOUGH_RUNS  1024

void work_map_init(struct work_map *map, uint64_t enough_bytes)
{
	*map = (struct work_map){.enough_bytes = enough_bytes ? enough_bytes : ENOUGH_BYTES};
}

void work_map_done(struct work_map *map)
{
	for (int work = 0; work < WORK_KINDS; work++)
		free(map->to_do[work].items);
	work_map_init(map, map->enough_bytes);
}

void work_map_reset(struct work_map *map, uint64_t size, uint64_t cluster_size)
{
	work_map_done(map);
	map->size = size;
	map->cluster_size = cluster_size;
}

static size_t runs_left(const struct work_runs *runs)
{
	return runs->count - runs->first;
}

bool work_map_wants_page(const struct work_map *map)
{
	const struct work_runs *copy = &map->to_do[WORK_COPY], *zero = &map->to_do[WORK_ZERO];

	return map->scanned < map->size && copy->bytes < map->enough_bytes &&
	       runs_left(copy) + runs_left(zero) < ENOUGH_RUNS;
}

uint64_t work_map_bytes(const struct work_map *map, enum work work)
{
	return map->to_do[work].bytes;
}

bool work_map_is_exhausted(const struct work_map *map)
{
	return map->scanned == map->size && map->to_do[WORK_COPY].bytes == 0 &&
	       map->to_do[WORK_ZERO].bytes == 0;
}

static uint64_t end_of(struct guest_range range)
{
	return range.offset + range.length;
}

/* Room for one more; what is used up goes first. */
static void make_room(struct work_runs *runs)
{
	if (runs->first > 0 && runs->count == runs->capacity) {
		runs->count -= runs->first;
		memmove(runs->items, runs->items + runs->first, runs->count * sizeof(*runs->items));
		runs->first = 0;
	}
	if (runs->count == runs->capacity) {
		runs->capacity = runs->capacity ? 2 * runs->capacity : 8;
		runs->items = must_realloc(runs->items, runs->capacity, sizeof(*runs->items));
	}
}

/* The place of the first run that ends after `offset`. */
static size_t place_after(const struct work_runs *runs, uint64_t offset)
{
	size_t low = runs->first, high = runs->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (end_of(runs->items[middle]) > offset)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static void insert(struct work_runs *runs, size_t place, struct guest_range range)
{
	size_t from_first = place - runs->first;

	make_room(runs);
	place = runs->first + from_first;
	memmove(runs->items + place + 1, runs->items + place,
		(runs->count - place) * sizeof(*runs->items));
	runs->items[place] = range;
	runs->count++;
}

static void erase(struct work_runs *runs, size_t place)
{
	runs->count--;
	memmove(runs->items + place, runs->items + place + 1,
		(runs->count - place) * sizeof(*runs->items));
}

/* Takes [offset, end) out of the runs. */
static void cut_out(struct work_runs *runs, uint64_t offset, uint64_t end)
{
	size_t place = place_after(runs, offset);

	while (place < runs->count && runs->items[place].offset < end) {
		struct guest_range run = runs->items[place];
		uint64_t cut_from = run.offset > offset ? run.offset : offset;
		uint64_t cut_to = end_of(run) < end ? end_of(run) : end;
		bool keeps_head = run.offset < cut_from, keeps_tail = cut_to < end_of(run);

		runs->bytes -= cut_to - cut_from;
		if (keeps_head) {
			runs->items[place].length = cut_from - run.offset;
			place++;
		}
		if (keeps_tail && keeps_head) {
			insert(runs, place, (struct guest_range){cut_to, end_of(run) - cut_to});
			return;
		}
		if (keeps_tail)
			runs->items[place] = (struct guest_range){cut_to, end_of(run) - cut_to};
		else if (!keeps_head)
			erase(runs, place);
		if (keeps_tail)
			return;
	}
}

/* Puts [offset, end) in and melts it with what it touches. */
static void put_in(struct work_runs *runs, uint64_t offset, uint64_t end)
{
	size_t place;

	if (offset >= end)
		return;
	cut_out(runs, offset, end);
	place = place_after(runs, offset);
	runs->bytes += end - offset;
	if (place > runs->first && end_of(runs->items[place - 1]) == offset) {
		place--;
		offset = runs->items[place].offset;
		erase(runs, place);
	}
	if (place < runs->count && runs->items[place].offset == end) {
		end = end_of(runs->items[place]);
		erase(runs, place);
	}
	insert(runs, place, (struct guest_range){offset, end - offset});
}

static bool is_aligned(const struct work_map *map, uint64_t offset)
{
	return offset % map->cluster_size == 0 || offset == map->size;
}

static int check_page(const struct work_map *map, const struct msg_map_page *page, struct err *err)
{
	uint64_t at = page->offset;

	if (page->offset != map->scanned)
		return err_set(err, "the page does not begin where it was asked for");
	if (page->end <= page->offset || page->end > map->size || !is_aligned(map, page->end))
		return err_set(err, "the page ends at a wrong place");
	if (page->present > page->end - page->offset)
		return err_set(err, "the page has more bytes present than it is long");
	for (size_t i = 0; i < page->runs_count; i++) {
		const struct work_run *run = &page->runs[i];

		if (run->offset < at || run->length == 0 || run->offset >= page->end ||
			run->length > page->end - run->offset)
			return err_set(err, "run %zu of the page is out of its bounds", i);
		at = run->offset + run->length;
		if (!is_aligned(map, run->offset) || !is_aligned(map, at))
			return err_set(err, "run %zu of the page is not aligned to clusters", i);
	}
	return 0;
}

int work_map_add_page(struct work_map *map, const struct msg_map_page *page, struct err *err)
{
	if (check_page(map, page, err) < 0)
		return -1;
	for (size_t i = 0; i < page->runs_count; i++) {
		const struct work_run *run = &page->runs[i];

		put_in(&map->to_do[run->work], run->offset, run->offset + run->length);
	}
	map->scanned = page->end;
	return 0;
}

bool work_map_take(
	struct work_map *map, enum work work, uint64_t most_bytes, struct guest_range *ret_range)
{
	struct work_runs *runs = &map->to_do[work];
	struct guest_range *run, taken;

	if (runs_left(runs) == 0)
		return false;
	run = &runs->items[runs->first];
	taken = *run;
	if (taken.length > most_bytes)
		taken.length = most_bytes;
	run->offset += taken.length;
	run->length -= taken.length;
	runs->bytes -= taken.length;
	if (run->length == 0)
		runs->first++;
	if (runs->first == runs->count)
		runs->first = runs->count = 0;
	*ret_range = taken;
	return true;
}

bool work_map_take_within(struct work_map *map, enum work work, struct guest_range within,
	uint64_t most_bytes, struct guest_range *ret_range)
{
	const struct guest_range *run = work_map_find(map, work, within.offset);
	uint64_t offset, end;

	if (run == NULL || run->offset >= end_of(within))
		return false;
	offset = run->offset > within.offset ? run->offset : within.offset;
	end = end_of(*run) < end_of(within) ? end_of(*run) : end_of(within);
	if (end - offset > most_bytes)
		end = offset + most_bytes;
	*ret_range = (struct guest_range){offset, end - offset};
	cut_out(&map->to_do[work], offset, end);
	return true;
}

void work_map_put_back(struct work_map *map, enum work work, struct guest_range range)
{
	uint64_t end = end_of(range) < map->scanned ? end_of(range) : map->scanned;

	put_in(&map->to_do[work], range.offset, end);
}

void work_map_exclude(struct work_map *map, struct guest_range range)
{
	for (int work = 0; work < WORK_KINDS; work++)
		cut_out(&map->to_do[work], range.offset, end_of(range));
}

const struct guest_range *work_map_find(const struct work_map *map, enum work work, uint64_t offset)
{
	const struct work_runs *runs = &map->to_do[work];
	size_t place = place_after(runs, offset);

	return place < runs->count ? &runs->items[place] : NULL;
}

const struct guest_range *work_map_after(
	const struct work_map *map, enum work work, const struct guest_range *run)
{
	const struct work_runs *runs = &map->to_do[work];

	return (size_t)(run + 1 - runs->items) < runs->count ? run + 1 : NULL;
}
