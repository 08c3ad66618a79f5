/* SPDX-License-Identifier: Apache-2.0 */
/* Questions that change nothing: what a job would do, and what the guest's bytes are.  On the device's strand. */
#ifndef SLUICE_IMAGED_INQUIRY_H
#define SLUICE_IMAGED_INQUIRY_H

#include "imaged/device.h"
#include "imaged/stream.h"
#include "schemas/imaged_broker.gen.h"

/* Counts for a second at most; the answer's lists live in `memory`, its request is left to the caller.  0, or -1 and trouble: what
 * opening that job would give. */
int MUST_CHECK inquiry_plan(struct device *device, const struct stream_wish *wish,
	struct wire_memory *memory, struct msg_planned *ret_planned, struct trouble *trouble);
/* As much of [offset, offset+length) as one page holds or can be looked up in 50 ms. */
int MUST_CHECK inquiry_allocation(struct device *device, uint64_t offset, uint64_t length,
	struct wire_memory *memory, struct msg_allocation_page *ret_page, struct trouble *trouble);

#endif
