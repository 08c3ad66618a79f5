/* SPDX-License-Identifier: Apache-2.0 */
/* sluice up: the whole system on this host, until Ctrl-C.  What the programs log goes to our stderr. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "clients/command.h"
#include "clients/spawn.h"
#include "common/program.h"

static int wait_for_end(struct spawn *spawn, struct watch *watch, struct err *err)
{
	for (;;) {
		switch (watch_wait(watch, NULL, UINT64_MAX)) {
		case WATCH_SIGNAL:
			return 0;
		case WATCH_CHILD:
			if (spawn_mend(spawn, err) < 0)
				return -1;
			break;
		case WATCH_MESSAGE:
		case WATCH_DEADLINE:
			break;
		}
	}
}

/* imaged's own socket, since it is started without another. */
static void say_where_guests_connect(const struct option_list *devices)
{
	char run_dir[PATH_MAX];
	struct err err;

	if (program_run_dir(run_dir, sizeof run_dir, &err) < 0)
		return;
	for (size_t i = 0; i < devices->count; i++) {
		const char *name = devices->values[i];

		printf("Guests of %.*s connect to nbd+unix:///%.*s?socket=%s/nbd\n",
			(int)strcspn(name, "="), name, (int)strcspn(name, "="), name, run_dir);
	}
}

static int run(const struct spawn_options *options, struct err *err)
{
	CLEANUP(watch_cleanup) struct watch *watch = watch_new(err);
	if (!watch)
		return -1;
	CLEANUP(spawn_cleanup) struct spawn *spawn = spawn_new(options, watch, err);
	if (!spawn)
		return -1;
	printf("The system runs; `sluice status` shows it, Ctrl-C ends it.\n");
	say_where_guests_connect(options->devices);
	fflush(stdout);
	program_say_ready();
	return wait_for_end(spawn, watch, err);
}

int command_up(int argc, char **argv)
{
	struct option_list devices = {.count = 0}, roots = {.count = 0};
	struct spawn_options options = {.workers = 2, .roots = &roots, .devices = &devices};
	const struct option table[] = {
		{"device", OPTION_LIST, &devices, "NAME=FILE",
			"Attach this image under that name."},
		{"workers", OPTION_NUMBER, &options.workers, "N",
			"Processes that copy (default: 2).", 0, SPAWN_WORKERS_MAX},
		{"root", OPTION_LIST, &roots, "DIR",
			"Files are opened only beneath this folder; at least one is required."},
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice up",
		.synopsis = "--root DIR [OPTION]...",
		.about =
			"Runs a broker, an imaged and workers in the foreground, until Ctrl-C.  They "
			"keep their state in the state directory, so jobs go on when it is run again.  "
			"Guests connect to the devices over NBD, where it says.",
	};
	struct err err = {0};

	options_parse(argc, argv, &usage, table, NULL);
	if (roots.count == 0) {
		command_fail("up: at least one --root is required (see sluice up --help)");
		return 2;
	}
	return run(&options, &err) < 0 ? command_fail("%s", err.text) : 0;
}
