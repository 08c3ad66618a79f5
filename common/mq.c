/* SPDX-License-Identifier: Apache-2.0 */
/* ZeroMQ sockets, tamed.
 *
 * What libzmq would do by itself and must not is prevented here: wait (every call is DONTWAIT),
 * keep a process from ending (LINGER 0, or as short as the owner says), swallow messages to
 * strangers (ROUTER_MANDATORY), hand the identity of a connection to another (no HANDOVER),
 * take a living broker's socket file away (it unlinks before it binds), allocate what a peer
 * announces (MAXMSGSIZE).  The listeners, and the guard that keeps them from running out of
 * descriptors, are in mq_listen.c. */
#include "common/mq.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "common/check.h"
#include "common/mq_socket.h"

#define DEFAULT_FRAME_BYTES    65536
#define DEFAULT_QUEUE_MESSAGES 1000
#define HANDSHAKE_MS	       10000
#define HEARTBEAT_MS	       1000
#define HEARTBEAT_TIMEOUT_MS   4000
#define HEARTBEAT_TTL_MS       8000
#define RECONNECT_MS	       100
#define RECONNECT_MAX_MS       1000
#define DROPS_PER_CALL	       64 /* a peer that sends only rubbish does not keep us from others */
#define BOMB_FRAMES	       10000 /* what such a message took goes back to the system */

struct mq_message {
	zmq_msg_t frames[MQ_FRAMES_MAX];
	size_t count;
};

int mq_fail(struct err *err, const char *what)
{
	int number = errno;

	err_set(err, "%s: %s", what, zmq_strerror(number));
	if (err)
		err->number = number;
	return -1;
}

struct mq *mq_new(struct err *err)
{
	void *context = zmq_ctx_new();
	if (!context) {
		mq_fail(err, "cannot make a ZeroMQ context");
		return NULL;
	}

	struct mq *mq = must_calloc(1, sizeof *mq);
	mq->context = context;
	mq_listen_start();
	return mq;
}

void mq_free(struct mq *mq)
{
	if (!mq)
		return;
	bug_if(atomic_load(&mq->sockets) != 0);
	while (zmq_ctx_term(mq->context) < 0 && errno == EINTR)
		;
	free(mq);
}

static int set_number(struct mq_socket *socket, int option, int value)
{
	return zmq_setsockopt(socket->handle, option, &value, sizeof value);
}

static int set_options(struct mq_socket *socket, const struct mq_options *options)
{
	int queue = options && options->queue_messages ? options->queue_messages
						       : DEFAULT_QUEUE_MESSAGES;
	int64_t frame_bytes = options && options->max_frame_bytes
				      ? (int64_t)options->max_frame_bytes
				      : DEFAULT_FRAME_BYTES;

	if (set_number(socket, ZMQ_LINGER, options ? options->linger_ms : 0) < 0 ||
		zmq_setsockopt(socket->handle, ZMQ_MAXMSGSIZE, &frame_bytes, sizeof frame_bytes) <
			0 ||
		set_number(socket, ZMQ_SNDHWM, queue) < 0 ||
		set_number(socket, ZMQ_RCVHWM, queue) < 0 ||
		set_number(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) < 0 ||
		set_number(socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) < 0 ||
		set_number(socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) < 0)
		return -1;
	if (options && options->only_when_connected && set_number(socket, ZMQ_IMMEDIATE, 1) < 0)
		return -1;
	if (socket->kind == MQ_ROUTER && (set_number(socket, ZMQ_ROUTER_MANDATORY, 1) < 0 ||
						 set_number(socket, ZMQ_ROUTER_HANDOVER, 0) < 0))
		return -1;
	return 0;
}

static int zmq_kind(enum mq_kind kind)
{
	switch (kind) {
	case MQ_ROUTER:
		return ZMQ_ROUTER;
	case MQ_DEALER:
		return ZMQ_DEALER;
	case MQ_PUB:
		return ZMQ_PUB;
	case MQ_SUB:
		return ZMQ_SUB;
	}
	bug_if(true);
	return -1;
}

struct mq_socket *mq_socket_new(
	struct mq *mq, enum mq_kind kind, const struct mq_options *options, struct err *err)
{
	void *handle = zmq_socket(mq->context, zmq_kind(kind));
	if (!handle) {
		mq_fail(err, "cannot make a ZeroMQ socket");
		return NULL;
	}

	struct mq_socket *socket = must_calloc(1, sizeof *socket);
	socket->mq = mq;
	socket->kind = kind;
	socket->handle = handle;
	atomic_fetch_add(&mq->sockets, 1);
	if (set_options(socket, options) < 0) {
		mq_fail(err, "cannot set up a ZeroMQ socket");
		mq_socket_free(socket);
		return NULL;
	}
	return socket;
}

void mq_socket_free(struct mq_socket *socket)
{
	if (!socket)
		return;

	for (size_t i = 0; i < socket->bound_count; i++)
		free(socket->bound[i]);
	zmq_close(socket->handle);
	atomic_fetch_sub(&socket->mq->sockets, 1);
	free(socket);
}

int mq_prepare_endpoint(struct mq_socket *socket, const char *endpoint, struct err *err)
{
	const char *path = mq_ipc_path(endpoint);
	bool is_tcp = strncmp(endpoint, "tcp://", 6) == 0;

	if (path && strlen(path) > MQ_IPC_PATH_MAX)
		return err_set(err,
			"%s: the path of a socket has at most %d bytes, this one has %zu", endpoint,
			MQ_IPC_PATH_MAX, strlen(path));
	if (set_number(socket, ZMQ_HEARTBEAT_IVL, is_tcp ? HEARTBEAT_MS : 0) < 0 ||
		set_number(socket, ZMQ_HEARTBEAT_TIMEOUT, is_tcp ? HEARTBEAT_TIMEOUT_MS : 0) < 0 ||
		set_number(socket, ZMQ_HEARTBEAT_TTL, is_tcp ? HEARTBEAT_TTL_MS : 0) < 0 ||
		set_number(socket, ZMQ_IPV6, strncmp(endpoint, "tcp://[", 7) == 0) < 0)
		return mq_fail(err, endpoint);
	return 0;
}

int mq_connect(struct mq_socket *socket, const char *endpoint, struct err *err)
{
	if (mq_prepare_endpoint(socket, endpoint, err) < 0)
		return -1;
	if (zmq_connect(socket->handle, endpoint) < 0) {
		mq_fail(err, endpoint);
		return err_wrap(err, "cannot connect");
	}
	return 0;
}

int mq_subscribe(struct mq_socket *socket, const char *prefix, struct err *err)
{
	if (zmq_setsockopt(socket->handle, ZMQ_SUBSCRIBE, prefix, strlen(prefix)) < 0)
		return mq_fail(err, "cannot subscribe");
	return 0;
}

struct mq_message *mq_message_new(void)
{
	return must_calloc(1, sizeof(struct mq_message));
}

static void message_clear(struct mq_message *message)
{
	for (size_t i = 0; i < message->count; i++)
		zmq_msg_close(&message->frames[i]);
	message->count = 0;
}

void mq_message_free(struct mq_message *message)
{
	if (!message)
		return;
	message_clear(message);
	free(message);
}

size_t mq_message_count(const struct mq_message *message)
{
	return message->count;
}

struct mq_frame mq_message_frame(const struct mq_message *message, size_t index)
{
	bug_if(index >= message->count);

	zmq_msg_t *frame = (zmq_msg_t *)&message->frames[index];
	return (struct mq_frame){.bytes = zmq_msg_data(frame), .length = zmq_msg_size(frame)};
}

/* 1: a frame is in `frame`, which the caller closes; 0: nothing there; -1 with errno. */
static int receive_frame(struct mq_socket *socket, zmq_msg_t *frame)
{
	int rc;

	zmq_msg_init(frame);
	do
		rc = zmq_msg_recv(frame, socket->handle, ZMQ_DONTWAIT);
	while (rc < 0 && errno == EINTR);
	if (rc >= 0)
		return 1;
	zmq_msg_close(frame);
	return errno == EAGAIN ? 0 : -1;
}

enum { RECEIVED_BAD = 2 };

/* Takes one whole message off the queue.  1: it is in `message`; RECEIVED_BAD: it was dropped; 0,
 * -1 as receive_frame. */
static int receive_message(struct mq_socket *socket, struct mq_message *message)
{
	size_t frames = 0;
	bool is_good = true;
	bool is_last = false;

	for (; !is_last; frames++) {
		zmq_msg_t frame;
		int rc = receive_frame(socket, &frame);
		if (rc <= 0) {
			message_clear(message);
			return rc;
		}
		is_last = !zmq_msg_more(&frame);
		if (frames >= MQ_FRAMES_MAX ||
			(!is_last && zmq_msg_size(&frame) > MQ_ENVELOPE_FRAME_MAX))
			is_good = false;
		if (is_good) {
			zmq_msg_init(&message->frames[message->count]);
			zmq_msg_move(&message->frames[message->count++], &frame);
		}
		zmq_msg_close(&frame);
	}
	if (frames > BOMB_FRAMES)
		malloc_trim(0);
	if (is_good)
		return 1;
	message_clear(message);
	return RECEIVED_BAD;
}

int mq_receive(struct mq_socket *socket, struct mq_message *message, struct err *err)
{
	message_clear(message);
	for (int i = 0; i < DROPS_PER_CALL; i++) {
		int rc = receive_message(socket, message);
		if (rc < 0)
			return mq_fail(err, "cannot receive");
		if (rc != RECEIVED_BAD)
			return rc;
		socket->dropped++;
	}
	return 0;
}

uint64_t mq_dropped(const struct mq_socket *socket)
{
	return socket->dropped;
}

static int send_frame(struct mq_socket *socket, const struct mq_frame *frame, bool is_last)
{
	int rc;

	do
		rc = zmq_send(socket->handle, frame->bytes, frame->length,
			ZMQ_DONTWAIT | (is_last ? 0 : ZMQ_SNDMORE));
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -1 : 0;
}

/* Once a first frame is taken the rest is taken too, or the peer has gone meanwhile: then libzmq
 * throws the message away, but only if it is given all of its frames. */
static int finish_broken_message(
	struct mq_socket *socket, const struct mq_frame *frames, size_t from, size_t count)
{
	for (size_t i = from; i < count; i++) {
		if (send_frame(socket, &frames[i], i + 1 == count) < 0 && errno != EAGAIN)
			break;
	}
	return MQ_PEER_GONE;
}

int mq_send(struct mq_socket *socket, const struct mq_frame *frames, size_t count, struct err *err)
{
	bug_if(count == 0);

	for (size_t i = 0; i < count; i++) {
		if (send_frame(socket, &frames[i], i + 1 == count) == 0)
			continue;
		if (errno == EHOSTUNREACH)
			return MQ_PEER_GONE;
		if (errno != EAGAIN)
			return mq_fail(err, "cannot send");
		return i == 0 ? MQ_PEER_FULL : finish_broken_message(socket, frames, i + 1, count);
	}
	return MQ_SENT;
}

int mq_fd(struct mq_socket *socket)
{
	int fd = -1;
	size_t size = sizeof fd;
	int rc = zmq_getsockopt(socket->handle, ZMQ_FD, &fd, &size);

	bug_if(rc < 0);
	return fd;
}

static int socket_events(struct mq_socket *socket)
{
	int events = 0;
	size_t size = sizeof events;
	int rc;

	do
		rc = zmq_getsockopt(socket->handle, ZMQ_EVENTS, &events, &size);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? 0 : events;
}

bool mq_readable(struct mq_socket *socket)
{
	return socket_events(socket) & ZMQ_POLLIN;
}

bool mq_writable(struct mq_socket *socket)
{
	return socket_events(socket) & ZMQ_POLLOUT;
}
