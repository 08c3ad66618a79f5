/* SPDX-License-Identifier: Apache-2.0 */
/* sluice events: one JSON object a line, from the log or as they happen. */
#include <stdio.h>
#include <string.h>

#include "clients/command.h"
#include "clients/json_convert.h"
#include "common/program.h"

struct settings {
	struct connection_settings connection;
	const char *event, *device;
	uint64_t after;
	bool wants_follow;
};

static bool is_wanted(const struct settings *settings, const json_t *event)
{
	const char *name = json_text(event, "event");

	if (settings->event)
		return strcmp(name, settings->event) == 0 &&
		       (!settings->device ||
			       strcmp(json_text(json_object_get(event, "data"), "device"),
				       settings->device) == 0);
	if (strcmp(name, "BROKER_HEARTBEAT") == 0)
		return false;
	return !settings->device ||
	       strcmp(json_text(json_object_get(event, "data"), "device"), settings->device) == 0;
}

static int print(const struct settings *settings, const json_t *event, struct err *err)
{
	return is_wanted(settings, event) ? json_print_line(event, err) : 0;
}

static void complain(struct subscriber *subscriber)
{
	const char *complaint = subscriber_complaint(subscriber);

	if (complaint)
		command_fail("%s", complaint);
}

/* All that the log has.  0, or -1 and err. */
static int print_stored(
	const struct settings *settings, struct subscriber *subscriber, struct err *err)
{
	for (;;) {
		CLEANUP(json_cleanup) json_t *event = NULL;
		int rc = subscriber_next_stored(subscriber, &event, err);

		complain(subscriber);
		if (rc)
			return rc < 0 ? -1 : 0;
		if (print(settings, event, err) < 0)
			return -1;
	}
}

/* Until a signal. */
static int print_coming(
	const struct settings *settings, struct subscriber *subscriber, struct err *err)
{
	for (;;) {
		CLEANUP(json_cleanup) json_t *event = NULL;
		int rc = subscriber_next(subscriber, UINT64_MAX, &event);

		complain(subscriber);
		if (rc == SUBSCRIBER_SIGNAL)
			return 0;
		if (rc == 0 && print(settings, event, err) < 0)
			return -1;
	}
}

/* Without --after, following begins now. */
static int find_beginning(const struct settings *settings, struct connection *connection,
	uint64_t *ret_after, struct err *err)
{
	CLEANUP(json_cleanup) json_t *returned = NULL;

	*ret_after = settings->after == UINT64_MAX ? 0 : settings->after;
	if (!settings->wants_follow || settings->after != UINT64_MAX)
		return 0;
	int rc = client_call(connection->client, "query-version", NULL, &returned, err);
	*ret_after = client_seq(connection->client);
	return rc == CLIENT_INTERRUPTED ? err_set(err, "interrupted") : rc ? -1 : 0;
}

static int run(const struct settings *settings, struct connection *connection, struct err *err)
{
	CLEANUP(subscriber_cleanup)
	struct subscriber *subscriber =
		connection_subscribe(connection, settings->device ? settings->device : "", err);
	uint64_t after;

	if (!subscriber || find_beginning(settings, connection, &after, err) < 0)
		return -1;
	subscriber_start(subscriber, after);
	if (print_stored(settings, subscriber, err) < 0)
		return -1;
	if (!settings->wants_follow)
		return 0;
	program_say_ready();
	return print_coming(settings, subscriber, err);
}

int command_events(int argc, char **argv)
{
	struct settings settings = {.after = UINT64_MAX};
	const struct option table[] = {
		{"follow", OPTION_FLAG, &settings.wants_follow, NULL,
			"Go on with those that come, until Ctrl-C."},
		{"after", OPTION_NUMBER, &settings.after, "SEQ",
			"Begin behind that number (default: at the first in the log; with --follow now).",
			0, INT64_MAX},
		{"event", OPTION_TEXT, &settings.event, "NAME", "Only events of this name."},
		{"device", OPTION_TEXT, &settings.device, "NAME", "Only events of this device."},
		CONNECTION_OPTIONS(&settings.connection),
		EVENTS_OPTION(&settings.connection),
		JSON_OPTION(&settings.connection),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice events",
		.synopsis = "[OPTION]...",
		.about =
			"Prints events, one JSON object a line.  What publishing lost is taken from the broker's log: "
			"each durable event comes once and in order.",
	};
	struct connection connection;
	struct err err = {0};

	options_parse(argc, argv, &usage, table, NULL);
	int rc = connection_open(
		&connection, &settings.connection, CONNECTION_SIGNALS_ARE_WATCHED, &err);
	if (rc == 0)
		rc = run(&settings, &connection, &err);
	connection_close(&connection);
	return rc < 0 ? command_fail("%s", err.text) : 0;
}
