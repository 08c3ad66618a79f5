/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's changes to a writable leaf: where its bytes go, and which entries that needs.
 *
 *   begin: in place ──────────────────────────────▶ the caller writes the bytes; nothing else
 *      └── claimed: new clusters are needed ──────▶ the caller reserves them, writes them whole ──▶ end, or abandon
 *
 * Invariants:
 *  - A cluster whose entry is about to be changed by a guest is claimed from before its old content is read until its new
 *    entry is in effect.  Whoever wants to write there waits; a commit of a job leaves it out.  A claim is held across
 *    I/O, and nobody waits for a second claim with one in his hands.
 *  - New entries go into the pending map (qcow2_pending.h), never straight into the file.
 *  - A host cluster that lost its last reference is given out again, or given back, only after a grace period in which every
 *    request that could have looked it up has ended (invariant 9), and, where the file's tables named it, after the table that
 *    forgot it is durable.
 *
 * Any thread; each function takes the image's lock itself. */
#ifndef SLUICE_IMAGED_QCOW2_WRITE_H
#define SLUICE_IMAGED_QCOW2_WRITE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "imaged/qcow2.h"
#include "imaged/qcow2_pending.h"
#include "imaged/qcow2_update.h"
#include "imaged/run_set.h"

/* More clusters than this are never claimed at once, nor more bytes (but always one cluster). */
#define WRITE_CLUSTERS_MAX 256
#define WRITE_BYTES_MAX	   (UINT64_C(4) << 20)
/* So many runs of clusters that nothing refers to are remembered; what comes on top stays a leak (qemu-img check -r leaks). */
#define FORGOTTEN_MAX 262144

struct claim {
	struct claim *next;
	uint64_t first, end; /* guest clusters */
};

struct run_list {
	struct run *runs; /* owned */
	size_t count, capacity;
};
/* At the end; joined with the last one where it goes on there. */
void run_list_add(struct run_list *list, uint64_t first, uint64_t count);

/* New clusters on their way to the disk (qcow2_write_out.c), as pieces of the file.  Guarded by the image's lock, but for `fd`. */
struct write_out {
	int fd;		       /* the leaf's, of a description of its own; -1: nothing is sent */
	struct run_list noted; /* since it was last taken or flushed */
	uint64_t bytes;	       /* of the clusters noted */
	struct run_list taken; /* being sent: from run `next` on */
	size_t next;
	bool has_begun; /* since the last flush */
};

struct write_hooks {
	/* Something is to be done in the background: see qcow2_write_back.h.  Called with locks held.  May be NULL. */
	void (*wake)(void *owner);
	/* Returns when every request that was under way when it was called has ended.  Called without locks that a request takes.
	 * NULL: there are no requests but those of the caller. */
	void (*wait)(void *owner);
	/* The image has failed: what is in the slots is not to be believed any more.  Called with the image's lock held.  May be NULL. */
	void (*failed)(void *owner);
	void *owner;
};

struct qcow2_writes {
	struct claim *claims;
	pthread_cond_t released;
	struct run_set recycled;   /* never named by the file: back to the free set after a grace period */
	struct run_list forgotten; /* the tables that forgot them are durable: to be counted lower after one */
	unsigned announced;	   /* calls of qcow2_zone_expect_leaks that are to be ended then */
	atomic_bool has_unflushed; /* bytes or entries were written since a flush began */

	struct write_out out;

	pthread_mutex_t turn_lock; /* guards what follows: who writes back, and for whom */
	pthread_cond_t turned;
	bool is_running;
	uint64_t asked, done;
	pthread_mutex_t running; /* held while one writes back; before the tables' lock and the structure lock */

	pthread_mutex_t forgetting; /* held while what was forgotten is counted lower; before `running` */

	struct write_hooks hooks;
};

/* The image takes guests' writes from now on: what is not yet in the file stands in `slots` (PENDING_SLOTS of them, all free or
 * checked; they must outlive the image). */
void qcow2_writes_begin(
	struct qcow2 *image, struct pending_slot *slots, const struct write_hooks *hooks);
/* Frees what is in memory; nothing is written.  Nobody writes any more. */
void qcow2_writes_end(struct qcow2 *image);

struct write_step {
	uint64_t offset, length; /* guest bytes of this step, from the offset that was asked for */
	bool is_in_place;
	uint64_t host; /* in place: where `offset` is in the file */
	/* Not in place. */
	struct claim claim;
	uint64_t reused; /* host offset: the one cluster of the claim keeps its place, which holds nothing yet; 0: new ones */
};

/* What to do first about a write to these bytes (within the disk): one step, which may cover less.  Waits for claims, and for a
 * write-back where too much is pending.  0, or -1 and err (number: an errno). */
int MUST_CHECK qcow2_write_begin(struct qcow2 *image, uint64_t offset, uint64_t length,
	struct write_step *ret_step, struct err *err);
/* The first clusters of the claim have their bytes in these runs; the rest of it is given up.  0, or -1 and err: the image has failed. */
int MUST_CHECK qcow2_write_end(struct qcow2 *image, struct write_step *step,
	const struct cluster_run *runs, unsigned run_count, struct err *err);
/* Nothing is changed; a claim is given up, what was reserved for it is the caller's. */
void qcow2_write_abandon(struct qcow2 *image, struct write_step *step);

/* Makes whole guest clusters [first, first+count) explicit zeroes (version 3).  `keeps_space`: clusters stay allocated where they can.
 * 0, or -1 and err. */
int MUST_CHECK qcow2_write_zeroes(struct qcow2 *image, uint64_t first, uint64_t count,
	bool keeps_space, struct err *err);

/* Copy-on-read: puts a copy of what lies below the leaf, in a reserved host cluster, into effect, but only where the leaf still
 * has nothing and nobody is writing.  Whether it did; if not, the host cluster is the caller's. */
bool qcow2_write_keep(struct qcow2 *image, uint64_t cluster, uint64_t host);

/* With the lock held: a commit must leave this guest cluster alone. */
bool qcow2_write_is_under_way(const struct qcow2 *image, uint64_t cluster);

/* Bytes were written in place. */
static inline void qcow2_write_note(struct qcow2 *image)
{
	atomic_store_explicit(&image->writes->has_unflushed, true, memory_order_release);
}

#endif
