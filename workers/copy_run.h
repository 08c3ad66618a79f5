/* SPDX-License-Identifier: Apache-2.0 */
/* Carries out one copy order on the calling thread, from the first read to the flush.
 *
 * It can be stopped between two writes, and tells how far it is while it runs.  It sends nothing and logs nothing: what
 * became of the order stands in the outcome. */
#ifndef SLUICE_WORKERS_COPY_RUN_H
#define SLUICE_WORKERS_COPY_RUN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "workers/copy_order.h"

/* A thread's buffers and decompressors. */
struct copy_machine;

#define COPY_BUFFER_BYTES_DEFAULT ((size_t)1 << 20)

/* Moves about `buffer_bytes` at a time.  Ends the process where there is no memory. */
struct copy_machine *copy_machine_new(size_t buffer_bytes);
void copy_machine_free(struct copy_machine *machine); /* NULL is fine */

struct copy_file {
	int fd;
	const char *path; /* for messages */
};

/* The files of an order; they stay open until the run has ended. */
struct copy_files {
	struct copy_file leaf;
	const struct copy_file *sources;
};

/* Shared with the thread that watches. */
struct copy_control {
	atomic_bool stop;		 /* set by the watcher */
	atomic_uint_fast64_t bytes_done; /* of the range; set by the run, only rises */
};

enum copy_end {
	COPY_END_COPIED,  /* in its place and durable */
	COPY_END_STOPPED, /* told to stop; nothing is written any more */
	COPY_END_FAILED,  /* nothing is written any more */
};

#define COPY_ZEROES_MAX \
	2048 /* as many as a report can hold; further zeroes are written like data */

struct copy_outcome {
	enum copy_end end;
	uint64_t bytes_written;
	struct guest_range zeroes
		[COPY_ZEROES_MAX]; /* clusters not written, relative to the range, ascending */
	size_t zeroes_count;
	struct { /* only when it failed */
		enum operation operation;
		const char *path;      /* one of copy_files */
		uint64_t guest_offset; /* of the first byte concerned */
		uint64_t length;
		struct err err; /* err.number is never 0 */
	} failure;
};

void copy_run(struct copy_machine *machine, const struct copy_order *order,
	const struct copy_files *files, struct copy_control *control,
	struct copy_outcome *ret_outcome);

#endif
