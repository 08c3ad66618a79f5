/* SPDX-License-Identifier: Apache-2.0 */
/* A DEALER with a memory of when it last heard of its broker.
 *
 *             hello said every heartbeat_ms
 *                 ┌─────┐   link_welcomed    ┌────┐
 *   link_new ───▶ │DOWN │ ─────────────────▶ │ UP │ heartbeat said every heartbeat_ms
 *                 │     │ ◀── link_say_hello │    │
 *                 └─────┘                    └────┘
 *                    ▲      ┌──────┐           │ a send found no room or nobody
 *    next turn: lost()└──── │ LOST │ ◀─────────┤
 *    and a new socket       └──────┘           │ silent for timeout_ms
 *
 * Nothing that was sent before the link was lost may arrive after the next hello, or the broker
 * would hear of leases from a stranger: so the socket goes with the connection, and what was queued
 * in it.  A socket that is DOWN and hears nothing for timeout_ms is made anew as well. */
#include "common/link.h"

#include <stdlib.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"

#define CONNECTION_LOOK_MS 100 /* how often a DOWN link looks whether it is connected by now */

#define HEARTBEAT_MIN_MS 20 /* whatever a welcome says */

enum link_state { LINK_DOWN, LINK_UP, LINK_LOST };

struct link {
	struct mq *mq;
	struct loop *loop;
	struct link_owner owner;
	char *endpoint;
	struct link_options options; /* its endpoint is the copy above */
	struct mq_message *message;
	struct mq_socket *socket; /* NULL where making one failed */
	enum link_state state;
	bool wants_hello;	/* not at the next interval but now */
	uint64_t hello_said_ms; /* 0: not yet */
	uint64_t beat_said_ms;
	uint64_t heard_ms; /* the last message, or when the socket was made */
};

static void receive(void *owner);

static int make_socket(struct link *link, struct err *err)
{
	struct mq_options options = {
		.max_frame_bytes = link->options.max_frame_bytes, .only_when_connected = true};
	struct mq_socket *socket = mq_socket_new(link->mq, MQ_DEALER, &options, err);

	if (!socket)
		return -1;
	if (mq_connect(socket, link->options.endpoint, err) < 0 ||
		loop_add_socket(link->loop, socket, receive, link, err) < 0) {
		mq_socket_free(socket);
		return -1;
	}
	link->socket = socket;
	return 0;
}

static void drop_socket(struct link *link)
{
	if (!link->socket)
		return;
	loop_remove_socket(link->loop, link->socket);
	mq_socket_free(link->socket);
	link->socket = NULL;
}

static void make_socket_anew(struct link *link, uint64_t now_ms)
{
	struct err err;

	drop_socket(link);
	if (make_socket(link, &err) < 0)
		log_error("%s; trying again in %llu ms", err.text,
			(unsigned long long)link->options.timeout_ms);
	link->heard_ms = now_ms;
	link->wants_hello = true;
	link->hello_said_ms = 0;
}

static void receive(void *owner)
{
	struct link *link = owner;
	struct err err;

	int rc = mq_receive(link->socket, link->message, &err);
	if (rc < 0) {
		log_warn("%s; connecting anew", err.text);
		link->state = LINK_LOST;
	}
	if (rc <= 0 || link->state == LINK_LOST)
		return;

	struct mq_frame body = mq_message_frame(link->message, mq_message_count(link->message) - 1);
	link->heard_ms = clock_monotonic_ms();
	link->owner.received(link->owner.owner, body.bytes, body.length);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Hello is due every heartbeat; one that somebody asked for comes at once, but not in a flood. */
static uint64_t hello_due_ms(const struct link *link)
{
	uint64_t interval_ms =
		link->wants_hello ? link->options.heartbeat_ms / 4 : link->options.heartbeat_ms;

	return link->hello_said_ms ? link->hello_said_ms + interval_ms : 0;
}

static uint64_t tick_down(struct link *link, uint64_t now_ms)
{
	if (now_ms >= link->heard_ms + link->options.timeout_ms)
		make_socket_anew(link, now_ms);

	bool is_connected = link->socket && mq_writable(link->socket);
	if (is_connected && now_ms >= hello_due_ms(link)) {
		link->wants_hello = false;
		link->hello_said_ms = now_ms;
		link->owner.say_hello(link->owner.owner);
	}

	uint64_t next_ms = is_connected ? hello_due_ms(link) : now_ms + CONNECTION_LOOK_MS;
	return earlier(next_ms, link->heard_ms + link->options.timeout_ms);
}

static uint64_t tick_up(struct link *link, uint64_t now_ms)
{
	if (now_ms >= link->beat_said_ms + link->options.heartbeat_ms) {
		link->beat_said_ms = now_ms;
		link->owner.say_heartbeat(link->owner.owner);
	}
	return earlier(link->beat_said_ms + link->options.heartbeat_ms,
		link->heard_ms + link->options.timeout_ms);
}

static uint64_t tick(void *owner, uint64_t now_ms)
{
	struct link *link = owner;

	if (link->state == LINK_UP && now_ms >= link->heard_ms + link->options.timeout_ms)
		link->state = LINK_LOST;
	if (link->state == LINK_LOST) {
		link->state = LINK_DOWN;
		make_socket_anew(link, now_ms);
		link->owner.lost(link->owner.owner);
	}

	uint64_t next_ms = link->state == LINK_UP ? tick_up(link, now_ms) : tick_down(link, now_ms);
	return link->state == LINK_LOST ? now_ms : next_ms;
}

struct link *link_new(struct mq *mq, struct loop *loop, const struct link_options *options,
	const struct link_owner *owner, struct err *err)
{
	struct link *link = must_calloc(1, sizeof *link);

	link->mq = mq;
	link->loop = loop;
	link->owner = *owner;
	link->options = *options;
	link->endpoint = must_strdup(options->endpoint);
	link->options.endpoint = link->endpoint;
	link->message = mq_message_new();
	link->state = LINK_DOWN;
	link->wants_hello = true;
	link->heard_ms = clock_monotonic_ms();
	if (make_socket(link, err) < 0 || loop_add_tick(loop, tick, link, err) < 0) {
		link_free(link);
		return NULL;
	}
	return link;
}

void link_free(struct link *link)
{
	if (!link)
		return;
	loop_remove_tick(link->loop, tick, link);
	drop_socket(link);
	mq_message_free(link->message);
	free(link->endpoint);
	free(link);
}

void link_welcomed(struct link *link, uint64_t heartbeat_ms)
{
	uint64_t now_ms = clock_monotonic_ms();

	if (link->state != LINK_DOWN)
		return;
	if (heartbeat_ms < HEARTBEAT_MIN_MS)
		heartbeat_ms = HEARTBEAT_MIN_MS;
	link->options.heartbeat_ms = earlier(heartbeat_ms, link->options.timeout_ms / 4);
	link->state = LINK_UP;
	link->wants_hello = false;
	link->heard_ms = now_ms;
	link->beat_said_ms = now_ms;
}

void link_say_hello(struct link *link)
{
	if (link->state == LINK_LOST)
		return; /* a hello comes anyway */
	link->state = LINK_DOWN;
	link->wants_hello = true;
}

bool link_is_up(const struct link *link)
{
	return link->state == LINK_UP;
}

int link_send(struct link *link, const void *bytes, size_t length)
{
	struct mq_frame frame = {.bytes = bytes, .length = length};
	struct err err = {.text = ""};

	if (!link->socket || link->state == LINK_LOST)
		return 1;
	int rc = mq_send(link->socket, &frame, 1, &err);
	if (rc == MQ_SENT)
		return 0;
	if (rc < 0)
		log_warn("%s; connecting anew", err.text);
	if (link->state == LINK_UP)
		link->state = LINK_LOST;
	return 1;
}
