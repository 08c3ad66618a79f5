/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest changes in a qcow2 leaf.  All are called inside the device's gate; each is 0 or an errno number. */
#ifndef SLUICE_IMAGED_GUEST_WRITE_H
#define SLUICE_IMAGED_GUEST_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "imaged/device.h"

/* Whether guests may write to this device's qcow2 leaf. */
bool guest_can_write(const struct device *device);

int guest_write(struct device *device, const void *buffer, uint64_t offset, uint64_t length);
int guest_zero(struct device *device, uint64_t offset, uint64_t length, bool may_trim);
int guest_trim(struct device *device, uint64_t offset, uint64_t length);
int guest_flush(struct device *device);
/* Copies what lies below the leaf here into it, as far as that goes in a short time. */
int guest_cache(struct device *device, uint64_t offset, uint64_t length);
/* The same for the thread in the background (keeper.h), where writes are begun. */
int guest_keep(struct device *device, uint64_t offset, uint64_t length);

/* What a reader of layers first_layer and up sees, with zeroes past every end (guest_read.c). */
int guest_read_chain(struct device *device, struct chain *chain, size_t first_layer, void *buffer,
	uint64_t offset, uint64_t length);

#endif
