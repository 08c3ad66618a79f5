/* SPDX-License-Identifier: Apache-2.0 */
/* What the broker knows durably, as verbs: tables of records, changed in transactions, read in short views.
 *
 * Threads: one thread changes (store_apply, store_release_reserve, store_restore_reserve: the writer's), one other may
 * read (store_view_*).  The rest only while no other thread uses the store.
 *
 * Room: the store keeps a reserve beside it, bytes that stand for nothing.  When the disk or the map is full (STORE_FULL)
 * nothing was changed; releasing the reserve makes room for what frees more (cancels, deletes) until there is space again. */
#ifndef SLUICE_BROKER_STORE_H
#define SLUICE_BROKER_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/effects.h"
#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"

#define STORE_FORMAT 1 /* version of the layout that this program writes */

struct store;

struct store_options {
	const char *folder;
	uint64_t map_bytes;	/* address space at first; 0: 1 GiB */
	uint64_t map_bytes_max; /* it doubles up to this when 70 % are used; 0: 64 GiB */
	uint64_t reserve_bytes; /* 0: 8 MiB */
};

/* Opens what is in the folder, or makes it; the folder is locked until the store is closed.  0, or -1 and err: it is open
 * already, a network file system, no right, a damaged or foreign file. */
int MUST_CHECK store_open(
	const struct store_options *options, struct store **ret_store, struct err *err);
void store_close(struct store *store);
DEFINE_CLEANUP(store, store_close)

/* ---- changing */

/* Changes that become durable together or not at all. */
struct store_batch {
	struct store_batch *next;
	size_t count, capacity;
	size_t bytes;		/* memory that it takes, roughly */
	struct effect *changes; /* kinds EFFECT_STORE_*; owns their bytes */
};

struct store_batch *store_batch_new(void);
void store_batch_free(struct store_batch *batch);
/* Takes the bytes out of the effect, which must be of a kind EFFECT_STORE_*. */
void store_batch_take(struct store_batch *batch, struct effect *effect);

enum store_outcome {
	STORE_DONE = 0,
	STORE_FULL = 1, /* no room on the disk or in the map; nothing was changed */
};

/* Commits all batches of the list in order, in one transaction; durable when it returns STORE_DONE.  -1 and err: the
 * store cannot be trusted any more; end the process and start anew. */
int MUST_CHECK store_apply(struct store *store, const struct store_batch *list, struct err *err);
/* Gives the reserve's room to store_apply.  Whether there was any left to give. */
bool store_release_reserve(struct store *store);
/* Takes the room back if the disk has it.  Whether the reserve is whole now. */
bool store_restore_reserve(struct store *store);

/* ---- reading */

/* A table as it is at this moment.  Keep it short (well under 100 ms): while it is open the map cannot grow and no freed
 * page is used again. */
struct store_view;

struct store_record { /* points into the store; lives until the view is closed */
	const unsigned char *key;
	size_t key_length;
	const unsigned char *bytes;
	size_t length;
};

int MUST_CHECK store_view_open(
	struct store *store, enum store_table table, struct store_view **ret_view, struct err *err);
void store_view_close(struct store_view *view);
DEFINE_CLEANUP(store_view, store_view_close)
/* 1: a record; 0: there is none; -1 and err.  Seek finds the first at or after the key (the first of all for length 0),
 * next the one after the last found. */
int MUST_CHECK store_view_seek(struct store_view *view, const void *key, size_t length,
	struct store_record *ret_record, struct err *err);
int MUST_CHECK store_view_next(
	struct store_view *view, struct store_record *ret_record, struct err *err);
int MUST_CHECK store_view_last(
	struct store_view *view, struct store_record *ret_record, struct err *err);

/* ---- figures, for tests and the log */

uint64_t store_map_bytes(const struct store *store);

/* Brings an older layout up to STORE_FORMAT (store_upgrade.c).  -1 and err: a newer one, which is left as it is. */
int MUST_CHECK store_upgrade(struct store *store, struct err *err);

#endif
