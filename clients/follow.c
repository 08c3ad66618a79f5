/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/follow.h"

#include <stdio.h>
#include <string.h>

#include "clients/command.h"
#include "clients/json_convert.h"
#include "common/clock.h"

#define LOOK_MS	   500	/* how often the clock is looked at while nothing comes */
#define SILENCE_MS 5000 /* after which the broker is said to be away */

/* One job being followed. */
struct following {
	struct subscriber *subscriber;
	const char *job;
	struct progress_bar *bar;
	bool is_away;
};

static void show_progress(struct following *following, const json_t *data)
{
	const struct progress progress = {
		.position = json_number(data, "position"),
		.end = json_number(data, "end"),
		.rate = json_number(data, "rate"),
		.has_eta = json_object_get(data, "eta") != NULL,
		.eta = json_number(data, "eta"),
	};

	progress_bar_show(following->bar, &progress, clock_monotonic_ms());
}

static void note_stall(struct following *following, const char *reason)
{
	static const struct {
		const char *reason, *words;
	} table[] = {
		{"", "going on"},
		{"no-worker", "waiting: there is no worker for this device's realm"},
		{"device-offline", "waiting: the device's imaged is away"},
		{"source-down", "waiting: a layer below does not answer"},
		{"no-space", "waiting: no space is left where the leaf lies"},
	};

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		if (strcmp(reason, table[i].reason) == 0)
			progress_bar_note(following->bar, table[i].words);
	}
}

static void note_error(struct following *following, const json_t *data)
{
	char line[1600];

	snprintf(line, sizeof line, "error: %s", json_text(data, "reason"));
	progress_bar_note(following->bar, line);
}

/* Shows what the event says; true: it is the job's end. */
static bool take_event(struct following *following, const json_t *event)
{
	const char *name = json_text(event, "event");
	const json_t *data = json_object_get(event, "data");

	if (strcmp(json_text(data, "job-id"), following->job) != 0)
		return false;
	if (strcmp(name, "BLOCK_JOB_PROGRESS") == 0)
		show_progress(following, data);
	else if (strcmp(name, "BLOCK_JOB_STALLED") == 0)
		note_stall(following, json_text(data, "reason"));
	else if (strcmp(name, "BLOCK_JOB_ERROR") == 0)
		note_error(following, data);
	return strcmp(name, "BLOCK_JOB_COMPLETED") == 0 || strcmp(name, "BLOCK_JOB_CANCELLED") == 0;
}

static void note_silence(struct following *following)
{
	bool is_away =
		clock_monotonic_ms() > subscriber_heard_ms(following->subscriber) + SILENCE_MS;

	if (is_away != following->is_away)
		progress_bar_note(
			following->bar, is_away ? "waiting: nothing is heard from the broker"
						: "the broker is back");
	following->is_away = is_away;
}

static void note_complaint(struct following *following)
{
	const char *complaint = subscriber_complaint(following->subscriber);

	if (complaint)
		progress_bar_note(following->bar, complaint);
}

enum follow_end follow_job(struct subscriber *subscriber, const char *job, struct progress_bar *bar,
	uint64_t deadline_ms, json_t **ret_event)
{
	struct following following = {.subscriber = subscriber, .job = job, .bar = bar};

	for (;;) {
		uint64_t look_ms = clock_monotonic_ms() + LOOK_MS;
		json_t *event = NULL;
		int rc = subscriber_next(
			subscriber, look_ms < deadline_ms ? look_ms : deadline_ms, &event);

		note_complaint(&following);
		note_silence(&following);
		if (rc == 0 && take_event(&following, event)) {
			progress_bar_clear(bar);
			*ret_event = event;
			return FOLLOW_ENDED;
		}
		json_decref(event);
		if (rc == SUBSCRIBER_SIGNAL || rc == SUBSCRIBER_CHILD) {
			progress_bar_clear(bar);
			return rc == SUBSCRIBER_SIGNAL ? FOLLOW_SIGNAL : FOLLOW_CHILD;
		}
		if (clock_monotonic_ms() >= deadline_ms)
			return FOLLOW_DEADLINE;
	}
}

json_t *follow_summary(const json_t *event, uint64_t started_ms)
{
	json_t *summary = json_copy(json_object_get(event, "data"));
	double seconds = (double)(clock_monotonic_ms() - started_ms) / 1000;

	json_object_set_new(summary, "seconds", json_real(seconds));
	return summary;
}

int follow_status(const json_t *event)
{
	const json_t *data = json_object_get(event, "data");

	if (strcmp(json_text(event, "event"), "BLOCK_JOB_CANCELLED") == 0)
		return command_fail(
			"the job was cancelled; the image is as it was, with all that was copied");
	if (json_object_get(data, "error"))
		return command_fail("%s", json_text(data, "error"));
	return 0;
}
