/* SPDX-License-Identifier: Apache-2.0 */
/* Clusters of a disk that were found to hold only zeroes, although a layer has bytes for them.
 *
 * Where no kept layer would show through, such a cluster stays unallocated in the leaf; nothing in the files tells it from one that
 * was never looked at, so the job remembers it here.  A bitmap whose pieces exist only where something was found. */
#ifndef SLUICE_IMAGED_ZERO_SET_H
#define SLUICE_IMAGED_ZERO_SET_H

#include <stdbool.h>
#include <stdint.h>

struct zero_set {
	uint64_t clusters; /* of the disk */
	unsigned char **pieces;
};

void zero_set_init(struct zero_set *set, uint64_t clusters);
void zero_set_done(struct zero_set *set);
/* The clusters must be of the disk. */
void zero_set_add(struct zero_set *set, uint64_t first, uint64_t count);
/* How many of the `count` (at least 1) clusters from `first` on are all in the set, or all out of it; which of the two
 * is in *ret_is_in. */
uint64_t zero_set_span(const struct zero_set *set, uint64_t first, uint64_t count, bool *ret_is_in);

#endif
