/* SPDX-License-Identifier: Apache-2.0 */
/* The process around the core: hands it what comes from sockets and clocks, and performs the effects that it asks for.
 *
 * The order is always the same: what is to be stored goes to the writer's thread as one batch; prompt effects leave at once; settled ones
 * leave when that batch and all before it are durable, in order.  The loop's thread never waits for the disk. */
#ifndef SLUICE_BROKER_BROKER_H
#define SLUICE_BROKER_BROKER_H

#include <stdint.h>

#include "broker/core/core.h"
#include "common/attributes.h"
#include "common/err.h"
#include "common/options.h"

struct broker;

struct broker_options {
	const struct option_list *commands, *events, *workers, *images; /* endpoints */
	const char *state; /* folder, locked by the caller */
	struct core_options core;
};

/* Opens the store, resumes what is in it, binds.  NULL and err where that is not possible. */
struct broker *broker_new(const struct broker_options *options, struct err *err);
void broker_free(struct broker *broker);
/* Serves until SIGTERM or SIGINT: 0, with everything durable and answered that was taken up.  -1 and err: the store failed. */
int MUST_CHECK broker_run(struct broker *broker, struct err *err);

#endif
