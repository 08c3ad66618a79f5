/* SPDX-License-Identifier: Apache-2.0 */
/* ZeroMQ sockets as Sluice uses them; the only part of the project that includes zmq.h.
 *
 * Nothing here ever blocks: a send to a peer that is gone or full says so.  LINGER is 0 unless
 * asked for, ROUTERs are MANDATORY and never HANDOVER; a routing id is a handle of a connection,
 * never an identity.  One context per process; a socket belongs to the thread that made it. */
#ifndef SLUICE_COMMON_MQ_H
#define SLUICE_COMMON_MQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"

struct mq; /* the context */
struct mq_socket;

enum mq_kind { MQ_ROUTER, MQ_DEALER, MQ_PUB, MQ_SUB };

struct mq_options {
	size_t max_frame_bytes; /* a longer frame costs the peer its connection; 0: 65,536 */
	int queue_messages;	/* send and receive high-water mark; 0: 1000 */
	/* DEALER: nothing is queued for a peer that is not connected; sends say MQ_PEER_FULL until
	 * then, and what was queued for a connection ends with it. */
	bool only_when_connected;
	int linger_ms; /* how long freeing the context waits for what was sent to leave; 0: what has
			  not left is lost */
};

#define MQ_FRAMES_MAX	      10  /* routing id, up to 8 envelope frames, body */
#define MQ_ENVELOPE_FRAME_MAX 256 /* bytes of an envelope frame */
#define MQ_ROUTING_ID_MAX     256
#define MQ_IPC_PATH_MAX	      107 /* bytes of the path of an ipc endpoint */

/* One received message: on a ROUTER, frame 0 is the routing id; the last frame is the body.  Memory
 * belongs to the message until mq_message_free or the next mq_receive into it. */
struct mq_message;
struct mq_frame {
	const void *bytes;
	size_t length;
};

struct mq *mq_new(struct err *err);
void mq_free(struct mq *mq); /* after all its sockets; NULL is fine */

struct mq_socket *mq_socket_new(
	struct mq *mq, enum mq_kind kind, const struct mq_options *options, struct err *err);
void mq_socket_free(struct mq_socket *socket);
/* Endpoint as in ZeroMQ: ipc://PATH, tcp://HOST:PORT.  An ipc path that answers a connection is
 * refused (somebody listens there), a stale one is replaced; the socket file gets mode 0660. */
int MUST_CHECK mq_bind(struct mq_socket *socket, const char *endpoint, struct err *err);
/* The index-th endpoint that was bound, with the port that a wildcard (tcp://127.0.0.1:*) got; NULL
 * past the last. */
const char *mq_bound_endpoint(const struct mq_socket *socket, size_t index);
int MUST_CHECK mq_connect(struct mq_socket *socket, const char *endpoint, struct err *err);
/* SUB: a topic's first bytes. */
int MUST_CHECK mq_subscribe(struct mq_socket *socket, const char *prefix, struct err *err);

struct mq_message *mq_message_new(void);
void mq_message_free(struct mq_message *message);
size_t mq_message_count(const struct mq_message *message);
struct mq_frame mq_message_frame(const struct mq_message *message, size_t index);
/* 1: a message is there; 0: none now; -1 and err.  Messages with too many frames, or too long ones
 * before the last, are drained, dropped and counted (mq_dropped), never returned. */
int MUST_CHECK mq_receive(struct mq_socket *socket, struct mq_message *message, struct err *err);
uint64_t mq_dropped(const struct mq_socket *socket);

enum mq_sent { MQ_SENT = 0, MQ_PEER_GONE = 1, MQ_PEER_FULL = 2 };
/* An enum mq_sent, or -1 and err.  All frames or none. */
int MUST_CHECK mq_send(
	struct mq_socket *socket, const struct mq_frame *frames, size_t count, struct err *err);

/* The descriptor to poll and whether a message waits (ZMQ_EVENTS: ask after every use; the
 * descriptor is edge-triggered). */
int mq_fd(struct mq_socket *socket);
bool mq_readable(struct mq_socket *socket);
/* Whether a send would find room; false also while nobody is connected, where `only_when_connected`
 * is set. */
bool mq_writable(struct mq_socket *socket);

/* Connections that come while half of RLIMIT_NOFILE is in use are turned away (libzmq would end the
 * process when none is left); who is connected goes on.  Call this now and then, each loop turn is
 * fine: it logs when that begins and ends. */
void mq_guard_descriptors(struct mq *mq, uint64_t now_ms);

#endif
