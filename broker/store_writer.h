/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that commits: batches are handed over and become durable in that order, as many at once as are waiting (group
 * commit).  Nobody else changes the store meanwhile, and the thread that hands over never waits for the disk.
 *
 * A full disk or map does not lose anything: the writer first takes the store's reserve, then tries again and again, with
 * growing pauses; what waits for the commit waits on.  Any other failure is final: the owner ends the process. */
#ifndef SLUICE_BROKER_STORE_WRITER_H
#define SLUICE_BROKER_STORE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/store.h"
#include "common/err.h"

struct store_writer;

/* Starts the thread.  NULL and err where that is not possible. */
struct store_writer *store_writer_new(struct store *store, struct err *err);
/* Ends the thread.  Batches that are not committed are dropped: flush first. */
void store_writer_free(struct store_writer *writer);

/* Hands a batch over (and its memory).  Its ticket: 1, 2, 3… */
uint64_t store_writer_submit(struct store_writer *writer, struct store_batch *batch);
/* Readable when something changed: more is committed, or the writer failed. */
int store_writer_fd(const struct store_writer *writer);
/* The last ticket that is durable, 0 for none; makes the descriptor unreadable.  -1 and err once the writer failed. */
int64_t store_writer_committed(struct store_writer *writer, struct err *err);
/* Whether the store works on its reserve: nothing new should be taken up. */
bool store_writer_is_low(struct store_writer *writer);
/* Memory of what waits, in bytes. */
size_t store_writer_waiting_bytes(struct store_writer *writer);
/* Waits until all is durable, at most so long.  Whether it is. */
bool store_writer_flush(struct store_writer *writer, uint64_t most_ms);

#endif
