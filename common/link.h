/* SPDX-License-Identifier: Apache-2.0 */
/* How a worker or an imaged stays connected to its broker: a DEALER that says hello, is heard of
 * every heartbeat, and notices when the broker falls silent or is another one than before.
 *
 * The link knows no message: the owner packs hello and heartbeat and reads what comes.  Any message
 * from the broker counts as a sign of life.  States: DOWN (nothing heard for `timeout_ms`, or not
 * welcomed yet; hello is said every heartbeat) and UP (welcomed).  When the broker restarts, it
 * answers a message from a stranger with "who are you"; the owner then calls link_say_hello, which
 * puts the link DOWN until the next welcome. */
#ifndef SLUICE_COMMON_LINK_H
#define SLUICE_COMMON_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/loop.h"
#include "common/mq.h"

struct link;

struct link_owner {
	void *owner;
	/* A message's body came; the link does not look into it.  Bytes live until the callback
	 * returns. */
	void (*received)(void *owner, const void *bytes, size_t length);
	/* Send your hello now, with link_send. */
	void (*say_hello)(void *owner);
	/* Send your heartbeat now. */
	void (*say_heartbeat)(void *owner);
	/* The broker fell silent, or a send failed: the link is DOWN now.  Called from the loop,
	 * never from link_send. */
	void (*lost)(void *owner);
};

struct link_options {
	const char *endpoint;
	uint64_t heartbeat_ms;	/* 1000 */
	uint64_t timeout_ms;	/* 5000 */
	size_t max_frame_bytes; /* 0: 65,536 */
};

/* Connects in the background; hello is said as soon as somebody is there.  NULL and err: no such
 * endpoint.  The options are copied.  A link is used by the loop's thread alone; link_free may not
 * be called from its own callbacks. */
struct link *link_new(struct mq *mq, struct loop *loop, const struct link_options *options,
	const struct link_owner *owner, struct err *err);
void link_free(struct link *link);
/* The owner read the broker's welcome: the link is UP, and heartbeats are said as often as the welcome asks for. */
void link_welcomed(struct link *link, uint64_t heartbeat_ms);
/* The broker does not know us: DOWN, and say_hello is called from the loop. */
void link_say_hello(struct link *link);
bool link_is_up(const struct link *link);
/* Sends a body.  0, or 1 when the queue is full or nobody is connected (then the message is not
 * sent, and a link that was UP is DOWN: after the next hello both sides compare what they know, so
 * nothing is lost for good). */
int link_send(struct link *link, const void *bytes, size_t length);

#endif
