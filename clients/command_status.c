/* SPDX-License-Identifier: Apache-2.0 */
/* sluice status and workers. */
#include <inttypes.h>
#include <stdio.h>

#include "clients/command.h"
#include "clients/format.h"
#include "clients/json_convert.h"
#include "clients/table.h"

static void add_number(struct table *table, const json_t *object, const char *key)
{
	char text[24];

	snprintf(text, sizeof text, "%" PRIu64, json_number(object, key));
	table_add(table, text);
}

static void show_workers(const json_t *workers, void *owner UNUSED)
{
	const char *const titles[] = {
		"WORKER", ">BUSY", ">SLOTS", ">RANGES", ">COPIED", ">IDLE", "REALM", "HOST", NULL};
	CLEANUP(table_cleanup) struct table *table = table_new(titles);
	size_t index;
	const json_t *worker;

	if (json_array_size(workers) == 0) {
		puts("no workers");
		return;
	}
	json_array_foreach(workers, index, worker)
	{
		table_add(table, json_text(worker, "name"));
		add_number(table, worker, "busy");
		add_number(table, worker, "slots");
		add_number(table, worker, "ranges");
		table_add(table, format_bytes(json_number(worker, "bytes")).is);
		table_add(
			table, json_number(worker, "busy")
				       ? "-"
				       : format_seconds(json_number(worker, "idle-ms") / 1000).is);
		table_add(table, json_text(worker, "realm"));
		table_add(table, json_text(worker, "host"));
	}
	table_print(table, stdout, table_terminal_width(stdout));
}

int command_workers(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const struct option table[] = {
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice workers",
		.synopsis = "[OPTION]...",
		.about = "Lists the workers that the broker knows.",
	};

	options_parse(argc, argv, &usage, table, NULL);
	return command_ask_and_show(&settings, "query-workers", json_object(), show_workers, NULL);
}

static void show_jobs(const json_t *jobs)
{
	const char *status;
	const json_t *count;
	bool is_first = true;

	printf("%-10s ", "jobs");
	json_object_foreach((json_t *)(uintptr_t)jobs, status, count)
	{
		printf("%s%" JSON_INTEGER_FORMAT " %s", is_first ? "" : ", ",
			json_integer_value(count), status);
		is_first = false;
	}
	puts(is_first ? "none" : "");
}

static void show_status(const json_t *status, void *owner UNUSED)
{
	uint64_t speed = json_number(status, "speed");

	printf("%-10s %s\n", "version", json_text(status, "version"));
	printf("%-10s %s\n", "uptime", format_seconds(json_number(status, "uptime")).is);
	show_jobs(json_object_get(status, "jobs"));
	printf("%-10s %" PRIu64 ", %" PRIu64 " online\n", "devices", json_number(status, "devices"),
		json_number(status, "devices-online"));
	printf("%-10s %" PRIu64 "\n", "workers", json_number(status, "workers"));
	printf("%-10s %s\n", "rate", format_rate(json_number(status, "rate")).is);
	printf("%-10s %s\n", "queued", format_bytes(json_number(status, "queued-bytes")).is);
	printf("%-10s %s\n", "limit", speed ? format_rate(speed).is : "none");
}

int command_status(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const struct option table[] = {
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice status",
		.synopsis = "[OPTION]...",
		.about = "Shows the broker in figures.",
	};

	options_parse(argc, argv, &usage, table, NULL);
	return command_ask_and_show(&settings, "query-status", json_object(), show_status, NULL);
}
