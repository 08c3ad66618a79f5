/* SPDX-License-Identifier: Apache-2.0 */
/* Which worker copies which range of which job next.
 *
 * A worker with credit (never more than its slots and one more in its hands) takes from that
 * job, among those whose leaf it has joined, which has the highest priority, and among equals
 * has been served the fewest bytes.  How much it takes: as much as keeps it busy for about a
 * tenth of a second but at least 1 MiB, never so much that a speed limit would show its grain, and
 * towards the end of a job no more than leaves work for the others. */
#ifndef SLUICE_BROKER_CORE_SCHEDULER_H
#define SLUICE_BROKER_CORE_SCHEDULER_H

#include <stdint.h>

#include "broker/core/state.h"

#define SCHEDULER_FIRST_RANGE (UINT64_C(4) << 20)

/* All touched workers take turns until nobody can take more. */
void scheduler_run(struct core *core);
/* How long a range took. */
void scheduler_learn(const struct lease *lease, uint64_t microseconds);
/* The budget over all jobs changed or was refilled. */
void scheduler_offer_all(struct core *core);

#endif
