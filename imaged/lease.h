/* SPDX-License-Identifier: Apache-2.0 */
/* The reservations of one leaf: which guest range goes into which host clusters by whose hand, and what the guest has
 * touched since.
 *
 *             add                 close
 *   (none) ────────▶ open ─────────────────────────▶ (gone: clusters mapped or free)
 *                      │ quarantine                      ▲
 *                      ▼                                 │ its worker reported that it stopped, or is
 *                 quarantined ───────────────────────────┘ proved to be gone
 *
 * A quarantined lease only keeps its clusters from being given out again: its worker may still write to them.
 * Invariant: a guest's change marks every open lease that it overlaps before the change is made; a cluster that is marked is never
 * mapped.  The strand of the device adds, closes and reads; guests' threads touch; the lock orders these. */
#ifndef SLUICE_IMAGED_LEASE_H
#define SLUICE_IMAGED_LEASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "imaged/qcow2_update.h"

struct lease {
	uint64_t id;
	uint64_t join;		 /* for whom */
	uint64_t offset, length; /* guest range; the end may be the end of the disk */
	uint64_t cluster_size;
	bool detects_zeroes; /* the worker may report clusters of zeroes instead of writing them */
	bool is_quarantined;
	unsigned run_count;
	struct cluster_run *runs; /* host clusters, in the order of the guest's */
	unsigned char *touched;	  /* a bit a cluster */
};

struct lease_table {
	pthread_mutex_t lock;
	size_t count, room;
	struct lease **leases; /* by ascending id */
	size_t open;
	uint64_t quarantined_bytes;
};

void lease_table_init(struct lease_table *table);
void lease_table_done(struct lease_table *table);

/* A copy of the runs is kept.  Ids must ascend. */
struct lease *lease_table_add(struct lease_table *table, const struct lease *lease);
/* NULL where there is none. */
struct lease *lease_table_find(struct lease_table *table, uint64_t id);
void lease_table_quarantine(struct lease_table *table, struct lease *lease);
void lease_table_remove(struct lease_table *table, struct lease *lease);
/* The first lease from index *position on that is of this join (0: of any); NULL: no more.  *position is moved past it; when that
 * lease is removed, move it back by one. */
struct lease *lease_table_next(struct lease_table *table, uint64_t join, size_t *position);

/* Any thread: the guest begins to change these bytes. */
void lease_table_touch(struct lease_table *table, uint64_t offset, uint64_t length);
bool lease_is_touched(struct lease_table *table, const struct lease *lease, uint64_t guest_offset);

uint64_t lease_clusters(const struct lease *lease);
/* Bytes of host clusters: the length, rounded up. */
uint64_t lease_host_bytes(const struct lease *lease);

#endif
