/* SPDX-License-Identifier: Apache-2.0 */
/* The workers that may write to one leaf: who, and by which lock byte it is known whether they still can.
 *
 *   prepared ──confirm──▶ confirmed ──end──▶ ended ──its byte is free──▶ (gone)
 *       └──────────────────end─────────────────┘
 *
 * A worker holds its byte, above 2^40 where nobody else locks, from before it is confirmed until it closes the leaf or dies.
 * Invariant: reservations are made for confirmed joins only; a join is forgotten only when nothing is reserved for it. */
#ifndef SLUICE_IMAGED_JOIN_H
#define SLUICE_IMAGED_JOIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "imaged/chain.h"

#define JOIN_WORKER_MAX	     64
#define JOIN_LOCK_BYTE_FIRST (UINT64_C(1) << 40)

enum join_state { JOIN_PREPARED, JOIN_CONFIRMED, JOIN_ENDED };

struct join_source {
	dev_t device;
	ino_t inode;
};

struct join {
	uint64_t id;
	enum join_state state;
	char worker[JOIN_WORKER_MAX + 1];
	uint64_t incarnation; /* of the worker */
	uint64_t lock_byte;
	size_t source_count; /* the files that the worker was told to open */
	struct join_source sources[CHAIN_MAX];
};

struct join_table {
	size_t count, room;
	struct join **joins;
};

void join_table_done(struct join_table *table);
/* A new one, prepared, for the layers under the leaf as they are now. */
struct join *join_table_add(struct join_table *table, uint64_t id, const char *worker,
	uint64_t incarnation, uint64_t lock_byte, const struct chain *chain);
struct join *join_table_find(const struct join_table *table, uint64_t id);
/* The join of this worker that has not ended; NULL where it has none. */
struct join *join_table_of_worker(
	const struct join_table *table, const char *worker, uint64_t incarnation);
bool join_table_has_byte(const struct join_table *table, uint64_t lock_byte);
/* How many have not ended. */
size_t join_table_active(const struct join_table *table);
void join_table_remove(struct join_table *table, struct join *join);

/* As which number the worker knows this layer's file; -1: it was not told of it. */
int join_source_index(const struct join *join, const struct chain_layer *layer);

#endif
