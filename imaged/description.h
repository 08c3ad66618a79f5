/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of an attached device, made once and shared by counting references, so that the control thread can tell it
 * while the device's strand waits for a disk. */
#ifndef SLUICE_IMAGED_DESCRIPTION_H
#define SLUICE_IMAGED_DESCRIPTION_H

#include <stdatomic.h>

#include "imaged/chain.h"
#include "schemas/imaged_broker.gen.h"

struct description {
	atomic_uint references;
	struct wire_memory memory;
	struct device_state state;
	size_t bytes; /* of the state in a message */
};

/* One reference.  Everything is copied. */
struct description *description_new(
	const char *device, const struct chain *chain, bool copy_on_read, const char *uri);
struct description *description_get(struct description *description);
/* NULL is fine. */
void description_put(struct description *description);

/* The files of [leaf] + layers kept and up, in memory of the caller's; as many as returned. */
size_t description_chain(const char *device, const struct chain *chain, size_t kept,
	struct wire_memory *memory, struct chain_layer_info **ret_layers);

#endif
