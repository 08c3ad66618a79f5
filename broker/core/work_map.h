/* SPDX-License-Identifier: Apache-2.0 */
/* What of a job is still to be done, as far as it is known: a window that slides over the
 * device.
 *
 *     0 ............................ scanned ....................... size
 *     |  done  | to do | out | to do |   not known yet: next page here    |
 *
 * Pages come from imaged in runs.  What was taken out (leases, zeroing) is known to the job, not
 * to the map; what comes back is put in again.  The map asks for its next page only when little
 * is left to do, so its memory is bounded whatever the size of the device.  It is a hint: the
 * image is the authority, and a map that is asked for again begins empty.
 *
 * Invariant: runs ascend, do not touch one another, and lie below `scanned`. */
#ifndef SLUICE_BROKER_CORE_WORK_MAP_H
#define SLUICE_BROKER_CORE_WORK_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "schemas/imaged_broker.gen.h"

#define WORK_KINDS WORK_COUNT

struct work_runs {
	struct guest_range *items;
	size_t first, count; /* those before `first` are used up */
	size_t capacity;
	uint64_t bytes;
};

struct work_map {
	uint64_t size;	       /* bytes of the device */
	uint64_t cluster_size; /* ranges are multiples of it, but for the device's tail */
	uint64_t scanned;
	uint64_t enough_bytes; /* no page is asked for while so much is left to copy */
	struct work_runs to_do[WORK_KINDS];
};

/* `enough_bytes` 0: the default. */
void work_map_init(struct work_map *map, uint64_t enough_bytes);
void work_map_done(struct work_map *map);
/* Forgets all: nothing is scanned. */
void work_map_reset(struct work_map *map, uint64_t size, uint64_t cluster_size);

/* Whether the next page, from `scanned` on, should be asked for. */
bool work_map_wants_page(const struct work_map *map);
/* A page that begins at `scanned`.  -1 and err: it is none, and nothing changed. */
int MUST_CHECK work_map_add_page(
	struct work_map *map, const struct msg_map_page *page, struct err *err);

uint64_t work_map_bytes(const struct work_map *map, enum work work);
/* All is scanned and nothing is left to do in it. */
bool work_map_is_exhausted(const struct work_map *map);
/* Takes the first piece out, at most `most_bytes` (a multiple of the cluster size).  false:
 * there is none. */
bool work_map_take(
	struct work_map *map, enum work work, uint64_t most_bytes, struct guest_range *ret_range);
/* The same for the first piece within a range. */
bool work_map_take_within(struct work_map *map, enum work work, struct guest_range within,
	uint64_t most_bytes, struct guest_range *ret_range);
/* Puts a range, or what of it is below `scanned`, back in. */
void work_map_put_back(struct work_map *map, enum work work, struct guest_range range);
/* Takes a range out because somebody has it already. */
void work_map_exclude(struct work_map *map, struct guest_range range);
/* The first run of that kind which ends after `offset`; NULL: none. */
const struct guest_range *work_map_find(
	const struct work_map *map, enum work work, uint64_t offset);
/* The one after it, or NULL. */
const struct guest_range *work_map_after(
	const struct work_map *map, enum work work, const struct guest_range *run);

#endif
