/* SPDX-License-Identifier: Apache-2.0 */
/* The background of a leaf that guests write to: one thread, begun with the first write, that does what no guest shall wait for.
 *
 *   the next zone is made before the last is used up; new clusters are sent to the disk, and pending entries written back,
 *   before there are too many; what was forgotten is counted lower and punched after a grace period; what guests read from
 *   below is kept (copy-on-read)
 *
 * The list of ranges to keep is short, and what does not fit is not kept: it will be read from below again. */
#ifndef SLUICE_IMAGED_KEEPER_H
#define SLUICE_IMAGED_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"

struct device;
struct keeper;

/* NULL and err where no thread can be had. */
struct keeper *keeper_new(struct device *device, struct err *err);
/* Ends what it is about and then the thread; nothing it has not begun is done.  NULL is fine. */
void keeper_free(struct keeper *keeper);

/* Any thread, with any lock held: something may be to do. */
void keeper_wake(struct keeper *keeper);
/* Any thread: what lies below the leaf here is to be copied into it. */
void keeper_keep(struct keeper *keeper, uint64_t offset, uint64_t length);

#endif
