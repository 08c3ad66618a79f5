/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/core/wanted.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"

#define WINDOW_BYTES	  (UINT64_C(1) << 20)
#define WINDOWS_PER_RANGE 8 /* imaged tells of 4 MiB at a time */
#define READ_AHEAD	  2 /* windows */

/* The queue that is being made. */
struct making {
	const struct wanted_disk *disk;
	struct guest_range ranges[WANTED_MAX];
	size_t count;
};

void wanted_done(struct wanted *wanted)
{
	free(wanted->ranges);
	*wanted = (struct wanted){0};
}

static uint64_t end_of(struct guest_range range)
{
	return range.offset + range.length;
}

static bool overlaps_any(const struct making *making, struct guest_range range)
{
	for (size_t i = 0; i < making->count; i++)
		if (making->ranges[i].offset < end_of(range) &&
			range.offset < end_of(making->ranges[i]))
			return true;
	return false;
}

static void append(struct making *making, struct guest_range range)
{
	if (making->count < WANTED_MAX && !overlaps_any(making, range))
		making->ranges[making->count++] = range;
}

static uint64_t window_bytes(const struct wanted_disk *disk)
{
	return disk->cluster_size > WINDOW_BYTES ? disk->cluster_size : WINDOW_BYTES;
}

/* `count` windows, as far as the device has them. */
static void append_windows(struct making *making, uint64_t first, uint64_t count)
{
	uint64_t bytes = window_bytes(making->disk), size = making->disk->size;

	for (uint64_t i = first; i < first + count && i < (size + bytes - 1) / bytes; i++) {
		uint64_t offset = i * bytes;

		append(making, (struct guest_range){
				       offset, size - offset < bytes ? size - offset : bytes});
	}
}

static bool is_sound(const struct wanted_disk *disk, struct guest_range told)
{
	return told.length > 0 && told.offset < disk->size &&
	       told.length <= disk->size - told.offset;
}

static uint64_t windows_of(const struct wanted_disk *disk, struct guest_range told)
{
	uint64_t bytes = window_bytes(disk);
	uint64_t count = (end_of(told) - 1) / bytes - told.offset / bytes + 1;

	return count < WINDOWS_PER_RANGE ? count : WINDOWS_PER_RANGE;
}

static void keep(struct wanted *wanted, const struct making *making)
{
	if (wanted->ranges == NULL)
		wanted->ranges = must_calloc(WANTED_MAX, sizeof(*wanted->ranges));
	memcpy(wanted->ranges, making->ranges, making->count * sizeof(*wanted->ranges));
	wanted->count = making->count;
}

void wanted_add(struct wanted *wanted, const struct wanted_disk *disk,
	const struct guest_range *told, size_t count)
{
	struct making making = {.disk = disk};
	uint64_t bytes = window_bytes(disk);

	if (count == 0)
		return;
	for (size_t i = 0; i < count; i++)
		if (is_sound(disk, told[i]))
			append_windows(&making, told[i].offset / bytes, windows_of(disk, told[i]));
	for (size_t i = 0; i < count; i++)
		if (is_sound(disk, told[i]))
			append_windows(&making, told[i].offset / bytes + windows_of(disk, told[i]),
				READ_AHEAD);
	for (size_t i = 0; i < wanted->count; i++)
		append(&making, wanted->ranges[i]);
	keep(wanted, &making);
}

void wanted_put_first(struct wanted *wanted, struct guest_range range)
{
	struct making making = {.ranges = {range}, .count = 1};

	for (size_t i = 0; i < wanted->count; i++)
		append(&making, wanted->ranges[i]);
	keep(wanted, &making);
}

void wanted_cut(struct wanted *wanted, size_t place, uint64_t offset)
{
	struct guest_range *range = &wanted->ranges[place];

	if (offset < end_of(*range)) {
		if (offset > range->offset)
			*range = (struct guest_range){offset, end_of(*range) - offset};
		return;
	}
	wanted->count--;
	memmove(range, range + 1, (wanted->count - place) * sizeof(*range));
}
