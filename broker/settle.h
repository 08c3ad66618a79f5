/* SPDX-License-Identifier: Apache-2.0 */
/* Effects that wait for a commit: a reply, an event, a request to finish leave only when everything that the core asked to store
 * before them is durable.  A queue: what came first leaves first, whatever it waits for. */
#ifndef SLUICE_BROKER_SETTLE_H
#define SLUICE_BROKER_SETTLE_H

#include <stddef.h>
#include <stdint.h>

#include "broker/core/effects.h"

struct settle;

/* Performs one effect.  It may not touch the queue. */
typedef void settle_perform(void *owner, const struct effect *effect);

struct settle *settle_new(settle_perform *perform, void *owner);
void settle_free(struct settle *settle); /* what waits is dropped */

/* The effect may leave once `ticket` is durable; its bytes are taken.  Tickets never fall. */
void settle_add(struct settle *settle, uint64_t ticket, struct effect *effect);
/* Performs whatever waits for a ticket up to `committed`, in order. */
void settle_release(struct settle *settle, uint64_t committed);

/* How many wait, and the memory that they take. */
size_t settle_count(const struct settle *settle);
size_t settle_bytes(const struct settle *settle);

#endif
