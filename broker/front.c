/* SPDX-License-Identifier: Apache-2.0 */
/* An address, as peers.c keeps it: the routing id and then the envelope, each frame behind its length in two bytes.  One layout
 * serves both kinds of fronts; a peer's address is its routing id alone. */
#include "broker/front.h"

#include <stdlib.h>
#include <string.h>

#include "broker/peers.h"
#include "broker/unsent.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"

#define FRAME_BYTES_MAX	     (1U << 20)
#define PEER_FRAME_BYTES_MAX (4U << 20) /* a hello names every device and lease */
#define PEERS_MAX	     65536
#define QUEUE_OF_CLIENTS     64 /* replies may have a mebibyte each; unsent.c keeps the rest */
#define QUEUE_OF_PEERS	     8192
#define LINGER_MS	     200
#define ADDRESS_BYTES_MAX    (MQ_FRAMES_MAX * (2 + MQ_ENVELOPE_FRAME_MAX))
#define LOG_EVERY_MS	     1000
#define UNSENT_BYTES_MAX     (64U << 20) /* over all clients */
#define UNSENT_AGE_MS	     60000
#define UNSENT_OF_CLIENT     4096 /* well below FRONT_REQUESTS_MAX */

struct front {
	struct front_options options;
	struct loop *loop;
	struct mq_socket *socket;
	struct mq_message *message;
	struct peers *peers;
	struct unsent *unsent;
	/* Whose queue was full last in this pass over unsent; length 0: nobody's. */
	unsigned char full[MQ_ROUTING_ID_MAX];
	size_t full_length;
	uint64_t dropped;  /* messages here; the socket counts its own */
	uint64_t given_up; /* replies */
	uint64_t logged, log_at_ms;
};

/* ---- addresses */

static size_t pack_address(
	const struct mq_message *message, size_t count, unsigned char address[ADDRESS_BYTES_MAX])
{
	size_t length = 0;

	for (size_t i = 0; i < count; i++) {
		struct mq_frame frame = mq_message_frame(message, i);

		bug_if(frame.length > MQ_ENVELOPE_FRAME_MAX);
		address[length++] = (unsigned char)(frame.length >> 8);
		address[length++] = (unsigned char)frame.length;
		memcpy(address + length, frame.bytes, frame.length);
		length += frame.length;
	}
	return length;
}

static size_t unpack_address(const struct peer_address *address, struct mq_frame *frames)
{
	size_t count = 0;

	for (size_t at = 0; at < address->length; count++) {
		size_t length = (size_t)address->bytes[at] << 8 | address->bytes[at + 1];

		bug_if(count == MQ_FRAMES_MAX - 1);
		frames[count] = (struct mq_frame){address->bytes + at + 2, length};
		at += 2 + length;
	}
	return count;
}

/* ---- messages */

static void take_message(struct front *front)
{
	size_t count = mq_message_count(front->message);
	unsigned char address[ADDRESS_BYTES_MAX];
	struct mq_frame body;
	size_t length;
	uint64_t number;

	if (count < 2 || (front->options.kind == FRONT_PEERS && count != 2)) {
		front->dropped++;
		return;
	}
	length = pack_address(front->message, count - 1, address);
	body = mq_message_frame(front->message, count - 1);
	if (front->options.kind == FRONT_PEERS)
		number = peers_number(front->peers, address, length);
	else
		number = peers_add(front->peers, address, length);
	front->options.received(front->options.owner, number, body.bytes, body.length);
}

static void receive(void *owner)
{
	struct front *front = owner;
	struct err err;
	int r = mq_receive(front->socket, front->message, &err);

	if (r < 0)
		log_error("%s: %s", front->options.name, err.text);
	if (r > 0)
		take_message(front);
}

static enum mq_sent send_to(
	struct front *front, const struct peer_address *address, const void *bytes, size_t length)
{
	struct mq_frame frames[MQ_FRAMES_MAX] = {0};
	struct err err;
	size_t count = unpack_address(address, frames);
	int sent;

	frames[count] = (struct mq_frame){bytes, length};
	sent = mq_send(front->socket, frames, count + 1, &err);
	if (sent >= 0)
		return (enum mq_sent)sent;
	log_error("%s: %s: taking the peer for gone", front->options.name, err.text);
	return MQ_PEER_GONE;
}

/* A hash of the connection's routing id. */
static uint32_t client_of(const struct peer_address *address)
{
	struct mq_frame frames[MQ_FRAMES_MAX] = {0};
	uint32_t hash = 2166136261u;

	unpack_address(address, frames);
	for (size_t i = 0; i < frames[0].length; i++)
		hash = (hash ^ ((const unsigned char *)frames[0].bytes)[i]) * 16777619u;
	return hash ^ hash >> 10 ^ hash >> 20;
}

enum mq_sent front_send(struct front *front, uint64_t number, const void *bytes, size_t length)
{
	struct peer_address address;
	enum mq_sent sent;

	if (!peers_find(front->peers, number, &address))
		return MQ_PEER_GONE;
	sent = send_to(front, &address, bytes, length);
	if (sent == MQ_PEER_FULL && front->options.kind == FRONT_CLIENTS) {
		unsent_add(front->unsent, clock_monotonic_ms(), client_of(&address), number, bytes,
			length);
		return MQ_SENT;
	}
	if (sent != MQ_SENT || front->options.kind == FRONT_CLIENTS)
		peers_forget(front->peers, number);
	return sent;
}

/* ---- replies that were kept */

static bool is_known_to_be_full(const struct front *front, const struct mq_frame *id)
{
	return front->full_length == id->length && !memcmp(front->full, id->bytes, id->length);
}

static int try_again(void *owner, uint64_t number, const void *bytes, size_t length)
{
	struct front *front = owner;
	struct mq_frame frames[MQ_FRAMES_MAX] = {0};
	struct peer_address address;

	if (!peers_find(front->peers, number, &address))
		return 1;
	unpack_address(&address, frames);
	if (is_known_to_be_full(front, &frames[0]))
		return 0;
	if (send_to(front, &address, bytes, length) == MQ_PEER_FULL) {
		front->full_length = frames[0].length;
		memcpy(front->full, frames[0].bytes, frames[0].length);
		return 0;
	}
	peers_forget(front->peers, number);
	return 1;
}

static void give_up(void *owner, uint64_t number)
{
	struct front *front = owner;

	front->given_up++;
	peers_forget(front->peers, number);
}

void front_forget(struct front *front, uint64_t number)
{
	peers_forget(front->peers, number);
}

size_t front_count(const struct front *front)
{
	return peers_count(front->peers);
}

/* ---- life */

struct front *front_new(
	struct mq *mq, struct loop *loop, const struct front_options *options, struct err *err)
{
	bool for_clients = options->kind == FRONT_CLIENTS;
	struct mq_options socket_options = {
		.max_frame_bytes = for_clients ? FRAME_BYTES_MAX : PEER_FRAME_BYTES_MAX,
		.queue_messages = for_clients ? QUEUE_OF_CLIENTS : QUEUE_OF_PEERS,
		.linger_ms = LINGER_MS,
	};
	struct front *front = must_calloc(1, sizeof(*front));

	front->options = *options;
	front->message = mq_message_new();
	front->unsent = unsent_new(&(struct unsent_options){
		.bytes_max = UNSENT_BYTES_MAX,
		.client_max = UNSENT_OF_CLIENT,
		.age_max_ms = UNSENT_AGE_MS,
		.try_to_send = try_again,
		.drop = give_up,
		.owner = front,
	});
	front->peers =
		peers_new(for_clients ? FRONT_REQUESTS_MAX : PEERS_MAX, options->next_number);
	front->socket = mq_socket_new(mq, MQ_ROUTER, &socket_options, err);
	if (front->socket && !loop_add_socket(loop, front->socket, receive, front, err)) {
		front->loop = loop;
		return front;
	}
	front_free(front);
	return NULL;
}

void front_free(struct front *front)
{
	if (!front)
		return;
	if (front->loop)
		loop_remove_socket(front->loop, front->socket);
	mq_socket_free(front->socket);
	mq_message_free(front->message);
	peers_free(front->peers);
	unsent_free(front->unsent);
	free(front);
}

int front_bind(struct front *front, const char *endpoint, struct err *err)
{
	return mq_bind(front->socket, endpoint, err);
}

uint64_t front_dropped(const struct front *front)
{
	return front->dropped + mq_dropped(front->socket);
}

static void log_dropped(struct front *front, uint64_t now_ms)
{
	uint64_t dropped = front_dropped(front) + front->given_up;

	if (dropped == front->logged || now_ms < front->log_at_ms)
		return;
	log_warn(
		"%s: dropped %llu messages with wrong frames and %llu replies that nobody read, since the start",
		front->options.name, (unsigned long long)front_dropped(front),
		(unsigned long long)front->given_up);
	front->logged = dropped;
	front->log_at_ms = now_ms + LOG_EVERY_MS;
}

uint64_t front_tick(struct front *front, uint64_t now_ms)
{
	log_dropped(front, now_ms);
	front->full_length = 0;
	return unsent_retry(front->unsent, now_ms);
}
