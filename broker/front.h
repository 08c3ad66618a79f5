/* SPDX-License-Identifier: Apache-2.0 */
/* One ROUTER and who speaks on it.  Turns connections, or single requests, into numbers for the core, and back.
 *
 * FRONT_PEERS (workers, imageds): a number stands for a connection; a message is one frame.  FRONT_CLIENTS: a number stands for one
 * request; up to eight frames may stand before it, and they are returned with the reply as they came.  Knows no message. */
#ifndef SLUICE_BROKER_FRONT_H
#define SLUICE_BROKER_FRONT_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/loop.h"
#include "common/mq.h"

struct front;

#define FRONT_REQUESTS_MAX 16384

enum front_kind { FRONT_CLIENTS, FRONT_PEERS };

struct front_options {
	const char *name; /* for the log: "commands" */
	enum front_kind kind;
	uint64_t *next_number; /* shared by fronts whose numbers may not meet */
	/* Something came: its bytes live until the callback returns. */
	void (*received)(void *owner, uint64_t number, const void *bytes, size_t length);
	void *owner;
};

/* NULL and err where the socket cannot be made. */
struct front *front_new(
	struct mq *mq, struct loop *loop, const struct front_options *options, struct err *err);
void front_free(struct front *front);
int MUST_CHECK front_bind(struct front *front, const char *endpoint, struct err *err);

/* Sends to a peer, or answers a request (whose number ends with that).  A peer that is gone or full is forgotten, and so
 * MQ_PEER_GONE from then on; for a client whose queue is full the reply is kept and sent later (front_tick). */
enum mq_sent front_send(struct front *front, uint64_t number, const void *bytes, size_t length);
void front_forget(struct front *front, uint64_t number);
/* How many requests wait for their reply (peers: how many are known).  Of more than FRONT_REQUESTS_MAX the oldest are never
 * answered; the owner refuses new ones before that. */
size_t front_count(const struct front *front);

/* Messages that were no message at all: too many frames, too long ones before the last. */
uint64_t front_dropped(const struct front *front);
/* Sends what was kept, and says in the log, at most once a second, that messages were dropped.  When to be called again. */
uint64_t front_tick(struct front *front, uint64_t now_ms);

#endif
