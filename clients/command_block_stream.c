/* SPDX-License-Identifier: Apache-2.0 */
/* sluice block-stream: the command itself, and with --wait the job to its end. */
#include <stdio.h>
#include <string.h>

#include "clients/command.h"
#include "clients/follow.h"
#include "clients/json_convert.h"
#include "common/clock.h"

#define NOT_GIVEN UINT64_MAX

struct settings {
	struct connection_settings connection;
	const char *device;
	const char *base, *bottom, *job, *backing_file, *token;
	uint64_t speed, floor;
	bool wants_wait, wants_no_progress;
};

static json_t *make_arguments(const struct settings *settings)
{
	json_t *arguments = json_object();

	json_put_text(arguments, "device", settings->device);
	json_put_text(arguments, "base", settings->base);
	json_put_text(arguments, "bottom", settings->bottom);
	json_put_text(arguments, "job-id", settings->job);
	json_put_text(arguments, "backing-file", settings->backing_file);
	json_put_text(arguments, "token", settings->token);
	if (settings->speed)
		json_put_number(arguments, "speed", settings->speed);
	if (settings->floor != NOT_GIVEN)
		json_put_number(arguments, "floor", settings->floor);
	return arguments;
}

static FILE *progress_stream(const struct settings *settings)
{
	if (settings->wants_no_progress || settings->connection.wants_json)
		return NULL;
	return stdout;
}

/* Ctrl-C ends only the waiting. */
static int stop_waiting(const char *job)
{
	return command_fail(
		"no longer waiting; job %s goes on (sluice cancel %s would end it)", job, job);
}

/* The exit status, or -1 and err. */
static int wait_for_job(const struct settings *settings, struct subscriber *subscriber,
	uint64_t started_ms, struct err *err)
{
	CLEANUP(json_cleanup) json_t *event = NULL;
	const char *job = settings->job ? settings->job : settings->device;
	struct progress_bar bar;

	progress_bar_init(&bar, progress_stream(settings));
	if (follow_job(subscriber, job, &bar, UINT64_MAX, &event) != FOLLOW_ENDED)
		return stop_waiting(job);

	CLEANUP(json_cleanup) json_t *summary = follow_summary(event, started_ms);
	int status = follow_status(event);
	if (settings->connection.wants_json && json_print_line(summary, err) < 0)
		return -1;
	if (status == 0 && !settings->connection.wants_json)
		printf("done in %.1f s\n", json_real_value(json_object_get(summary, "seconds")));
	return status;
}

/* The newest event before the job, so that none of its own is missed. */
static int find_beginning(struct connection *connection, uint64_t *ret_seq, struct err *err)
{
	CLEANUP(json_cleanup) json_t *returned = NULL;
	int rc = client_call(connection->client, "query-version", NULL, &returned, err);

	*ret_seq = client_seq(connection->client);
	return rc;
}

static int start_and_wait(
	const struct settings *settings, struct connection *connection, struct err *err)
{
	CLEANUP(subscriber_cleanup)
	struct subscriber *subscriber = connection_subscribe(connection, settings->device, err);
	CLEANUP(json_cleanup) json_t *returned = NULL;
	uint64_t beginning;

	if (!subscriber)
		return -1;
	int rc = find_beginning(connection, &beginning, err);
	if (rc)
		return rc == CLIENT_INTERRUPTED ? err_set(err, "interrupted") : -1;
	subscriber_start(subscriber, beginning);
	uint64_t started_ms = clock_monotonic_ms();
	rc = client_call(
		connection->client, "block_stream", make_arguments(settings), &returned, err);
	if (rc == CLIENT_INTERRUPTED)
		return err_set(err, "interrupted; the job may have been started");
	return rc ? -1 : wait_for_job(settings, subscriber, started_ms, err);
}

static int run_and_wait(const struct settings *settings)
{
	struct connection connection;
	struct err err = {0};

	int status = connection_open(
		&connection, &settings->connection, CONNECTION_SIGNALS_ARE_WATCHED, &err);
	if (status == 0)
		status = start_and_wait(settings, &connection, &err);
	connection_close(&connection);
	return status < 0 ? command_fail("%s", err.text) : status;
}

static void parse(int argc, char **argv, struct settings *settings)
{
	const struct option table[] = {
		{"base", OPTION_TEXT, &settings->base, "FILE",
			"The backing file that stays (default: none)."},
		{"bottom", OPTION_TEXT, &settings->bottom, "FILE",
			"Instead of --base: the last file whose data is copied."},
		{"job-id", OPTION_TEXT, &settings->job, "ID",
			"Of the job (default: the device's name)."},
		{"speed", OPTION_NUMBER, &settings->speed, "N",
			"Limit in bytes a second, K, M and G understood (default: 0, none).", 0,
			INT64_MAX, true},
		{"floor", OPTION_NUMBER, &settings->floor, "N",
			"The least rate in bytes a second kept while the guest is busy, 0: none "
			"(default: the broker's, 4M).",
			0, INT64_MAX, true},
		{"backing-file", OPTION_TEXT, &settings->backing_file, "NAME",
			"Name of the base for the leaf's header, exactly as given."},
		{"token", OPTION_TEXT, &settings->token, "TOKEN",
			"A repeat with the token of a known job starts nothing."},
		{"wait", OPTION_FLAG, &settings->wants_wait, NULL,
			"Show how far the job is, and exit by how it ends.  Ctrl-C leaves it running."},
		{"no-progress", OPTION_FLAG, &settings->wants_no_progress, NULL,
			"With --wait: do not show how far it is."},
		CONNECTION_OPTIONS(&settings->connection),
		EVENTS_OPTION(&settings->connection),
		JSON_OPTION(&settings->connection),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice block-stream",
		.synopsis = "DEVICE [OPTION]...",
		.about =
			"The job fills the device's leaf with what its backing files hold, and then drops them.",
		.arguments_min = 1,
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &settings->device);
}

/* The sentence by which users of QEMU know the command comes first. */
static void begin_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0) {
			puts("Copy data from a backing file into a block device.\n");
			return;
		}
	}
}

int command_block_stream(int argc, char **argv)
{
	struct settings settings = {.floor = NOT_GIVEN};

	begin_help(argc, argv);
	parse(argc, argv, &settings);
	if (settings.wants_wait)
		return run_and_wait(&settings);
	return command_ask_and_show(
		&settings.connection, "block_stream", make_arguments(&settings), NULL, NULL);
}
