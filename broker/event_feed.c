/* SPDX-License-Identifier: Apache-2.0 */
/* Events leave here; they were numbered by the core and stored before. */
#include "broker/event_feed.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"

#define QUEUE_MESSAGES	20000 /* for each subscriber; what is beyond is dropped for it */
#define FRAME_BYTES_MAX 4096  /* what subscribers send: topics */
#define LINGER_MS	200

struct event_feed {
	struct mq_socket *socket;
};

struct event_feed *event_feed_new(struct mq *mq, struct err *err)
{
	struct mq_options options = {
		.max_frame_bytes = FRAME_BYTES_MAX,
		.queue_messages = QUEUE_MESSAGES,
		.linger_ms = LINGER_MS,
	};
	struct event_feed *feed = must_calloc(1, sizeof(*feed));

	feed->socket = mq_socket_new(mq, MQ_PUB, &options, err);
	if (feed->socket)
		return feed;
	free(feed);
	return NULL;
}

void event_feed_free(struct event_feed *feed)
{
	if (!feed)
		return;
	mq_socket_free(feed->socket);
	free(feed);
}

int event_feed_bind(struct event_feed *feed, const char *endpoint, struct err *err)
{
	return mq_bind(feed->socket, endpoint, err);
}

void event_feed_publish(
	struct event_feed *feed, const char *topic, const void *bytes, size_t length)
{
	struct mq_frame frames[] = {{topic, strlen(topic)}, {bytes, length}};
	struct err err;

	if (mq_send(feed->socket, frames, 2, &err) < 0)
		log_error("events: %s: '%s' was not published", err.text, topic);
}
