/* SPDX-License-Identifier: Apache-2.0 */
/* sluice jobs, cancel, set-speed. */
#include <stdio.h>

#include "clients/command.h"
#include "clients/format.h"
#include "clients/json_convert.h"
#include "clients/table.h"
#include "common/check.h"

/* What there is to say about a job beside its numbers. */
static const char *remark(const json_t *job)
{
	if (json_object_get(job, "error"))
		return json_text(job, "error");
	if (json_object_get(job, "stalled"))
		return json_text(job, "stalled");
	return json_object_get(job, "base") ? json_text(job, "base") : "";
}

static void add_job(struct table *table, const json_t *job)
{
	uint64_t speed = json_number(job, "speed");

	table_add(table, json_text(job, "job-id"));
	table_add(table, json_text(job, "device"));
	table_add(table, json_text(job, "status"));
	table_add(table, format_share(json_number(job, "position"), json_number(job, "end")).is);
	table_add(table, format_bytes(json_number(job, "copied")).is);
	table_add(table,
		json_object_get(job, "rate") ? format_rate(json_number(job, "rate")).is : "-");
	table_add(table, speed ? format_rate(speed).is : "-");
	table_add(table,
		json_object_get(job, "eta") ? format_seconds(json_number(job, "eta")).is : "-");
	table_add(table, remark(job));
}

static void show_jobs(const json_t *jobs, void *owner UNUSED)
{
	const char *const titles[] = {"JOB", "DEVICE", "STATUS", ">DONE", ">COPIED", ">RATE",
		">LIMIT", ">LEFT", "REMARK", NULL};
	CLEANUP(table_cleanup) struct table *table = table_new(titles);
	size_t index;
	const json_t *job;

	if (json_array_size(jobs) == 0) {
		puts("no jobs");
		return;
	}
	json_array_foreach(jobs, index, job) add_job(table, job);
	table_print(table, stdout, table_terminal_width(stdout));
}

int command_jobs(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *device = NULL;
	const struct option table[] = {
		{"device", OPTION_TEXT, &device, "NAME", "Only the jobs of this device."},
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice jobs",
		.synopsis = "[OPTION]...",
		.about = "Lists the jobs that are not dismissed.",
	};

	options_parse(argc, argv, &usage, table, NULL);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", device);
	return command_ask_and_show(&settings, "query-block-jobs", arguments, show_jobs, NULL);
}

int command_cancel(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *device = NULL;
	bool wants_force = false;
	const struct option table[] = {
		{"force", OPTION_FLAG, &wants_force, NULL,
			"End the job in the broker's books at once although its imaged is away."},
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice cancel",
		.synopsis = "DEVICE [OPTION]...",
		.about =
			"Ends the device's job.  The leaf keeps its old backing file and all that was copied; a "
			"new job goes on from there.",
		.arguments_min = 1,
		.arguments_max = 1,
	};

	options_parse(argc, argv, &usage, table, &device);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", device);
	if (wants_force)
		bug_if(json_object_set_new(arguments, "force", json_true()) < 0);
	return command_ask_and_show(&settings, "block_job_cancel", arguments, NULL, NULL);
}

/* "64M" as the option parser reads sizes; exits with status 2 for anything else. */
static uint64_t parse_speed(const char *text)
{
	uint64_t speed = 0;
	char option[128];
	char program[] = "sluice set-speed";
	char *arguments[] = {program, option, NULL};
	const struct option table[] = {
		{"speed", OPTION_NUMBER, &speed, "N", "", 0, INT64_MAX, true},
		{0},
	};
	const struct options_usage usage = {
		.program = program, .synopsis = "DEVICE N [OPTION]...", .about = ""};

	snprintf(option, sizeof option, "--speed=%s", text);
	options_parse(2, arguments, &usage, table, NULL);
	return speed;
}

int command_set_speed(int argc, char **argv)
{
	struct connection_settings settings = {0};
	const char *words[2] = {NULL, NULL};
	const struct option table[] = {
		CONNECTION_OPTIONS(&settings),
		JSON_OPTION(&settings),
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice set-speed",
		.synopsis = "DEVICE N [OPTION]...",
		.about =
			"Changes the limit of the device's job, in bytes a second (K, M and G understood); 0 is "
			"no limit.",
		.arguments_min = 2,
		.arguments_max = 2,
	};

	options_parse(argc, argv, &usage, table, words);
	json_t *arguments = json_object();
	json_put_text(arguments, "device", words[0]);
	json_put_number(arguments, "speed", parse_speed(words[1]));
	return command_ask_and_show(&settings, "block_job_set_speed", arguments, NULL, NULL);
}
