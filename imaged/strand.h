/* SPDX-License-Identifier: Apache-2.0 */
/* A few threads for work that may wait on a disk, shared by many strands.
 *
 * What is posted to one strand is carried out in the order of posting, one at a time; different strands run side by side, as
 * many as there are threads.  A strand gives its thread up after each piece of work, so that a busy one does not starve the
 * others.
 *
 *   posted -> [strand A: a1 a2 a3]  \
 *   posted -> [strand B: b1]         > ready: B A C -> threads
 *   posted -> [strand C: c1 c2]     /
 *
 * Invariant: a strand is in the ready list or in a thread's hands, or it has nothing to do; never two of these. */
#ifndef SLUICE_IMAGED_STRAND_H
#define SLUICE_IMAGED_STRAND_H

#include "common/attributes.h"
#include "common/err.h"

struct strand_pool;
struct strand;

typedef void strand_work(void *owner);

/* NULL and err where the threads can't be started. */
struct strand_pool *strand_pool_new(unsigned threads, struct err *err);
/* Waits until everything posted has been carried out and no strand is busy. */
void strand_pool_drain(struct strand_pool *pool);
/* Drains, then ends the threads.  All strands must have been freed. NULL is fine. */
void strand_pool_free(struct strand_pool *pool);

struct strand *strand_new(struct strand_pool *pool);
/* Waits for what is posted on it; never from its own work.  NULL is fine. */
void strand_free(struct strand *strand);
/* Any thread, also from work on the same strand. */
void strand_post(struct strand *strand, strand_work *work, void *owner);

#endif
