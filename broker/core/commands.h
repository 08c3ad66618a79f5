/* SPDX-License-Identifier: Apache-2.0 */
/* The public commands: bytes of anybody come in, one reply goes out, at once or when an imaged
 * has answered. */
#ifndef SLUICE_BROKER_CORE_COMMANDS_H
#define SLUICE_BROKER_CORE_COMMANDS_H

#include "broker/core/replies.h"
#include "broker/core/state.h"

/* A request whose envelope is read. */
struct call {
	struct asker asker;
	struct wire_bytes arguments; /* a packed map */
	struct wire_bytes request;   /* all of it */
};

typedef void command_run(struct core *core, const struct call *call);

/* commands.c */
void client_request(struct core *core, uint64_t client, const void *bytes, size_t length);
/* The arguments are no good: answers so. */
void call_refuse_arguments(
	struct core *core, const struct call *call, const char *argument, const struct err *err);

/* commands_jobs.c */
command_run command_block_stream, command_block_job_cancel, command_block_job_set_speed;
/* commands_devices.c */
command_run command_device_attach, command_device_detach;
/* commands_queries.c */
command_run command_query_block_jobs, command_query_devices, command_query_workers,
	command_query_events, command_query_status, command_query_version, command_query_commands;
/* commands_images.c: questions that an imaged answers */
command_run command_query_stream_plan, command_query_allocation;

void query_free(struct core *core, struct query *query);
/* A take-over: the other imaged has the device open. */
void query_attached(struct core *core, struct query *query, struct imaged *imaged,
	const struct device_state *state);
void query_planned(struct core *core, struct query *query, const struct msg_planned *planned);
/* -1 and err: imaged is not to be believed; the query is answered all the same. */
int MUST_CHECK query_allocation_page(struct core *core, struct query *query, struct imaged *imaged,
	struct guest_range asked, const struct msg_allocation_page *page, struct err *err);
void query_refused(struct core *core, struct query *query, const struct msg_image_error *error);
void query_lost(struct core *core, struct query *query, const char *imaged);

#endif
