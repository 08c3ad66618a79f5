/* SPDX-License-Identifier: Apache-2.0 */
/* A DEALER and a number for each request; a reply with another number is an old one, and dropped. */
#include "clients/client.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "clients/json_convert.h"
#include "common/check.h"
#include "common/clock.h"
#include "schemas/wire.h"

#define CONNECT_MS	3000
#define REPLY_BYTES_MAX ((size_t)64 << 20)

struct client {
	struct mq_socket *socket;
	struct mq_message *message;
	struct watch *watch;
	char *endpoint;
	uint64_t next_id;
	uint64_t seq;
};

struct client *client_new(struct mq *mq, const char *endpoint, struct watch *watch, struct err *err)
{
	const struct mq_options options = {
		.max_frame_bytes = REPLY_BYTES_MAX, .only_when_connected = true};
	CLEANUP(client_cleanup) struct client *client = must_calloc(1, sizeof *client);

	client->watch = watch;
	client->endpoint = must_strdup(endpoint);
	client->message = mq_message_new();
	client->next_id = 1;
	client->socket = mq_socket_new(mq, MQ_DEALER, &options, err);
	if (!client->socket || mq_connect(client->socket, endpoint, err) < 0)
		return NULL;
	return steal(&client);
}

void client_free(struct client *client)
{
	if (!client)
		return;
	mq_socket_free(client->socket);
	mq_message_free(client->message);
	free(client->endpoint);
	free(client);
}

uint64_t client_seq(const struct client *client)
{
	return client->seq;
}

static int wait_until_connected(struct client *client, struct err *err)
{
	uint64_t deadline_ms = clock_monotonic_ms() + CONNECT_MS;

	while (!mq_writable(client->socket)) {
		switch (watch_wait_writable(client->watch, client->socket, deadline_ms)) {
		case WATCH_MESSAGE:
			break;
		case WATCH_SIGNAL:
		case WATCH_CHILD:
			return CLIENT_INTERRUPTED;
		case WATCH_DEADLINE:
			return err_set(err,
				"no broker answers at %s: is sluice-broker running? (--broker names another place)",
				client->endpoint);
		}
	}
	return 0;
}

static int send_request(struct client *client, const json_t *request, uint64_t id, struct err *err)
{
	CLEANUP(json_cleanup) json_t *numbered = json_copy((json_t *)(uintptr_t)request);
	struct wire_buffer packed;

	json_put_number(numbered, "id", id);
	wire_buffer_init(&packed);
	json_pack_value(numbered, &packed);
	const struct mq_frame frames[] = {{"", 0}, {packed.bytes, packed.length}};
	int rc = mq_send(client->socket, frames, 2, err);
	wire_buffer_done(&packed);
	if (rc > 0)
		return err_set(err, "the broker at %s takes no request", client->endpoint);
	return rc;
}

/* The reply if a message that waits is the one to this request, else NULL. */
static json_t *take_reply(struct client *client, uint64_t id)
{
	struct err err;

	if (mq_receive(client->socket, client->message, &err) <= 0)
		return NULL;
	struct mq_frame body =
		mq_message_frame(client->message, mq_message_count(client->message) - 1);
	CLEANUP(json_cleanup)
	json_t *reply = json_unpack_value((struct wire_bytes){body.bytes, body.length}, &err);
	if (!json_is_object(reply) || json_number(reply, "id") != id)
		return NULL;
	client->seq = json_number(reply, "seq");
	return steal(&reply);
}

static int wait_for_reply(struct client *client, uint64_t id, json_t **ret_reply, struct err *err)
{
	uint64_t deadline_ms = clock_monotonic_ms() + CLIENT_SECONDS * 1000;

	for (;;) {
		switch (watch_wait(client->watch, client->socket, deadline_ms)) {
		case WATCH_MESSAGE:
			*ret_reply = take_reply(client, id);
			if (*ret_reply)
				return 0;
			break;
		case WATCH_SIGNAL:
		case WATCH_CHILD:
			return CLIENT_INTERRUPTED;
		case WATCH_DEADLINE:
			return err_set(err, "the broker at %s did not answer within %d seconds",
				client->endpoint, CLIENT_SECONDS);
		}
	}
}

int client_ask(struct client *client, const json_t *request, json_t **ret_reply, struct err *err)
{
	uint64_t id = client->next_id++;
	int rc = wait_until_connected(client, err);

	if (rc == 0)
		rc = send_request(client, request, id, err);
	return rc ? rc : wait_for_reply(client, id, ret_reply, err);
}

/* The sentence, and why where that stands beside it. */
int client_error(const json_t *error, struct err *err)
{
	const char *desc = json_text(error, "desc");
	const char *why = json_text(json_object_get(error, "data"), "msg");

	if (why && *why && !strstr(desc, why))
		return err_set(err, "%s: %s", desc, why);
	return err_set(err, "%s", desc);
}

int client_call(struct client *client, const char *command, json_t *arguments,
	json_t **ret_returned, struct err *err)
{
	CLEANUP(json_cleanup) json_t *request = json_object();
	CLEANUP(json_cleanup) json_t *reply = NULL;

	json_put_text(request, "execute", command);
	if (arguments)
		bug_if(json_object_set_new(request, "arguments", arguments) < 0);
	int rc = client_ask(client, request, &reply, err);
	if (rc)
		return rc;

	json_t *error = json_object_get(reply, "error");
	if (error) {
		client_error(error, err);
		*ret_returned = json_incref(error);
		return CLIENT_ERROR;
	}
	*ret_returned = json_incref(json_object_get(reply, "return"));
	return 0;
}
