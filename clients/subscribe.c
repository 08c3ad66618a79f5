/* SPDX-License-Identifier: Apache-2.0 */
/* One number leads: `last`, of the newest durable event that was delivered or waits in `page`.
 *
 *   event seq == last + 1 ──▶ deliver          seq > last + 1, or a heartbeat that knows a newer one ──▶ ask the log
 *   event seq <= last     ──▶ known, drop      no answer ──▶ the next heartbeat tries again
 */
#include "clients/subscribe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/json_convert.h"
#include "common/check.h"
#include "common/clock.h"
#include "schemas/events.gen.h"

#define PAGE_EVENTS	1000
#define FRAME_BYTES_MAX ((size_t)1 << 20)

struct subscriber {
	struct subscriber_options options;
	struct mq_socket *socket;
	struct mq_message *message;
	json_t *page;	   /* events from the log, not delivered yet */
	size_t page_next;  /* index of the first of them */
	bool page_is_last; /* whether the log had no more when it was asked */
	uint64_t last;
	uint64_t epoch; /* 0: not known yet */
	uint64_t heard_ms;
	char complaint[160];
};

static int subscribe_to(
	struct subscriber *subscriber, const char *event, const char *device, struct err *err)
{
	char topic[160];

	snprintf(topic, sizeof topic, device && device[0] ? "%s/%s/" : "%s/", event, device);
	return mq_subscribe(subscriber->socket, topic, err);
}

static int subscribe_all(struct subscriber *subscriber, struct err *err)
{
	for (unsigned i = 0; i < EVENT_COUNT; i++) {
		enum event_name event = (enum event_name)i;
		bool is_progress = event == EVENT_BLOCK_JOB_PROGRESS;
		if (is_progress && !subscriber->options.progress_of)
			continue;
		if (subscribe_to(subscriber, event_name_string(event),
			    is_progress ? subscriber->options.progress_of : NULL, err) < 0)
			return -1;
	}
	return 0;
}

struct subscriber *subscriber_new(
	struct mq *mq, const struct subscriber_options *options, struct err *err)
{
	const struct mq_options socket_options = {.max_frame_bytes = FRAME_BYTES_MAX};
	CLEANUP(subscriber_cleanup)
	struct subscriber *subscriber = must_calloc(1, sizeof *subscriber);

	subscriber->options = *options;
	subscriber->message = mq_message_new();
	subscriber->heard_ms = clock_monotonic_ms();
	subscriber->socket = mq_socket_new(mq, MQ_SUB, &socket_options, err);
	if (!subscriber->socket || subscribe_all(subscriber, err) < 0 ||
		mq_connect(subscriber->socket, options->endpoint, err) < 0)
		return NULL;
	return steal(&subscriber);
}

void subscriber_free(struct subscriber *subscriber)
{
	if (!subscriber)
		return;
	mq_socket_free(subscriber->socket);
	mq_message_free(subscriber->message);
	json_decref(subscriber->page);
	free(subscriber);
}

void subscriber_start(struct subscriber *subscriber, uint64_t after)
{
	subscriber->last = after;
}

uint64_t subscriber_heard_ms(const struct subscriber *subscriber)
{
	return subscriber->heard_ms;
}

const char *subscriber_complaint(struct subscriber *subscriber)
{
	static char complaint[sizeof subscriber->complaint];

	if (!subscriber->complaint[0])
		return NULL;
	snprintf(complaint, sizeof complaint, "%s", subscriber->complaint);
	subscriber->complaint[0] = '\0';
	return complaint;
}

/* Notices a new store and pruned events: goes on with what there is. */
static void compare_store(struct subscriber *subscriber, uint64_t epoch, uint64_t first)
{
	if (subscriber->epoch && epoch && epoch != subscriber->epoch) {
		snprintf(subscriber->complaint, sizeof subscriber->complaint,
			"the broker has a new store: its events are counted from the beginning");
		subscriber->last = 0;
	} else if (first > subscriber->last + 1) {
		snprintf(subscriber->complaint, sizeof subscriber->complaint,
			"events %" PRIu64 " to %" PRIu64 " are no longer in the broker's log",
			subscriber->last + 1, first - 1);
		subscriber->last = first - 1;
	}
	if (epoch)
		subscriber->epoch = epoch;
}

/* Fetches the next page behind `last`.  0, also if there is nothing; else what client_call gives. */
static int ask_log(struct subscriber *subscriber, struct err *err)
{
	CLEANUP(json_cleanup) json_t *returned = NULL;
	json_t *arguments = json_object();

	json_put_number(arguments, "after", subscriber->last);
	json_put_number(arguments, "limit", PAGE_EVENTS);
	int rc = client_call(subscriber->options.client, "query-events", arguments, &returned, err);
	if (rc)
		return rc;
	subscriber->heard_ms = clock_monotonic_ms();
	compare_store(subscriber, json_number(returned, "epoch"), json_number(returned, "first"));
	json_decref(subscriber->page);
	subscriber->page = json_incref(json_object_get(returned, "events"));
	subscriber->page_next = 0;
	subscriber->page_is_last = !json_is_true(json_object_get(returned, "more"));
	return 0;
}

/* The next event of the page that was not delivered yet, or NULL. */
static json_t *take_from_page(struct subscriber *subscriber)
{
	while (subscriber->page_next < json_array_size(subscriber->page)) {
		json_t *event = json_array_get(subscriber->page, subscriber->page_next++);
		if (json_number(event, "seq") <= subscriber->last)
			continue;
		subscriber->last = json_number(event, "seq");
		return json_incref(event);
	}
	return NULL;
}

/* What became of a published event: NULL where it is to be dropped, or where the log was asked instead. */
static json_t *judge(struct subscriber *subscriber, json_t *event)
{
	json_t *data = json_object_get(event, "data");
	bool is_heartbeat = strcmp(json_text(event, "event"), "BROKER_HEARTBEAT") == 0;
	uint64_t seq = json_number(event, is_heartbeat ? "" : "seq");
	struct err err;

	if (is_heartbeat) {
		compare_store(subscriber, json_number(data, "epoch"), 0);
		if (json_number(data, "last") > subscriber->last)
			(void)!ask_log(subscriber, &err);
		return json_incref(event);
	}
	if (seq == 0)
		return json_incref(event);
	if (seq <= subscriber->last)
		return NULL;
	if (seq > subscriber->last + 1) {
		(void)!ask_log(subscriber, &err);
		return NULL;
	}
	subscriber->last = seq;
	return json_incref(event);
}

/* The event in a message that waits, if there is one to be delivered. */
static json_t *take_from_socket(struct subscriber *subscriber)
{
	struct err err;

	if (mq_receive(subscriber->socket, subscriber->message, &err) <= 0)
		return NULL;
	if (mq_message_count(subscriber->message) != 2)
		return NULL;
	struct mq_frame body = mq_message_frame(subscriber->message, 1);
	CLEANUP(json_cleanup)
	json_t *event = json_unpack_value((struct wire_bytes){body.bytes, body.length}, &err);
	if (!json_is_object(event))
		return NULL;
	subscriber->heard_ms = clock_monotonic_ms();
	return judge(subscriber, event);
}

int subscriber_next(struct subscriber *subscriber, uint64_t deadline_ms, json_t **ret_event)
{
	for (;;) {
		struct err err;
		json_t *event = take_from_page(subscriber);
		if (!event && subscriber->page && !subscriber->page_is_last &&
			ask_log(subscriber, &err) == 0)
			continue;
		if (!event && mq_readable(subscriber->socket))
			event = take_from_socket(subscriber);
		if (event) {
			*ret_event = event;
			return 0;
		}
		switch (watch_wait(subscriber->options.watch, subscriber->socket, deadline_ms)) {
		case WATCH_MESSAGE:
			break;
		case WATCH_SIGNAL:
			return SUBSCRIBER_SIGNAL;
		case WATCH_CHILD:
			return SUBSCRIBER_CHILD;
		case WATCH_DEADLINE:
			return SUBSCRIBER_DEADLINE;
		}
	}
}

int subscriber_next_stored(struct subscriber *subscriber, json_t **ret_event, struct err *err)
{
	for (;;) {
		json_t *event = take_from_page(subscriber);
		if (event) {
			*ret_event = event;
			return 0;
		}
		if (subscriber->page && subscriber->page_is_last)
			return 1;
		int rc = ask_log(subscriber, err);
		if (rc)
			return rc == CLIENT_INTERRUPTED ? err_set(err, "interrupted") : -1;
	}
}
