/* SPDX-License-Identifier: Apache-2.0 */
/* A copy order that was found to be sound, as a copy of its own: the message it came in may go.
 *
 *   sources       |--plain--|zero|-deflate-|----plain----|     pieces of any length, without a gap
 *   guest bytes   [offset .......................... offset + length)
 *   destinations  |----cluster run----|-------cluster run---|  whole clusters of the leaf's file
 */
#ifndef SLUICE_WORKERS_COPY_ORDER_H
#define SLUICE_WORKERS_COPY_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "schemas/worker_broker.gen.h"

/* More than one order ever carries; bounds what a stray number can make a thread do. */
#define COPY_ORDER_BYTES_MAX ((uint64_t)4 << 30)

struct copy_order {
	uint64_t lease;
	uint64_t join;
	uint64_t guest_offset; /* for messages only */
	uint64_t length;       /* bytes that both lists yield, a multiple of cluster_bytes */
	uint32_t cluster_bytes;
	bool detect_zeroes;
	struct source_extent *sources;
	size_t sources_count;
	struct destination_extent *destinations;
	size_t destinations_count;
};

/* What the join says about its leaf. */
struct copy_order_frame {
	uint32_t cluster_bytes; /* a power of two */
	size_t files_count;	/* sources that the join opened */
};

/* 0, or -1 and err with what is unsound: lists that do not yield the same bytes, a piece or cluster outside its file's
 * possible range, clusters that overlap or that hold the header, a file that was not joined. */
int MUST_CHECK copy_order_new(const struct msg_copy_order *message,
	const struct copy_order_frame *frame, struct copy_order **ret_order, struct err *err);
void copy_order_free(struct copy_order *order); /* NULL is fine */
DEFINE_CLEANUP(copy_order, copy_order_free)

#endif
