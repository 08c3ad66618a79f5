/* SPDX-License-Identifier: Apache-2.0 */
/* The broker's events without a gap: each durable event once and in order, whatever the network drops.
 *
 * Publishing may lose events for a slow or late subscriber, and says so by their numbers.  So all durable events are subscribed to,
 * the number of each is compared with the last one, and what is missing is asked from the broker's log.  A heartbeat, every
 * second, tells the newest number, so that a loss at the end is seen as well. */
#ifndef SLUICE_CLIENTS_SUBSCRIBE_H
#define SLUICE_CLIENTS_SUBSCRIBE_H

#include <jansson.h>
#include <stdint.h>

#include "clients/client.h"
#include "clients/watch.h"
#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "common/mq.h"

struct subscriber;

struct subscriber_options {
	const char *endpoint;
	struct client *client; /* for what was missed; outlives the subscriber */
	struct watch *watch;
	const char *
		progress_of; /* also the progress of this device's job; "": of all; NULL: of none */
};

/* NULL and err: no such endpoint.  Nothing is delivered before subscriber_start. */
struct subscriber *subscriber_new(
	struct mq *mq, const struct subscriber_options *options, struct err *err);
void subscriber_free(struct subscriber *subscriber); /* NULL is fine */
DEFINE_CLEANUP(subscriber, subscriber_free)

/* Deliver durable events with a greater number than `after`. */
void subscriber_start(struct subscriber *subscriber, uint64_t after);

enum subscriber_outcome {
	SUBSCRIBER_SIGNAL = 1,
	SUBSCRIBER_CHILD = 2,
	SUBSCRIBER_DEADLINE = 3,
};

/* 0: *ret_event is a whole event (event, data, timestamp, seq, prev); else a subscriber_outcome. */
int MUST_CHECK subscriber_next(
	struct subscriber *subscriber, uint64_t deadline_ms, json_t **ret_event);
/* The same, but only events that are in the log already: 1 when there are no more.  -1 and err: nobody answers. */
int MUST_CHECK subscriber_next_stored(
	struct subscriber *subscriber, json_t **ret_event, struct err *err);
/* When the broker was heard of last (clock_monotonic_ms). */
uint64_t subscriber_heard_ms(const struct subscriber *subscriber);
/* A sentence about events that are lost for good (pruned from the log, or a new store), once; else NULL. */
const char *subscriber_complaint(struct subscriber *subscriber);

#endif
