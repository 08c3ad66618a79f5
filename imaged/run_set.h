/* SPDX-License-Identifier: Apache-2.0 */
/* PURE: a set of cluster numbers kept as runs, sorted, neighbours merged: the free space of a leaf's zones.
 *
 * Invariant: runs ascend, never touch and are never empty; `total` is the sum of their counts. */
#ifndef SLUICE_IMAGED_RUN_SET_H
#define SLUICE_IMAGED_RUN_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run {
	uint64_t first, count;
};

struct run_set {
	struct run *runs; /* owned */
	size_t count, capacity;
	uint64_t total;
};

void run_set_done(struct run_set *set);

/* None of them may be in the set yet. */
void run_set_add(struct run_set *set, uint64_t first, uint64_t count);
/* All of them must be in the set. */
void run_set_remove(struct run_set *set, uint64_t first, uint64_t count);
bool run_set_overlaps(const struct run_set *set, uint64_t first, uint64_t count);

/* Moves what is in `from` and in `chosen` as well into `to`. */
void run_set_move(struct run_set *from, const struct run_set *chosen, struct run_set *to);
void run_set_copy(const struct run_set *set, struct run_set *ret_copy);

/* The smallest run that has room for `count`, or NULL. */
const struct run *run_set_best(const struct run_set *set, uint64_t count);
/* The `wanted` largest runs, largest first, into `ret_runs`; how many there are. */
size_t run_set_largest(const struct run_set *set, struct run *ret_runs, size_t wanted);

#endif
