/* SPDX-License-Identifier: Apache-2.0 */
/* One client that is connected to a device, and what it may ask.
 *
 *   request ─▶ gate ─▶ is the device there, of the size that the client was told? ─▶ reads: the chain, layer by layer
 *                                                                                    writes: guest_write.c, or the raw file
 *
 * Each request is 0 or an errno number, of itself alone: a layer that can't be read fails that read and nothing else.  While a
 * failed device is attached anew, requests wait; if it comes back as another file or size, they get EIO.  Any thread, any number at once.
 *
 * Invariant: a flush that is answered without an error keeps everything that its client was ever answered for.  What was not durable
 * when the device failed is lost, and a client may not have been told: those that were connected then get EIO for each flush and each
 * change from then on, until they connect again.  Once would not be enough: who repeats a flush would believe the second answer.
 *
 * A guest keeps its device from being detached and removed. */
#ifndef SLUICE_IMAGED_GUEST_H
#define SLUICE_IMAGED_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "imaged/device_host.h"

struct guest;

/* NULL: no device of exactly that name is served.  May wait while it is being attached. */
struct guest *guest_open(struct device_host *host, const char *name);
void guest_close(struct guest *guest);
/* What the client is told, for as long as it is connected. */
uint64_t guest_size(const struct guest *guest);
bool guest_is_writable(const struct guest *guest);
/* Whether zeroing never takes as long as writing zeroes: by zero clusters, whatever was there. */
bool guest_zeroes_are_fast(const struct guest *guest);

/* All ranges lie within the size. */
int guest_pread(struct guest *guest, void *ret_bytes, uint64_t offset, uint64_t length);
int guest_pwrite(struct guest *guest, const void *bytes, uint64_t offset, uint64_t length);
int guest_put_zeroes(struct guest *guest, uint64_t offset, uint64_t length, bool may_trim);
int guest_discard(struct guest *guest, uint64_t offset, uint64_t length);
/* What any client was answered for is on the disk afterwards, not only this one's. */
int guest_sync(struct guest *guest);
int guest_prefetch(struct guest *guest, uint64_t offset, uint64_t length);

/* One piece of the disk that is all the same; false: no more are wanted. */
typedef bool guest_map_visit(
	void *owner, uint64_t offset, uint64_t length, bool is_hole, bool is_zero);
/* Pieces from `offset` on, each as long as it is; ends after `length` bytes, or, with at least one piece told, where it takes long. */
int guest_map(
	struct guest *guest, uint64_t offset, uint64_t length, guest_map_visit *visit, void *owner);

#endif
