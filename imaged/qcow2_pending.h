/* SPDX-License-Identifier: Apache-2.0 */
/* Guest clusters whose new L2 entry is acknowledged but not yet in the file.
 *
 * A guest's write to a new cluster is answered when its bytes are in the page cache.  Its entry may reach the file only after
 * those bytes are durable (invariant 4), so until the next write-back (qcow2_write_back.c) it stands here, and who looks a
 * cluster up looks here first.  The slots are in memory that outlives the process (imaged/write_log.c): a process that dies
 * loses nothing that it acknowledged (invariant 6), the next one of this boot finds the slots and goes on.
 *
 *   slot:  cluster + 1 (0: free) | the entry in effect | the entry in the file | the entry that is being written to the file
 *
 * Invariants: a guest cluster has at most one slot.  A slot can be believed whenever the process dies: its cluster is stored
 * last when it is filled and first when it is freed, and an entry in effect changes with one store.  The file's entry is
 * one of the last three words.
 *
 * PURE but for the slots.  The image's lock guards it. */
#ifndef SLUICE_IMAGED_QCOW2_PENDING_H
#define SLUICE_IMAGED_QCOW2_PENDING_H

#include <stdbool.h>
#include <stdint.h>

struct pending_slot {
	uint64_t cluster;
	uint64_t entry;
	uint64_t in_file;
	uint64_t on_its_way;
};

/* At this many, writes to new clusters wait for a write-back. */
#define PENDING_SLOTS UINT32_C(32768)
/* From this many on, one is begun without being asked for where its flush finds little to do: the bytes are on the disk already. */
#define PENDING_WANTS_WRITE_BACK (PENDING_SLOTS / 8)
/* From this many on, in any case. */
#define PENDING_NEEDS_WRITE_BACK (PENDING_SLOTS / 4)

struct pending {
	struct pending_slot *slots; /* PENDING_SLOTS of them; borrowed */
	uint32_t *next;		    /* in the same bucket, or of the free list */
	uint32_t *version;	    /* changes with each put: the same entry may come back with other bytes behind it */
	uint32_t *buckets;
	uint32_t first_free;
	uint32_t count;
	uint32_t promised; /* slots that writers under way will fill */
	unsigned cluster_bits;
	uint16_t *in_table; /* how many of each L2 table's span */
};

/* `slots` may hold what an earlier process left: all of it is taken into the index, so it must have been checked. */
struct pending *pending_new(
	struct pending_slot *slots, unsigned cluster_bits, uint32_t l1_entries);
void pending_free(struct pending *pending); /* NULL is fine */

/* The slot of this guest cluster, or NULL. */
struct pending_slot *pending_find(const struct pending *pending, uint64_t cluster);
/* How many guest clusters that this L2 table serves have slots; 0 also where `pending` is NULL. */
unsigned pending_in_table(const struct pending *pending, uint64_t l1_index);

/* What pending_put changes, of a slot that is in use. */
uint32_t pending_version(const struct pending *pending, const struct pending_slot *slot);

/* Sets slots aside: up to `wanted`; how many.  They are filled, or given back with pending_unpromise. */
uint32_t pending_promise(struct pending *pending, uint32_t wanted);
void pending_unpromise(struct pending *pending, uint32_t count);
/* Uses one promised slot, or the one that the cluster has (then the promise is given back).  `in_file`: the entry that the
 * file has; not looked at where there is a slot already. */
void pending_put(struct pending *pending, uint64_t cluster, uint64_t entry, uint64_t in_file);
/* The file has this entry now: if it is the one in effect, the slot goes. */
void pending_in_file(struct pending *pending, struct pending_slot *slot, uint64_t entry);

#endif
