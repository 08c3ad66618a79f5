/* SPDX-License-Identifier: Apache-2.0 */
/* A chain that readers use while a job takes layers out of it.
 *
 * Readers (guests, the strand) enter and leave.  Who drops layers puts a shorter chain of the same open files in place,
 * waits until the last reader of the longer one has left, and only then closes the files that were dropped; readers never wait.
 * Invariant: `current` is what a reader gets; a view that is not current is freed when nobody is in it. */
#ifndef SLUICE_IMAGED_LIVE_CHAIN_H
#define SLUICE_IMAGED_LIVE_CHAIN_H

#include <pthread.h>

#include "imaged/chain.h"

struct chain_view {
	struct chain *chain;
	unsigned readers;
};

struct live_chain {
	pthread_mutex_t lock;
	pthread_cond_t left; /* a reader left a view that is no longer current */
	struct chain_view *current;
};

/* Takes the chain over. */
void live_chain_init(struct live_chain *live, struct chain *chain);
/* Nobody is in it any more.  Closes everything. */
void live_chain_done(struct live_chain *live);

/* The chain as it is now, good until live_chain_leave.  Never waits for I/O. */
struct chain_view *live_chain_enter(struct live_chain *live);
void live_chain_leave(struct live_chain *live, struct chain_view *view);

/* Takes layers 1 to kept-1 out and closes their files; the first that stays is called `name` from then on.  Returns when that is
 * done.  The caller is in no view; one caller at a time, and none that reads names meanwhile. */
void live_chain_drop(struct live_chain *live, size_t kept, const char *name);

#endif
