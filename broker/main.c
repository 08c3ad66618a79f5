/* SPDX-License-Identifier: Apache-2.0 */
/*~ Welcome to the broker, the only process of Sluice that remembers jobs.
 *
 * It takes commands from clients, asks imageds what is to be copied, gives ranges to workers, and tells everybody
 * who listens what happened.  It never touches an image.  It knows nothing that it could not lose between two lines of its code: what it
 * promises is in the store first.  So there is no clean-up when it dies, and a restart is an ordinary start.
 *
 * The broker is two halves.  `core/` decides: given a state, the time and a message it says what is to be done, and does
 * nothing itself (core/core.h, core/effects.h).  The files beside this one do it: front.c and event_feed.c speak
 * ZeroMQ, store_lmdb.c and store_writer.c keep records, settle.c holds back whatever may not be said before it is stored, and broker.c ties
 * them to one loop.  This file only reads the command line and brings the process to life: locks first, so that two
 * brokers never share a store or steal each other's sockets.
 *
 * Read broker.c next, from its end upwards. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/broker.h"
#include "common/log.h"
#include "common/mq.h"
#include "common/program.h"
#include "common/random.h"

#define ENDPOINT_MAX	   512
#define FOLDER_MAX	   1024
#define NOT_GIVEN	   UINT64_MAX
#define UINT_MAX_OF_WIRE   INT64_MAX
#define FLOOR_DEFAULT	   (UINT64_C(4) << 20)
#define EVENT_LOG_DEFAULT  100000
#define EVENT_LOG_MAX	   10000000
#define PEER_TIMEOUT_S	   5
#define LEASE_S		   15
#define SECONDS_MAX	   86400
#define HEARTBEAT_MS	   1000
#define LOCKED_FOLDERS_MAX (4 * OPTION_LIST_MAX + 1)

struct settings {
	struct option_list commands, events, workers, images;
	const char *state;
	uint64_t speed, floor, event_log, peer_timeout_s, lease_s;
	bool insecure;
};

/* A folder that this process has locked, by its number, so that one folder under two names is locked once. */
struct locked {
	dev_t device;
	ino_t inode;
};

struct locks {
	struct locked folders[LOCKED_FOLDERS_MAX];
	size_t count;
};

static void read_options(int argc, char **argv, struct settings *settings)
{
	const struct option table[] = {
		{"commands", OPTION_LIST, &settings->commands, "ENDPOINT",
			"Take commands there (default ipc://R/commands).", 0, 0, false},
		{"events", OPTION_LIST, &settings->events, "ENDPOINT",
			"Publish events there (default ipc://R/events).", 0, 0, false},
		{"workers", OPTION_LIST, &settings->workers, "ENDPOINT",
			"Workers connect there (default ipc://R/workers).", 0, 0, false},
		{"images", OPTION_LIST, &settings->images, "ENDPOINT",
			"Imageds connect there (default ipc://R/images).", 0, 0, false},
		{"state", OPTION_TEXT, &settings->state, "DIR",
			"Keep jobs and events there, on a local disk (default S).", 0, 0, false},
		{"speed", OPTION_NUMBER, &settings->speed, "N",
			"Budget in bytes a second over all jobs, 0: none (default: as last stored).",
			0, UINT_MAX_OF_WIRE, true},
		{"floor", OPTION_NUMBER, &settings->floor, "N",
			"The least rate in bytes a second that a job keeps while it gives way to a busy guest, "
			"0: none; for jobs that name none (default 4M).",
			0, UINT_MAX_OF_WIRE, true},
		{"event-log", OPTION_NUMBER, &settings->event_log, "N",
			"Keep so many durable events (default 100000).", 1, EVENT_LOG_MAX, false},
		{"peer-timeout", OPTION_NUMBER, &settings->peer_timeout_s, "SECONDS",
			"A worker or imaged is lost that long after its last message (default 5).",
			1, SECONDS_MAX, false},
		{"lease", OPTION_NUMBER, &settings->lease_s, "SECONDS",
			"A range without progress for so long is given to another worker (default 15).",
			1, SECONDS_MAX, false},
		{"insecure", OPTION_FLAG, &settings->insecure, NULL,
			"Allow TCP endpoints that are not on this machine's loopback.", 0, 0,
			false},
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice-broker",
		.synopsis = "[OPTION]...",
		.about =
			"Takes commands, owns jobs, hands out ranges to workers and publishes events.  R is "
			"$SLUICE_RUN_DIR, /run/sluice or $XDG_RUNTIME_DIR/sluice; S is $SLUICE_STATE_DIR, "
			"/var/lib/sluice or $XDG_STATE_HOME/sluice.",
	};

	options_parse(argc, argv, &usage, table, NULL);
}

/* The default where none was given; checks that nothing listens to the world by mistake.  0, or -1 and err. */
static int settle_endpoints(struct option_list *list, const char *name,
	const struct settings *settings, char buffer[ENDPOINT_MAX], struct err *err)
{
	if (!list->count) {
		if (program_endpoint(buffer, ENDPOINT_MAX, name, err))
			return -1;
		list->values[list->count++] = buffer;
	}
	for (size_t i = 0; i < list->count; i++)
		if (!settings->insecure && !program_endpoint_is_local(list->values[i]))
			return err_set(err,
				"--%s %s is not on the loopback: anybody who reaches it could use it; "
				"--insecure allows it",
				name, list->values[i]);
	return 0;
}

/* 0, or -1 and err: another broker holds the folder. */
static int lock_folder(struct locks *locks, const char *folder, struct err *err)
{
	struct stat found;
	int r;

	if (program_make_dir(folder, err))
		return -1;
	if (stat(folder, &found))
		return err_set(err, "look at the folder '%s'", folder);
	for (size_t i = 0; i < locks->count; i++)
		if (locks->folders[i].device == found.st_dev &&
			locks->folders[i].inode == found.st_ino)
			return 0;
	r = program_lock_dir(folder, "broker", err);
	if (r > 0)
		return err_set(err, "another broker is running on '%s'", folder);
	if (r == 0)
		locks->folders[locks->count++] = (struct locked){found.st_dev, found.st_ino};
	return r;
}

/* The folders that the endpoints' sockets lie in. */
static int lock_endpoints(struct locks *locks, const struct option_list *list, struct err *err)
{
	for (size_t i = 0; i < list->count; i++) {
		char folder[FOLDER_MAX];
		const char *path = list->values[i];
		const char *slash;

		if (strncmp(path, "ipc://", 6) != 0 || path[6] == '@')
			continue;
		path += 6;
		slash = strrchr(path, '/');
		snprintf(folder, sizeof(folder), "%.*s",
			slash ? (int)(slash - path) + (slash == path) : 1, slash ? path : ".");
		if (lock_folder(locks, folder, err))
			return -1;
	}
	return 0;
}

static int lock_everything(const struct settings *settings, struct err *err)
{
	static struct locks locks;

	if (lock_endpoints(&locks, &settings->commands, err) ||
		lock_endpoints(&locks, &settings->events, err) ||
		lock_endpoints(&locks, &settings->workers, err) ||
		lock_endpoints(&locks, &settings->images, err))
		return -1;
	return lock_folder(&locks, settings->state, err);
}

/* Often enough that a peer is not lost for one heartbeat that came late. */
static uint64_t heartbeat_ms(const struct settings *settings)
{
	uint64_t quarter_ms = settings->peer_timeout_s * 1000 / 4;

	return quarter_ms < HEARTBEAT_MS ? quarter_ms : HEARTBEAT_MS;
}

static int serve(const struct settings *settings, struct err *err)
{
	struct broker_options options = {
		.commands = &settings->commands,
		.events = &settings->events,
		.workers = &settings->workers,
		.images = &settings->images,
		.state = settings->state,
		.core =
			{
				.peer_timeout_ms = settings->peer_timeout_s * 1000,
				.lease_ms = settings->lease_s * 1000,
				.heartbeat_ms = heartbeat_ms(settings),
				.event_log = settings->event_log,
				.new_epoch = random_id(),
				.has_speed = settings->speed != NOT_GIVEN,
				.speed = settings->speed,
				.floor = settings->floor,
				.version = SLUICE_VERSION,
			},
	};
	struct broker *broker = broker_new(&options, err);
	int r;

	if (!broker)
		return -1;
	log_info("serving commands on %s", settings->commands.values[0]);
	program_say_ready();
	r = broker_run(broker, err);
	broker_free(broker);
	return r;
}

static int settle_state(struct settings *settings, char buffer[FOLDER_MAX], struct err *err)
{
	if (settings->state)
		return 0;
	settings->state = buffer;
	return program_state_dir(buffer, FOLDER_MAX, err);
}

int main(int argc, char **argv)
{
	static struct settings settings = {
		.speed = NOT_GIVEN,
		.floor = FLOOR_DEFAULT,
		.event_log = EVENT_LOG_DEFAULT,
		.peer_timeout_s = PEER_TIMEOUT_S,
		.lease_s = LEASE_S,
	};
	static char endpoints[4][ENDPOINT_MAX];
	static char state[FOLDER_MAX];
	struct err err;

	program_start();
	read_options(argc, argv, &settings);
	if (settle_endpoints(&settings.commands, "commands", &settings, endpoints[0], &err) ||
		settle_endpoints(&settings.events, "events", &settings, endpoints[1], &err) ||
		settle_endpoints(&settings.workers, "workers", &settings, endpoints[2], &err) ||
		settle_endpoints(&settings.images, "images", &settings, endpoints[3], &err)) {
		log_error("%s", err.text);
		return 2;
	}
	if (settle_state(&settings, state, &err) || lock_everything(&settings, &err) ||
		serve(&settings, &err)) {
		log_error("%s", err.text);
		return 1;
	}
	return 0;
}
