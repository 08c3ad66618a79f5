/* SPDX-License-Identifier: Apache-2.0 */
/* What every command that talks to a broker has: where it is, and a client for it. */
#ifndef SLUICE_CLIENTS_CONNECTION_H
#define SLUICE_CLIENTS_CONNECTION_H

#include <stdbool.h>

#include "clients/client.h"
#include "clients/subscribe.h"
#include "clients/watch.h"
#include "common/attributes.h"
#include "common/err.h"
#include "common/mq.h"
#include "common/options.h"

struct connection_settings {
	const char *broker; /* NULL: ipc://R/commands */
	const char *events; /* NULL: ipc://R/events, or beside --broker */
	bool is_insecure;
	bool wants_json;
};

/* Rows of an option table. */
#define CONNECTION_OPTIONS(settings)                                             \
	{"broker", OPTION_TEXT, &(settings)->broker, "ENDPOINT",                 \
		"Where the broker takes commands (default: ipc://R/commands)."}, \
	{                                                                        \
		"insecure", OPTION_FLAG, &(settings)->is_insecure, NULL,         \
			"Allow a TCP endpoint that is not loopback."             \
	}
#define JSON_OPTION(settings)                                       \
	{                                                           \
		"json", OPTION_FLAG, &(settings)->wants_json, NULL, \
			"Print the broker's reply as JSON."         \
	}
#define EVENTS_OPTION(settings)                                                                     \
	{                                                                                           \
		"events", OPTION_TEXT, &(settings)->events, "ENDPOINT",                             \
			"Where the broker publishes (default: ipc://R/events, or beside --broker)." \
	}

struct connection {
	struct mq *mq;
	struct watch *watch; /* NULL where Ctrl-C just ends the program */
	struct client *client;
	char commands[256], events[256];
};

enum connection_signals { CONNECTION_SIGNALS_END_IT, CONNECTION_SIGNALS_ARE_WATCHED };

/* Does not wait for the broker.  0, or -1 and err. */
int MUST_CHECK connection_open(struct connection *connection,
	const struct connection_settings *settings, enum connection_signals signals,
	struct err *err);
/* The same for one whose `watch` is set up, and that has nothing else. */
int MUST_CHECK connection_reach(
	struct connection *connection, const struct connection_settings *settings, struct err *err);
void connection_close(struct connection *connection);
/* The broker's events, from `after` on; NULL and err. */
struct subscriber *connection_subscribe(
	struct connection *connection, const char *progress_of, struct err *err);

#endif
