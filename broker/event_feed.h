/* SPDX-License-Identifier: Apache-2.0 */
/* The PUB socket.  Who is slow misses events, and sees by their numbers that it did; nobody is waited for. */
#ifndef SLUICE_BROKER_EVENT_FEED_H
#define SLUICE_BROKER_EVENT_FEED_H

#include <stddef.h>

#include "common/err.h"
#include "common/mq.h"

struct event_feed;

struct event_feed *event_feed_new(struct mq *mq, struct err *err);
void event_feed_free(struct event_feed *feed);
int MUST_CHECK event_feed_bind(struct event_feed *feed, const char *endpoint, struct err *err);
/* Two frames: the topic, and the packed event. */
void event_feed_publish(
	struct event_feed *feed, const char *topic, const void *bytes, size_t length);

#endif
