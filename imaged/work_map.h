/* SPDX-License-Identifier: Apache-2.0 */
/* What has to be done with each cluster of a leaf before the layers above `kept` can be dropped.
 *
 *     leaf | dropped layers 1 .. kept-1 | kept layers kept .. count-1
 *
 *   the leaf has it                                                  present
 *   else a dropped layer has bytes in a part of it                   copy
 *   else a dropped layer hides (by its zeroes or its end) what a kept one has:
 *        and all of the cluster reads as zeroes                      zero (copy, where the leaf knows no zero clusters)
 *        and another part of it shows kept bytes                     copy
 *   else                                                             nothing
 *
 * Reads tables only, never data.  The same walk makes the map's pages, counts a plan, trims a reservation and decides
 * whether a job may finish, so that these can't disagree.  The leaf may gain clusters meanwhile; it never loses one. */
#ifndef SLUICE_IMAGED_WORK_MAP_H
#define SLUICE_IMAGED_WORK_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/chain.h"
#include "imaged/zero_set.h"
#include "schemas/imaged_broker.gen.h"

struct work_scope {
	struct chain *chain;
	size_t kept;	       /* the first layer that stays; chain->count where none does */
	uint64_t cluster_size; /* of the leaf */
	bool copies_zeroes;    /* the leaf can't mark a cluster as zeroes (version 2) */
	const struct zero_set *known_zero; /* clusters found to be zeroes already; may be NULL */
};

enum work_need { NEED_PRESENT, NEED_NOTHING, NEED_COPY, NEED_ZERO };

struct work_piece {
	uint64_t offset, length;
	enum work_need need;
};

/* A walk over [position, end): position cluster-aligned, end too or the end of the disk. */
struct work_walk {
	const struct work_scope *scope;
	uint64_t position, end;
	uint64_t absent_until; /* the leaf has nothing before here */
	uint64_t hidden_until; /* the dropped layers say zeroes up to here */
};

void work_walk_begin(
	struct work_walk *walk, const struct work_scope *scope, uint64_t offset, uint64_t end);
/* The next piece, which begins where the last one ended; neighbours may need the same.  1, 0 at the end, or -1 and err. */
int MUST_CHECK work_walk_next(
	struct work_walk *walk, struct work_piece *ret_piece, struct err *err);

/* Whether what [offset, offset+length) reads as, seen from below the leaf, changes when the layers are dropped: 1, 0, or
 * -1 and err. */
int MUST_CHECK work_depends(
	const struct work_scope *scope, uint64_t offset, uint64_t length, struct err *err);
/* Whether a kept layer has bytes in [offset, offset+length): 1, 0, or -1 and err. */
int MUST_CHECK work_kept_shows(
	const struct work_scope *scope, uint64_t offset, uint64_t length, struct err *err);

struct work_page {
	uint64_t end;	  /* first byte not told */
	uint64_t present; /* bytes that the leaf has */
	size_t count;
	struct work_run *runs; /* the caller's, room for runs_max */
};

/* Runs from `offset` on, until `runs_max` of them or `deadline_us` (clock_monotonic_us).  At least one piece is walked.  0, or -1
 * and err. */
int MUST_CHECK work_map_page(const struct work_scope *scope, uint64_t offset, size_t runs_max,
	uint64_t deadline_us, struct work_page *page, struct err *err);

#endif
