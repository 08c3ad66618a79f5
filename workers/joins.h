/* SPDX-License-Identifier: Apache-2.0 */
/* The leaves that this worker may write to.
 *
 * A join is one open file description of the leaf, with lock bytes on it that tell imaged, and QEMU's programs, that somebody may
 * still write, and the files below it opened for reading.  A leaf is never opened by path again under a lease, and let go only
 * when nothing is being copied into it: so a path that leads elsewhere by now can't lead a late write astray. */
#ifndef SLUICE_WORKERS_JOINS_H
#define SLUICE_WORKERS_JOINS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "common/roots.h"
#include "schemas/worker_broker.gen.h"
#include "workers/copy_run.h"

#define JOINS_MAX 4096 /* as many as a hello can name */

struct join {
	uint64_t id;
	char *device; /* for the log */
	struct copy_files files;
	size_t sources_count;
	uint32_t cluster_bytes;
	uint64_t device_number, inode; /* of the leaf, as found */
	size_t orders;		       /* in hand for this leaf; kept by the owner */
	bool is_leaving;	       /* to be closed when `orders` is 0; kept by the owner */
};

struct joins;

struct joins *joins_new(void);
void joins_free(struct joins *joins); /* closes all; NULL is fine */
/* Opens and locks as the message asks, and compares what it found with what imaged found.  0, or -1 and err (err.number:
 * the system's, or 0 where a file is not the one that was meant).  The id must not be known yet. */
int MUST_CHECK joins_open(struct joins *joins, const struct roots *roots,
	const struct msg_join *message, struct join **ret_join, struct err *err);
/* NULL: not known. */
struct join *joins_find(const struct joins *joins, uint64_t id);
/* Closes its files; no order may be in hand for it. */
void joins_close(struct joins *joins, struct join *join);
size_t joins_count(const struct joins *joins);
struct join *joins_at(const struct joins *joins, size_t index);

#endif
