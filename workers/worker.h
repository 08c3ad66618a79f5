/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's side of the conversation with the broker: who it is, which leaves it joined, which orders it holds, what it has
 * to report.  Runs on the main thread; never waits for a disk but where it opens files for a join. */
#ifndef SLUICE_WORKERS_WORKER_H
#define SLUICE_WORKERS_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "common/loop.h"
#include "common/mq.h"
#include "common/roots.h"

struct worker;

struct worker_options {
	const char *endpoint;
	const char *name;
	const char *realm;
	const char *host;
	const char *boot_id;
	uint64_t slots;
};

/* All of these must outlive the worker.  NULL and err where the socket or the threads can't be made. */
struct worker *worker_new(const struct worker_options *options, const struct roots *roots,
	struct mq *mq, struct loop *loop, struct err *err);
/* Abandons what hangs; ends the rest. */
void worker_free(struct worker *worker);

/* Takes no more orders and gives the ranges five seconds; then, or as soon as all is reported, stops the loop. */
void worker_begin_goodbye(struct worker *worker);
/* Whether the broker refused this worker; the loop has been stopped then, and `err` says why. */
bool worker_is_refused(const struct worker *worker, struct err *err);

#endif
