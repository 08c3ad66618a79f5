/* SPDX-License-Identifier: Apache-2.0 */
/* One function a message; nothing is decided here. */
#include "workers/voice.h"

#include <errno.h>

#include "common/check.h"

void voice_init(struct voice *voice)
{
	voice->link = NULL;
	voice->reports = reports_new();
	wire_buffer_init(&voice->out);
}

void voice_done(struct voice *voice)
{
	reports_free(voice->reports);
	wire_buffer_done(&voice->out);
}

void voice_say(struct voice *voice, const struct worker_to_broker *message)
{
	wire_buffer_clear(&voice->out);
	worker_to_broker_encode(message, &voice->out);
	(void)link_send(voice->link, voice->out.bytes, voice->out.length);
}

void voice_say_progress(struct voice *voice, uint64_t lease, uint64_t bytes)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_PROGRESS,
		.copy_progress = {.lease = lease, .bytes = bytes},
	};

	voice_say(voice, &message);
}

void voice_say_joined(struct voice *voice, const struct join *join, const char *boot_id)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_JOINED,
		.joined =
			{
				.join = join->id,
				.boot_id = boot_id,
				.device_number = join->device_number,
				.inode = join->inode,
			},
	};

	voice_say(voice, &message);
}

void voice_say_join_refused(struct voice *voice, uint64_t join, const struct err *err)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_JOIN_REFUSED,
		.join_refused =
			{
				.join = join,
				.msg = err->text,
				.errno_name = err->number ? err_number_name(err->number) : NULL,
			},
	};

	voice_say(voice, &message);
}

void voice_say_left(struct voice *voice, uint64_t join)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_LEFT,
		.left = {.join = join},
	};

	voice_say(voice, &message);
}

void voice_say_not_held(struct voice *voice, uint64_t lease)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_STOPPED,
		.copy_stopped = {.lease = lease},
	};

	voice_say(voice, &message);
}

/* Keeps the report until it is acknowledged. */
static void report(struct voice *voice, uint64_t lease, const struct worker_to_broker *message)
{
	wire_buffer_clear(&voice->out);
	worker_to_broker_encode(message, &voice->out);
	reports_add(voice->reports, lease, voice->out.bytes, voice->out.length);
	if (link_is_up(voice->link))
		(void)link_send(voice->link, voice->out.bytes, voice->out.length);
}

void voice_report_stopped(struct voice *voice, uint64_t lease)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_STOPPED,
		.copy_stopped = {.lease = lease},
	};

	report(voice, lease, &message);
}

static void report_copied(struct voice *voice, const struct copy_task *task)
{
	const struct copy_outcome *outcome = &task->outcome;
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPIED,
		.copied =
			{
				.lease = task->order->lease,
				.bytes = outcome->bytes_written,
				.zeroes = (struct guest_range *)outcome->zeroes,
				.zeroes_count = outcome->zeroes_count,
				.microseconds = task->microseconds,
			},
	};

	report(voice, task->order->lease, &message);
}

static void report_failed(struct voice *voice, const struct copy_task *task)
{
	const struct copy_outcome *outcome = &task->outcome;
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_FAILED,
		.copy_failed =
			{
				.lease = task->order->lease,
				.operation = outcome->failure.operation,
				.file = outcome->failure.path,
				.offset = outcome->failure.guest_offset,
				.length = outcome->failure.length,
				.errno_name = err_number_name(outcome->failure.err.number),
				.msg = outcome->failure.err.text,
			},
	};

	report(voice, task->order->lease, &message);
}

void voice_report_end(struct voice *voice, const struct copy_task *task)
{
	switch (task->outcome.end) {
	case COPY_END_COPIED:
		report_copied(voice, task);
		return;
	case COPY_END_STOPPED:
		voice_report_stopped(voice, task->order->lease);
		return;
	case COPY_END_FAILED:
		report_failed(voice, task);
		return;
	}
	bug_if(true);
}

void voice_report_malformed(struct voice *voice, const struct msg_copy_order *order,
	const char *leaf, const struct err *err)
{
	const struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_FAILED,
		.copy_failed =
			{
				.lease = order->lease,
				.operation = OPERATION_WRITE,
				.file = leaf,
				.offset = order->offset,
				.length = 0,
				.errno_name = err_number_name(EINVAL),
				.msg = err->text,
			},
	};

	report(voice, order->lease, &message);
}

bool voice_repeat(struct voice *voice, uint64_t lease)
{
	const struct report *kept = reports_find(voice->reports, lease);

	if (kept)
		(void)link_send(voice->link, kept->bytes, kept->length);
	return kept != NULL;
}

void voice_repeat_all(struct voice *voice)
{
	for (size_t i = 0; i < reports_count(voice->reports); i++) {
		const struct report *kept = reports_at(voice->reports, i);
		(void)link_send(voice->link, kept->bytes, kept->length);
	}
}
