/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of `sluice`, and what all of them do alike.  Each parses its own options (status 2 for wrong usage), and returns
 * the exit status: 0 done, 1 it failed and one line on stderr has said why. */
#ifndef SLUICE_CLIENTS_COMMAND_H
#define SLUICE_CLIENTS_COMMAND_H

#include <jansson.h>

#include "clients/connection.h"
#include "common/attributes.h"

int command_stream(int argc, char **argv);
int command_up(int argc, char **argv);
int command_block_stream(int argc, char **argv);
int command_cancel(int argc, char **argv);
int command_set_speed(int argc, char **argv);
int command_jobs(int argc, char **argv);
int command_devices(int argc, char **argv);
int command_attach(int argc, char **argv);
int command_detach(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_map(int argc, char **argv);
int command_workers(int argc, char **argv);
int command_status(int argc, char **argv);
int command_events(int argc, char **argv);
int command_call(int argc, char **argv);

/* Prints "sluice: ..." on stderr and returns 1. */
int command_fail(const char *format, ...) PRINTF_LIKE(1, 2);

/* Shows what a command returned; `owner` is whatever the caller handed over. */
typedef void command_show(const json_t *returned, void *owner);
/* The whole of a simple command: connects, asks, shows (or prints the reply, with --json).  Takes over `arguments`. */
int command_ask_and_show(const struct connection_settings *settings, const char *command,
	json_t *arguments, command_show *show, void *owner);

#endif
