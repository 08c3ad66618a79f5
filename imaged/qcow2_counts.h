/* SPDX-License-Identifier: Apache-2.0 */
/* How often each cluster of a window of the file is referred to, counted by walking the image: for repair, and for finding leaks.
 * References that cannot be are refused by name, or counted as they are. */
#ifndef SLUICE_IMAGED_QCOW2_COUNTS_H
#define SLUICE_IMAGED_QCOW2_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"

#define COUNTS_WINDOW (UINT64_C(1) << 21) /* clusters counted in one walk: 16 MiB of memory */

struct cluster_count {
	uint32_t count;
	uint16_t last_tree; /* 1 + the tree of the last reference, up to 65535 */
	uint8_t kind;	    /* enum reference_kind, where count is not 0 */
	bool is_active;	    /* the active disk is among its users */
};

struct reference_counts {
	bool takes_faults; /* set before the first walk: the damage of the image is not refused, what can be counted is */
	const struct qcow2 *image;
	uint64_t first, count; /* clusters of the window */
	struct cluster_count *clusters;
};

/* Counts the window [first, first+count) anew; `counts->clusters` is allocated as needed. */
int MUST_CHECK reference_counts_walk(struct reference_counts *counts, struct qcow2 *image,
	uint64_t first, uint64_t count, struct err *err);
void reference_counts_done(struct reference_counts *counts);

#endif
