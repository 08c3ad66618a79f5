/* SPDX-License-Identifier: Apache-2.0 */
/* The lease ids that this worker has seen in its life, so that it takes none up twice.
 *
 * Bounded: two halves of LEASE_MEMORY_HALF ids; when the younger half is full, the older one is forgotten.  So at least the last
 * LEASE_MEMORY_HALF ids are known.  That is sufficient because an id can come again only while a message about it is still
 * under way, and no more messages fit into the queues between broker and worker than a thousandth of that. */
#ifndef SLUICE_WORKERS_LEASE_MEMORY_H
#define SLUICE_WORKERS_LEASE_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define LEASE_MEMORY_HALF (1u << 20)

struct lease_memory;

struct lease_memory *lease_memory_new(void);
void lease_memory_free(struct lease_memory *memory); /* NULL is fine */
bool lease_memory_knows(const struct lease_memory *memory, uint64_t lease);
void lease_memory_add(struct lease_memory *memory, uint64_t lease);

#endif
