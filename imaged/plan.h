/* SPDX-License-Identifier: Apache-2.0 */
/* Counts what a job would do, and by how much the leaf's file would grow.
 *
 * Counting can stop at a deadline and go on later: a huge disk is counted in slices between other requests. */
#ifndef SLUICE_IMAGED_PLAN_H
#define SLUICE_IMAGED_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/work_map.h"

enum plan_detail { PLAN_TOTALS, PLAN_BY_LAYER };

struct plan {
	enum plan_detail detail;
	uint64_t position; /* counted up to here */
	uint64_t copy, zeroes, holes, present;
	uint64_t by_layer
		[CHAIN_MAX]; /* PLAN_BY_LAYER: bytes to copy, by index in the chain; their sum is `copy` */
	uint64_t tables;     /* L2 tables that the leaf lacks or shares */
	uint64_t next_table; /* the first not looked at */
};

void plan_begin(struct plan *plan, enum plan_detail detail);
/* Goes on counting until the deadline (clock_monotonic_us).  1: all is counted; 0: not yet; -1 and err. */
int MUST_CHECK plan_count(
	struct plan *plan, const struct work_scope *scope, uint64_t deadline_us, struct err *err);
/* Bytes by which the leaf's file grows at most, data and metadata, for what has been counted. */
uint64_t plan_leaf_growth(const struct plan *plan, const struct qcow2_header *leaf);

/* Bytes free in the file system that holds this file.  0, or -1 and err. */
int MUST_CHECK plan_space_free(int fd, uint64_t *ret_bytes, struct err *err);

#endif
