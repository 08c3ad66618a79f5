/* SPDX-License-Identifier: Apache-2.0 */
/* sluice stream: one image, with a system of its own around it that lives as long as the job. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/command.h"
#include "clients/follow.h"
#include "clients/format.h"
#include "clients/json_convert.h"
#include "clients/spawn.h"
#include "common/check.h"
#include "common/clock.h"

#define ATTACH_MS      15000
#define RETRY_MS       20
#define CANCEL_MS      15000
#define NAME_MAX_BYTES 64

struct settings {
	const char *leaf;
	const char *base;
	struct option_list roots;
	uint64_t workers;
	uint64_t speed;
	bool wants_no_progress;
	bool wants_json;
};

/* The job from its start to its end. */
struct streaming {
	const struct settings *settings;
	char leaf[PATH_MAX];
	char device[NAME_MAX_BYTES + 1];
	struct option_list roots; /* with those of the leaf and the base */
	char leaf_folder[PATH_MAX], base_folder[PATH_MAX];
	struct spawn *spawn;
	struct connection connection;
	struct subscriber *subscriber;
	struct progress_bar bar;
	json_t *chain;
	uint64_t started_ms;
};

/* ---- names */

static void put_folder(const char *path, char *ret_folder)
{
	snprintf(ret_folder, PATH_MAX, "%s", path);
	char *slash = strrchr(ret_folder, '/');
	slash[slash == ret_folder] = '\0';
}

static void add_root(struct streaming *streaming, const char *folder)
{
	bug_if(streaming->roots.count == OPTION_LIST_MAX);
	streaming->roots.values[streaming->roots.count++] = folder;
}

/* A device name from the file's: letters, digits, '-', '.', '_', and without the ending. */
static void put_device_name(const char *path, char *ret_name)
{
	const char *file = strrchr(path, '/') + 1;
	size_t length = 0;

	if (!((file[0] >= 'a' && file[0] <= 'z') || (file[0] >= 'A' && file[0] <= 'Z'))) {
		memcpy(ret_name, "disk-", 5);
		length = 5;
	}
	for (; *file && length < NAME_MAX_BYTES; file++) {
		bool is_fine = strchr("-._", *file) || (*file >= '0' && *file <= '9') ||
			       (*file >= 'a' && *file <= 'z') || (*file >= 'A' && *file <= 'Z');
		ret_name[length++] = is_fine ? *file : '_';
	}
	ret_name[length] = '\0';
	char *dot = strrchr(ret_name, '.');
	if (dot && dot != ret_name)
		*dot = '\0';
}

static int find_files(struct streaming *streaming, struct err *err)
{
	const struct settings *settings = streaming->settings;
	char base[PATH_MAX];

	if (!realpath(settings->leaf, streaming->leaf))
		return err_set_errno(err, errno, "%s", settings->leaf);
	put_folder(streaming->leaf, streaming->leaf_folder);
	put_device_name(streaming->leaf, streaming->device);
	add_root(streaming, streaming->leaf_folder);
	if (settings->base && realpath(settings->base, base)) {
		put_folder(base, streaming->base_folder);
		add_root(streaming, streaming->base_folder);
	}
	for (size_t i = 0; i < settings->roots.count && i < OPTION_LIST_MAX - 2; i++)
		add_root(streaming, settings->roots.values[i]);
	return 0;
}

/* What to call the base: a name that the chain has, else the file itself as it is found from here. */
static void put_base(const struct streaming *streaming, json_t *arguments)
{
	const char *base = streaming->settings->base;
	char path[PATH_MAX];
	size_t index;
	json_t *layer;

	json_array_foreach(streaming->chain, index, layer)
	{
		if (index > 0 && strcmp(json_text(layer, "file"), base) == 0) {
			json_put_text(arguments, "base", base);
			return;
		}
	}
	json_put_text(arguments, "base", realpath(base, path) ? path : base);
}

/* ---- steps */

static int start_system(struct streaming *streaming, struct err *err)
{
	const struct spawn_options options = {
		.is_private = true,
		.workers = streaming->settings->workers,
		.roots = &streaming->roots,
	};
	static char commands[PATH_MAX + 32], events[PATH_MAX + 32];
	const struct connection_settings connection = {.broker = commands, .events = events};

	streaming->spawn = spawn_new(&options, streaming->connection.watch, err);
	if (!streaming->spawn)
		return -1;
	snprintf(commands, sizeof commands, "ipc://%s/commands", spawn_run_dir(streaming->spawn));
	snprintf(events, sizeof events, "ipc://%s/events", spawn_run_dir(streaming->spawn));
	if (connection_reach(&streaming->connection, &connection, err) < 0)
		return -1;
	streaming->subscriber =
		connection_subscribe(&streaming->connection, streaming->device, err);
	return streaming->subscriber ? 0 : -1;
}

static int fail_interrupted(struct streaming *streaming, struct err *err)
{
	/* A signal, unless a child ended. */
	if (watch_wait(streaming->connection.watch, NULL, 0) == WATCH_CHILD)
		return spawn_describe_end(streaming->spawn, err);
	return err_set(err, "interrupted; nothing was changed");
}

/* imaged says that it is ready before the broker knows it; until then the device's place is said to be away. */
static int attach(struct streaming *streaming, struct err *err)
{
	uint64_t deadline_ms = clock_monotonic_ms() + ATTACH_MS;

	for (;;) {
		CLEANUP(json_cleanup) json_t *returned = NULL;
		json_t *arguments = json_object();

		json_put_text(arguments, "device", streaming->device);
		json_put_text(arguments, "file", streaming->leaf);
		int rc = client_call(
			streaming->connection.client, "device-attach", arguments, &returned, err);
		if (rc == 0) {
			streaming->chain = json_incref(json_object_get(returned, "chain"));
			return 0;
		}
		if (rc == CLIENT_INTERRUPTED)
			return fail_interrupted(streaming, err);
		bool is_early = rc == CLIENT_ERROR &&
				strcmp(json_text(returned, "class"), "DeviceOffline") == 0;
		if (!is_early || clock_monotonic_ms() > deadline_ms)
			return -1;
		if (watch_wait(streaming->connection.watch, NULL,
			    clock_monotonic_ms() + RETRY_MS) != WATCH_DEADLINE)
			return fail_interrupted(streaming, err);
	}
}

static int start_job(struct streaming *streaming, struct err *err)
{
	CLEANUP(json_cleanup) json_t *returned = NULL;
	json_t *arguments = json_object();

	json_put_text(arguments, "device", streaming->device);
	if (streaming->settings->base)
		put_base(streaming, arguments);
	if (streaming->settings->speed)
		json_put_number(arguments, "speed", streaming->settings->speed);
	subscriber_start(streaming->subscriber, client_seq(streaming->connection.client));
	int rc = client_call(
		streaming->connection.client, "block_stream", arguments, &returned, err);
	if (rc == CLIENT_INTERRUPTED)
		return fail_interrupted(streaming, err);
	return rc == 0 ? 0 : -1;
}

/* After Ctrl-C: the job is ended in order, which a second Ctrl-C cuts short. */
static int cancel(struct streaming *streaming, struct err *err)
{
	CLEANUP(json_cleanup) json_t *returned = NULL;
	CLEANUP(json_cleanup) json_t *event = NULL;
	json_t *arguments = json_object();

	watch_forget_signal(streaming->connection.watch);
	json_put_text(arguments, "device", streaming->device);
	int rc = client_call(
		streaming->connection.client, "block_job_cancel", arguments, &returned, err);
	if (rc < 0 || rc == CLIENT_INTERRUPTED)
		return err_set(err, "interrupted");
	if (follow_job(streaming->subscriber, streaming->device, &streaming->bar,
		    clock_monotonic_ms() + CANCEL_MS, &event) != FOLLOW_ENDED)
		return err_set(err, "interrupted");
	if (strcmp(json_text(event, "event"), "BLOCK_JOB_COMPLETED") == 0 &&
		!json_object_get(json_object_get(event, "data"), "error"))
		return err_set(err, "interrupted, but the job was complete already");
	return err_set(err, "cancelled; %s is as it was, with all that was copied",
		streaming->settings->leaf);
}

static void say_done(const struct streaming *streaming)
{
	uint64_t ms = clock_monotonic_ms() - streaming->started_ms;

	if (streaming->settings->base)
		printf("%s needs nothing between itself and %s any more (%.1f s)\n",
			streaming->settings->leaf, streaming->settings->base, (double)ms / 1000);
	else
		printf("%s needs no other file any more (%.1f s)\n", streaming->settings->leaf,
			(double)ms / 1000);
}

/* The exit status, or -1 and err. */
static int report(struct streaming *streaming, const json_t *event, struct err *err)
{
	CLEANUP(json_cleanup) json_t *summary = follow_summary(event, streaming->started_ms);
	int status = follow_status(event);

	if (streaming->settings->wants_json && json_print_line(summary, err) < 0)
		return -1;
	if (status == 0 && !streaming->settings->wants_json)
		say_done(streaming);
	return status;
}

/* The exit status, or -1 and err. */
static int follow(struct streaming *streaming, struct err *err)
{
	for (;;) {
		CLEANUP(json_cleanup) json_t *event = NULL;

		switch (follow_job(streaming->subscriber, streaming->device, &streaming->bar,
			UINT64_MAX, &event)) {
		case FOLLOW_ENDED:
			return report(streaming, event, err);
		case FOLLOW_SIGNAL:
			return cancel(streaming, err);
		case FOLLOW_CHILD:
			if (spawn_mend(streaming->spawn, err) < 0)
				return -1;
			progress_bar_note(
				&streaming->bar, "a worker ended; another takes its place");
			break;
		case FOLLOW_DEADLINE:
			break;
		}
	}
}

/* The exit status, or -1 and err. */
static int stream(struct streaming *streaming, struct err *err)
{
	const struct settings *settings = streaming->settings;
	bool shows = !settings->wants_no_progress;

	progress_bar_init(&streaming->bar, !shows ? NULL : settings->wants_json ? stderr : stdout);
	if (settings->wants_json && !streaming->bar.is_terminal)
		streaming->bar.stream = NULL;
	streaming->connection.watch = watch_new(err);
	if (!streaming->connection.watch)
		return -1;
	if (find_files(streaming, err) < 0 || start_system(streaming, err) < 0 ||
		attach(streaming, err) < 0)
		return -1;
	streaming->started_ms = clock_monotonic_ms();
	if (start_job(streaming, err) < 0)
		return -1;
	return follow(streaming, err);
}

static void parse(int argc, char **argv, struct settings *settings)
{
	const struct option table[] = {
		{"base", OPTION_TEXT, &settings->base, "FILE",
			"The backing file that stays (default: none, the image will stand alone)."},
		{"workers", OPTION_NUMBER, &settings->workers, "N",
			"Processes that copy (default: 2).", 1, SPAWN_WORKERS_MAX},
		{"speed", OPTION_NUMBER, &settings->speed, "N",
			"Limit in bytes a second, K, M and G understood (default: 0, none).", 0,
			INT64_MAX, true},
		{"root", OPTION_LIST, &settings->roots, "DIR",
			"Files below the leaf may lie here too; those in the folders of the leaf and of "
			"--base always may."},
		{"no-progress", OPTION_FLAG, &settings->wants_no_progress, NULL,
			"Do not show how far it is."},
		{"json", OPTION_FLAG, &settings->wants_json, NULL,
			"Print only the completion event's data, with the seconds it took, as JSON."},
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice stream",
		.synopsis = "LEAF [OPTION]...",
		.about =
			"Copies into the image LEAF all that its backing files hold, makes it durable, and "
			"takes them out of its header.  Needs nothing else to run.  Ctrl-C ends it with a "
			"valid image that has its old backing file, and all that was copied.",
		.arguments_min = 1,
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &settings->leaf);
}

int command_stream(int argc, char **argv)
{
	struct settings settings = {.workers = 2};
	struct streaming streaming = {.settings = &settings};
	struct err err = {0};

	parse(argc, argv, &settings);
	int status = stream(&streaming, &err);
	progress_bar_clear(&streaming.bar);
	json_decref(streaming.chain);
	subscriber_free(streaming.subscriber);
	spawn_free(streaming.spawn);
	connection_close(&streaming.connection);
	return status < 0 ? command_fail("%s", err.text) : status;
}
