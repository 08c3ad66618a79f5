/* SPDX-License-Identifier: Apache-2.0 */
/* The answer to query-events, which needs the store and not the core. */
#ifndef SLUICE_BROKER_QUERY_EVENTS_H
#define SLUICE_BROKER_QUERY_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "broker/store.h"
#include "common/err.h"
#include "schemas/wire.h"

/* Appends the whole reply, of at most 1 MiB, to a packed request of query-events: a page of what is committed, or an error for
 * wrong arguments.  -1 and err: the store cannot be read. */
int MUST_CHECK query_events_answer(struct store *store, uint64_t epoch, const void *request,
	size_t length, struct wire_buffer *reply, struct err *err);

#endif
