/* SPDX-License-Identifier: Apache-2.0 */
/* What guests missed, to be copied before the rest: a short queue in front of a job's work map.
 *
 * What a guest touched is widened to whole windows of 1 MiB (or one cluster, where that is more),
 * and two windows behind it are wanted after all that was touched: guests read on.  The queue says
 * nothing of whether anything is left to do there; who takes from it asks the work map, or imaged.
 *
 * At most 256 windows are remembered; where more come, the oldest are forgotten, and copied in
 * their turn.  What is told of bytes that the device does not have is ignored, and of a very long
 * range only the beginning is taken.
 *
 * Invariant: ranges lie within the device, are made of whole clusters (but for the device's tail),
 * and none overlap. */
#ifndef SLUICE_BROKER_CORE_WANTED_H
#define SLUICE_BROKER_CORE_WANTED_H

#include <stddef.h>
#include <stdint.h>

#include "schemas/types.gen.h"

#define WANTED_MAX 256

struct wanted {
	struct guest_range *ranges; /* the first is the next; NULL until there was one */
	size_t count;
};

/* The device that it is about. */
struct wanted_disk {
	uint64_t size, cluster_size; /* bytes; the latter a power of two */
};

void wanted_done(struct wanted *wanted);
/* `told`: the newest first; they go before what is in the queue. */
void wanted_add(struct wanted *wanted, const struct wanted_disk *disk,
	const struct guest_range *told, size_t count);
/* One range, made of clusters, before all others. */
void wanted_put_first(struct wanted *wanted, struct guest_range range);
/* Forgets of the range at `place` what lies before `offset`; all of it where nothing is left. */
void wanted_cut(struct wanted *wanted, size_t place, uint64_t offset);

#endif
