/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/connection.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/program.h"

static int put(char *buffer, size_t size, const char *endpoint, struct err *err)
{
	if (strlen(endpoint) >= size)
		return err_set(err, "'%s' is too long an endpoint", endpoint);
	snprintf(buffer, size, "%s", endpoint);
	return 0;
}

/* ipc://DIR/commands has its events at ipc://DIR/events. */
static bool put_beside(const char *commands, char *buffer, size_t size)
{
	static const char ending[] = "/commands";
	size_t length = strlen(commands);
	size_t folder = length - strlen(ending);

	if (length < strlen(ending) || strcmp(commands + folder, ending) != 0 ||
		strncmp(commands, "ipc://", 6) != 0)
		return false;
	return snprintf(buffer, size, "%.*s/events", (int)folder, commands) < (int)size;
}

static int find_endpoints(
	struct connection *connection, const struct connection_settings *settings, struct err *err)
{
	size_t size = sizeof connection->commands;

	if (settings->broker) {
		if (put(connection->commands, size, settings->broker, err) < 0)
			return -1;
	} else if (program_endpoint(connection->commands, size, "commands", err) < 0) {
		return -1;
	}
	if (settings->events)
		return put(connection->events, size, settings->events, err);
	if (settings->broker && put_beside(settings->broker, connection->events, size))
		return 0;
	return program_endpoint(connection->events, size, "events", err);
}

static int check_local(
	const char *endpoint, const struct connection_settings *settings, struct err *err)
{
	if (settings->is_insecure || program_endpoint_is_local(endpoint))
		return 0;
	return err_set(err, "%s is neither ipc nor loopback; --insecure allows it", endpoint);
}

static void let_signals_end_it(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

int connection_reach(
	struct connection *connection, const struct connection_settings *settings, struct err *err)
{
	if (find_endpoints(connection, settings, err) < 0 ||
		check_local(connection->commands, settings, err) < 0 ||
		check_local(connection->events, settings, err) < 0)
		return -1;
	connection->mq = mq_new(err);
	if (!connection->mq)
		return -1;
	connection->client =
		client_new(connection->mq, connection->commands, connection->watch, err);
	return connection->client ? 0 : -1;
}

int connection_open(struct connection *connection, const struct connection_settings *settings,
	enum connection_signals signals, struct err *err)
{
	*connection = (struct connection){0};
	if (signals == CONNECTION_SIGNALS_END_IT)
		let_signals_end_it();
	else
		connection->watch = watch_new(err);
	if (signals == CONNECTION_SIGNALS_ARE_WATCHED && !connection->watch)
		return -1;
	return connection_reach(connection, settings, err);
}

void connection_close(struct connection *connection)
{
	client_free(connection->client);
	mq_free(connection->mq);
	watch_free(connection->watch);
}

struct subscriber *connection_subscribe(
	struct connection *connection, const char *progress_of, struct err *err)
{
	const struct subscriber_options options = {
		.endpoint = connection->events,
		.client = connection->client,
		.watch = connection->watch,
		.progress_of = progress_of,
	};

	return subscriber_new(connection->mq, &options, err);
}
