/* SPDX-License-Identifier: Apache-2.0 */
/* The broker's and the workers' part, in this process: jobs are opened on a device, ranges copied, committed, aborted, revoked and
 * written late, jobs closed and finished, at random.  All on one thread, which stands for the device's strand. */
#ifndef SLUICE_TESTS_SUPPORT_GUEST_JOBS_H
#define SLUICE_TESTS_SUPPORT_GUEST_JOBS_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/device.h"

struct jobs;

/* `may_fill`: where there is no space nothing is copied, and no job is finished. */
struct jobs *jobs_new(struct device *device, uint64_t seed, bool may_fill);
/* One step, whatever comes to mind.  0, or -1 where something is wrong, which was printed. */
int jobs_step(struct jobs *jobs);
/* Until no layer is left: the job that ends everything. */
int jobs_finish_all(struct jobs *jobs);
/* No job is open any more, nobody writes. */
void jobs_free(struct jobs *jobs);

#endif
