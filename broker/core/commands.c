/* SPDX-License-Identifier: Apache-2.0 */
/* From bytes to a command: the guard, the envelope, the table of names. */
#include "broker/core/commands.h"

#include <string.h>

#include "broker/core/core.h"
#include "schemas/wire_request.h"

struct command {
	const char *name;
	command_run *run;
};

static const struct command commands[] = {
	{"block_stream", command_block_stream},
	{"query-stream-plan", command_query_stream_plan},
	{"query-block-jobs", command_query_block_jobs},
	{"block_job_cancel", command_block_job_cancel},
	{"block_job_set_speed", command_block_job_set_speed},
	{"device-attach", command_device_attach},
	{"device-detach", command_device_detach},
	{"query-devices", command_query_devices},
	{"query-allocation", command_query_allocation},
	{"query-workers", command_query_workers},
	{"query-events", command_query_events},
	{"query-status", command_query_status},
	{"query-version", command_query_version},
	{"query-commands", command_query_commands},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* Between its words a command's name has `_` or `-`, whichever the client likes. */
static bool is_same_name(const char *a, const char *b)
{
	for (; *a && *b; a++, b++) {
		bool is_joint = (*a == '_' || *a == '-') && (*b == '_' || *b == '-');

		if (*a != *b && !is_joint)
			return false;
	}
	return *a == *b;
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++)
		if (is_same_name(commands[i].name, name))
			return &commands[i];
	return NULL;
}

void call_refuse_arguments(
	struct core *core, const struct call *call, const char *argument, const struct err *err)
{
	reply_bad_argument(core, call->asker, argument, "%s", err->text);
}

static void refuse_command(struct core *core, struct asker asker, const char *name)
{
	struct refusal refusal = {.class = ERROR_CLASS_COMMAND_NOT_FOUND};

	snprintf(refusal.desc, sizeof(refusal.desc), "The command %s has not been found", name);
	reply_refusal(core, asker, &refusal);
}

void client_request(struct core *core, uint64_t client, const void *bytes, size_t length)
{
	struct request_envelope envelope;
	struct call call = {.asker.client = client, .request = {bytes, length}};
	const struct command *command;
	struct err err = {0};
	int r = wire_request_read(bytes, length, &core->memory, &envelope, &err);

	call.asker.id = envelope.id;
	if (r < 0) {
		reply_error(core, call.asker, "%s", err.text);
		return;
	}
	call.arguments = envelope.arguments;
	command = find(envelope.execute);
	if (command == NULL)
		refuse_command(core, call.asker, envelope.execute);
	else
		command->run(core, &call);
}

void command_query_commands(struct core *core, const struct call *call)
{
	struct cmd_query_commands arguments;
	struct command_info infos[COMMANDS];
	struct wire_buffer value = {0};
	const char *argument = NULL;
	struct err err = {0};

	if (cmd_query_commands_decode(call->arguments.bytes, call->arguments.length, &core->memory,
		    &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	for (size_t i = 0; i < COMMANDS; i++)
		infos[i].name = commands[i].name;
	cmd_query_commands_return_encode(infos, COMMANDS, &value);
	reply_return(core, call->asker, wire_buffer_bytes(&value));
	wire_buffer_done(&value);
}
