/* SPDX-License-Identifier: Apache-2.0 */
/* Starts a broker, an imaged and workers as children, and ends them.
 *
 * The programs are those beside our own executable.  Each says that it is ready before spawn_new returns; all get SIGTERM from
 * the kernel when we die, whatever we die of.  Private ones work in a temporary folder of their own, with what they log in a
 * file there, and nothing of them is left behind. */
#ifndef SLUICE_CLIENTS_SPAWN_H
#define SLUICE_CLIENTS_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clients/watch.h"
#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "common/options.h"

#define SPAWN_WORKERS_MAX 64

struct spawn;

struct spawn_options {
	bool is_private; /* a temporary folder; else the run and state directories of this user */
	uint64_t workers;
	const struct option_list *roots;   /* for workers and imaged */
	const struct option_list *devices; /* NAME=FILE for imaged; NULL: none */
};

/* Adds the children to `watch`; it and the lists outlive them.  NULL and err: what did not start, and why in its own words. */
struct spawn *spawn_new(const struct spawn_options *options, struct watch *watch, struct err *err);
/* Ends the children in order (workers, imaged, broker), kills what does not end, removes the folder. */
void spawn_free(struct spawn *spawn); /* NULL is fine */
DEFINE_CLEANUP(spawn, spawn_free)

/* The run directory of private ones; NULL otherwise. */
const char *spawn_run_dir(const struct spawn *spawn);
/* After WATCH_CHILD: puts a new worker in the place of each that ended.  0; or -1 and err: another process ended, or workers end
 * again and again. */
int MUST_CHECK spawn_mend(struct spawn *spawn, struct err *err);
/* Says in err which child ended, with the last line that it logged.  Returns -1. */
int spawn_describe_end(struct spawn *spawn, struct err *err);

#endif
