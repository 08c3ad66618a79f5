/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed number of threads that carry out copy orders, so that the thread that talks to the broker never waits for a
 * disk.  A thread that hangs in the kernel keeps its slot and nothing else.
 *
 *   main thread ──submit──▶ queue ──▶ thread: copy_run ──▶ finished ──descriptor readable──▶ main thread
 *
 * Everything here is called by the main thread. */
#ifndef SLUICE_WORKERS_COPY_THREADS_H
#define SLUICE_WORKERS_COPY_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "workers/copy_order.h"
#include "workers/copy_run.h"

struct copy_threads;

/* An order in these threads' hands.  Belongs to them from submit until it comes back from finished or withdraw. */
struct copy_task {
	struct copy_order *order;
	struct copy_files files;
	struct copy_control control;
	struct copy_outcome outcome; /* once it is finished */
	uint64_t microseconds;	     /* from taking it up to its end */
	struct copy_task *next;
};

/* Takes the order over.  What `files` points to must live as long as the task. */
struct copy_task *copy_task_new(struct copy_order *order, const struct copy_files *files);
void copy_task_free(struct copy_task *task); /* NULL is fine */

/* Starts the threads.  NULL and err where they can't be started. */
struct copy_threads *copy_threads_new(size_t slots, struct err *err);
/* Call when no task is out: ends the threads and waits for them. */
void copy_threads_free(struct copy_threads *threads);

void copy_threads_submit(struct copy_threads *threads, struct copy_task *task);
/* Takes back a task that no thread has taken up.  False: too late, it will come back as finished. */
bool copy_threads_withdraw(struct copy_threads *threads, struct copy_task *task);
/* A task that ended, or NULL. */
struct copy_task *copy_threads_finished(struct copy_threads *threads);
/* Readable while there may be a finished task; copy_threads_finished makes it quiet again. */
int copy_threads_descriptor(const struct copy_threads *threads);

#endif
