/* SPDX-License-Identifier: Apache-2.0 */
/* Who this imaged is and what it holds, for the broker to compare.  Takes each device's lock for a moment; waits for no disk. */
#ifndef SLUICE_IMAGED_HELLO_H
#define SLUICE_IMAGED_HELLO_H

#include "imaged/device_host.h"

struct hello_identity {
	const char *name, *host_name, *realm;
	uint64_t incarnation;
};

void hello_encode(struct device_host *host, const struct hello_identity *identity,
	struct wire_buffer *buffer);

#endif
