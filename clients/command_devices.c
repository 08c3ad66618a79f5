/* SPDX-License-Identifier: Apache-2.0 */
/* sluice devices, attach, detach. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clients/command.h"
#include "clients/format.h"
#include "clients/json_convert.h"
#include "clients/table.h"
#include "common/check.h"
#include "schemas/wire.h"

/* "/images/leaf.qcow2 < base.raw" */
static char *describe_chain(const json_t *chain)
{
	struct wire_buffer text;
	size_t index;
	const json_t *layer;

	wire_buffer_init(&text);
	json_array_foreach(chain, index, layer)
	{
		const char *file = json_text(layer, "file");
		if (index > 0)
			wire_buffer_append(&text, " < ", 3);
		wire_buffer_append(&text, file, strlen(file));
	}
	wire_buffer_append(&text, "", 1);
	char *copy = must_strdup((const char *)text.bytes);
	wire_buffer_done(&text);
	return copy;
}

static void add_device(struct table *table, const json_t *device)
{
	CLEANUP_FREE char *chain = describe_chain(json_object_get(device, "chain"));
	bool is_online = json_is_true(json_object_get(device, "online"));
	bool is_read_only = json_is_true(json_object_get(device, "read-only"));

	table_add(table, json_text(device, "device"));
	table_add(table, !is_online ? "offline" : is_read_only ? "read-only" : "online");
	table_add(table, json_text(device, "imaged"));
	table_add(table, format_bytes(json_number(device, "size")).is);
	table_add(table, json_object_get(device, "job") ? json_text(device, "job") : "-");
	table_add(table, chain);
}

static void show_devices(const json_t *devices, void *owner UNUSED)
{
	const char *const titles[] = {"DEVICE", "STATE", "IMAGED", ">SIZE", "JOB", "CHAIN", NULL};
	CLEANUP(table_cleanup) struct table *table = table_new(titles);
	size_t index;
	const json_t *device;

	if (json_is_array(devices) && json_array_size(devices) == 0) {
		puts("no devices");
		return;
	}
	json_array_foreach(devices, index, device) add_device(table, device);
	if (json_is_object(devices))
		add_device(table, devices);
	table_print(table, stdout, table_terminal_width(stdout));
}

int command_devices(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *device = NULL;
	const struct option table[] = {
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice devices",
		.synopsis = "[DEVICE] [OPTION]...",
		.about =
			"Lists the attached devices, online or not, with their chains from the leaf to the bottom.",
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &device);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", device);
	return command_ask_and_show(&settings, "query-devices", arguments, show_devices, NULL);
}

/* A file that is there from here is named by its whole path, because imaged has another current folder. */
static void put_file(json_t *arguments, const char *file)
{
	char path[PATH_MAX];

	json_put_text(arguments, "file", realpath(file, path) ? path : file);
}

int command_attach(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *words[2] = {NULL, NULL};
	const char *format = NULL, *imaged = NULL;
	bool is_read_only = false, copies_on_read = false;
	const struct option table[] = {
		{"format", OPTION_TEXT, &format, "F",
			"qcow2 or raw (default: qcow2 where the file says so, else raw and read-only)."},
		{"imaged", OPTION_TEXT, &imaged, "NAME", "Which imaged (default: the only one)."},
		{"copy-on-read", OPTION_FLAG, &copies_on_read, NULL,
			"Keep what a guest's reads fetched."},
		{"read-only", OPTION_FLAG, &is_read_only, NULL, "Do not write to it."},
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice attach",
		.synopsis = "DEVICE FILE [OPTION]...",
		.about = "Opens the image FILE and its chain in an imaged, under the name DEVICE.",
		.arguments_min = 2,
		.arguments_max = 2,
	};

	options_parse(argc, argv, &usage, table, words);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", words[0]);
	put_file(arguments, words[1]);
	json_put_text(arguments, "format", format);
	json_put_text(arguments, "imaged", imaged);
	if (copies_on_read)
		bug_if(json_object_set_new(arguments, "copy-on-read", json_true()) < 0);
	if (is_read_only)
		bug_if(json_object_set_new(arguments, "read-only", json_true()) < 0);
	return command_ask_and_show(&settings, "device-attach", arguments, show_devices, NULL);
}

int command_detach(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *device = NULL;
	bool wants_force = false;
	const struct option table[] = {
		{"force", OPTION_FLAG, &wants_force, NULL, "Also when its imaged is away."},
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice detach",
		.synopsis = "DEVICE [OPTION]...",
		.about = "Closes a device and forgets it.",
		.arguments_min = 1,
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &device);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", device);
	if (wants_force)
		bug_if(json_object_set_new(arguments, "force", json_true()) < 0);
	return command_ask_and_show(&settings, "device-detach", arguments, NULL, NULL);
}
