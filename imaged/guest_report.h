/* SPDX-License-Identifier: Apache-2.0 */
/* What the broker is told of the guests of a device while a job is open on it. */
#ifndef SLUICE_IMAGED_GUEST_REPORT_H
#define SLUICE_IMAGED_GUEST_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/device.h"
#include "schemas/wire.h"

#define GUEST_REPORT_MS 100

/* The control thread looks at the device; true: there is something to say, and it is in the buffer.  Sooner than GUEST_REPORT_MS after
 * the last look there never is, but for the first look at a job: so that it does not begin as if nobody was there. */
bool guest_report_encode(struct device *device, uint64_t now_ms, struct wire_buffer *buffer);
/* A job was opened: the next look is its first. */
void guest_report_begin(struct device *device);

#endif
