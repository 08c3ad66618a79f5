/* SPDX-License-Identifier: Apache-2.0 */
/* What a device needs only because guests write to it: the log that outlives the process, and the thread in the background.
 *
 *   attach: adopt ── nothing was left ──▶ (none) ──the first write: begin──▶ writing ──close: end──▶ (none)
 *             └───── something was left, or a log is there ─────────────────────▲
 *
 * Invariant: as long as something is pending, it stands in the log; the log goes when all is durable, or when the image has
 * failed. */
#ifndef SLUICE_IMAGED_DEVICE_WRITES_H
#define SLUICE_IMAGED_DEVICE_WRITES_H

#include "imaged/device.h"

/* On the strand, right after the leaf was made writable: takes over what an imaged of this boot had acknowledged.  0, or -1 and
 * err. */
int MUST_CHECK device_adopt_writes(struct device *device, struct err *err);
/* Any thread inside the gate: makes the device ready for writes, once.  0, or -1 and err. */
int MUST_CHECK device_begin_writes(struct device *device, struct err *err);
/* Any thread inside the gate, or the strand. */
bool device_has_writes(const struct device *device);
/* On the strand: all that was acknowledged becomes durable.  0, or -1 and err. */
int MUST_CHECK device_flush(struct device *device, struct err *err);
/* On the strand, nobody is inside the gate: writes everything back and ends the thread.  The log stays until
 * device_forget_writes. */
void device_end_writes(struct device *device);
/* After the image was freed. */
void device_forget_writes(struct device *device);

#endif
