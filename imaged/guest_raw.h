/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest does with a raw leaf: guest offset is host offset.  All are called inside the device's gate; each is 0 or an errno
 * number.  After a flush that failed nothing more is written until the device is attached anew. */
#ifndef SLUICE_IMAGED_GUEST_RAW_H
#define SLUICE_IMAGED_GUEST_RAW_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/device.h"

int guest_raw_read(struct device *device, void *ret_bytes, uint64_t offset, uint64_t length);
int guest_raw_write(struct device *device, const void *bytes, uint64_t offset, uint64_t length);
int guest_raw_zero(struct device *device, uint64_t offset, uint64_t length, bool may_trim);
int guest_raw_trim(struct device *device, uint64_t offset, uint64_t length);
int guest_raw_flush(struct device *device);

#endif
