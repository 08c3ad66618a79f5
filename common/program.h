/* SPDX-License-Identifier: Apache-2.0 */
/* The common start and end of a process. */
#ifndef SLUICE_COMMON_PROGRAM_H
#define SLUICE_COMMON_PROGRAM_H

#include <stddef.h>

#include "common/attributes.h"
#include "common/err.h"

/* First thing in main, before any thread: blocks SIGTERM and SIGINT (the loop reads them), ignores
 * SIGPIPE and SIGXFSZ, raises RLIMIT_NOFILE to its hard limit, and, where SLUICE_EXIT_WITH_PARENT
 * is set in the environment (to the parent's pid, so that a parent that is gone already is noticed,
 * or to any word), asks the kernel for SIGTERM when the thread that started us ends. */
void program_start(void);

/* The run directory R: $SLUICE_RUN_DIR, else /run/sluice for root, else $XDG_RUNTIME_DIR/sluice.
 * The state directory S likewise.  0, or -1 and err.  Neither is created. */
int MUST_CHECK program_run_dir(char *buffer, size_t size, struct err *err);
int MUST_CHECK program_state_dir(char *buffer, size_t size, struct err *err);
/* "ipc://R/<name>". */
int MUST_CHECK program_endpoint(char *buffer, size_t size, const char *name, struct err *err);
/* Creates the folder (and missing parents, 0755) with mode 0750 if it is not there.  0, or -1 and
 * err. */
int MUST_CHECK program_make_dir(const char *folder, struct err *err);
/* Creates and locks FOLDER/<name>.lock for the life of the process (flock).  1: somebody else holds
 * it. -1 and err. */
int MUST_CHECK program_lock_dir(const char *folder, const char *name, struct err *err);
/* 1 if the endpoint is ipc, inproc or loopback tcp ("tcp://127.…", "tcp://[::1]…",
 * "tcp://localhost…"), else 0. */
int program_endpoint_is_local(const char *endpoint);

/* Says "READY=1" to the supervisor where NOTIFY_SOCKET is set (sd_notify(3) protocol, abstract
 * sockets too). */
void program_say_ready(void);

/* This machine's name (at most 64 bytes, made into a valid name) and the kernel's boot id. */
int MUST_CHECK program_host_name(char *buffer, size_t size, struct err *err);
int MUST_CHECK program_boot_id(char *buffer, size_t size, struct err *err);

#endif
