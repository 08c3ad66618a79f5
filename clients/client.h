/* SPDX-License-Identifier: Apache-2.0 */
/* Asks the broker one thing at a time and waits for the answer, with a deadline. */
#ifndef SLUICE_CLIENTS_CLIENT_H
#define SLUICE_CLIENTS_CLIENT_H

#include <jansson.h>
#include <stdint.h>

#include "clients/watch.h"
#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "common/mq.h"

struct client;

#define CLIENT_SECONDS 60 /* for what may take the broker or an imaged a while */

/* The answers to a call, besides 0. */
enum client_outcome {
	CLIENT_ERROR = 1,	/* the broker refused: ret_reply is the reply's `error` */
	CLIENT_INTERRUPTED = 2, /* what `watch` watches came first */
};

/* Connects in the background.  `watch` ends a wait early, may be NULL, and outlives the client.  NULL and err: no such
 * endpoint. */
struct client *client_new(
	struct mq *mq, const char *endpoint, struct watch *watch, struct err *err);
void client_free(struct client *client); /* NULL is fine */
DEFINE_CLEANUP(client, client_free)

/* A reply's `error` as a sentence: the broker's, and why where that stands beside it.  Returns -1. */
int client_error(const json_t *error, struct err *err);

/* Sends the command and waits for the reply.  Takes over `arguments` (NULL: none).  0: *ret_returned is what the command returned;
 * CLIENT_ERROR: the error map, and err is its desc; CLIENT_INTERRUPTED; -1 and err: nobody answers, in words for a person. */
int MUST_CHECK client_call(struct client *client, const char *command, json_t *arguments,
	json_t **ret_returned, struct err *err);
/* The same with any request (a map with execute); *ret_reply is the whole reply, also if it is an error. */
int MUST_CHECK client_ask(
	struct client *client, const json_t *request, json_t **ret_reply, struct err *err);
/* The newest durable event that the last reply included. */
uint64_t client_seq(const struct client *client);

#endif
