/* SPDX-License-Identifier: Apache-2.0 */
/* sluice: the command line.  Picks a command from a table; nothing else.
 *
 *~ A tour.  Every command but two is a plain client of a broker that runs already: it packs a request (client.c), waits for the
 * reply, and prints a table (table.c) or JSON (json_convert.c).  Those that follow a job or the events hear them without a
 * gap (subscribe.c, follow.c).  `stream` and `up` start a broker, an imaged and workers first (spawn.c) and are clients of those.
 * Nothing here knows more than the public contract says.
 *
 * Read client.c next, then subscribe.c. */
#include <stdio.h>
#include <string.h>

#include "clients/command.h"
#include "common/program.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *about;
};

static const struct command commands[] = {
	{"stream", command_stream,
		"Fill an image from its backing files, with nothing else running"},
	{"up", command_up, "Run the whole system on this host in the foreground"},
	{"block-stream", command_block_stream, "Copy data from a backing file into a block device"},
	{"cancel", command_cancel, "End a device's job; what was copied stays"},
	{"set-speed", command_set_speed, "Change the limit of a device's job"},
	{"jobs", command_jobs, "List jobs"},
	{"devices", command_devices, "List devices and their chains"},
	{"attach", command_attach, "Open an image under a device name"},
	{"detach", command_detach, "Close a device"},
	{"plan", command_plan, "Show what block-stream would do"},
	{"map", command_map, "Draw where a device's bytes are"},
	{"workers", command_workers, "List workers"},
	{"status", command_status, "Show the broker in figures"},
	{"events", command_events, "Print events, one JSON object a line"},
	{"call", command_call, "Send any request as JSON"},
};

static int print_help(void)
{
	puts("Usage: sluice COMMAND [OPTION]...\n\n"
	     "Fills live disk images from their backing files.\n\nCommands:");
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
		printf("  %-14s %s.\n", commands[i].name, commands[i].about);
	puts("\nsluice COMMAND --help tells more.  R is $SLUICE_RUN_DIR, else /run/sluice for root, else\n"
	     "$XDG_RUNTIME_DIR/sluice.");
	return fflush(stdout) == 0 ? 0 : 1;
}

/* Takes `_` for `-`. */
static bool is_named(const struct command *command, const char *word)
{
	size_t length = strlen(command->name);

	if (strlen(word) != length)
		return false;
	for (size_t i = 0; i < length; i++) {
		char c = word[i] == '_' ? '-' : word[i];
		if (c != command->name[i])
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	program_start();
	if (strcmp(word, "--help") == 0 || strcmp(word, "help") == 0)
		return print_help();
	if (strcmp(word, "--version") == 0) {
		puts("sluice " SLUICE_VERSION);
		return fflush(stdout) == 0 ? 0 : 1;
	}
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		if (is_named(&commands[i], word))
			return commands[i].run(argc - 1, argv + 1);
	}
	if (word[0])
		command_fail("no command '%s' (see sluice --help)", word);
	else
		command_fail("a command is needed (see sluice --help)");
	return 2;
}
