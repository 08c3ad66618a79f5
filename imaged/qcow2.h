/* SPDX-License-Identifier: Apache-2.0 */
/* An open qcow2 file: its header, its L1 table in memory, its L2 tables through a bounded cache.
 *
 * Invariant: when the lock is free the cache holds nothing that is not in the file.  Whoever changes an L2 table
 * (qcow2_write_entries(), the only writer) writes both with the lock held, and forgets the copy if the file could not be written; so
 * a process that dies loses nothing that it had acknowledged, and an entry can be dropped at any time.  `lock` guards everything in the struct; it is held across metadata I/O, never across data I/O. */
#ifndef SLUICE_IMAGED_QCOW2_H
#define SLUICE_IMAGED_QCOW2_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/extent.h"
#include "imaged/qcow2_header.h"
#include "imaged/run_set.h"

struct l2_cache;        /* qcow2_l2_cache.c */
struct qcow2_refcounts; /* qcow2_refcount.c; NULL where the file is open for reading */
struct qcow2_zones;     /* qcow2_zone.c; likewise */
struct qcow2_head;      /* qcow2_head.c; likewise */
struct qcow2_tables;    /* qcow2_tables.c; likewise */
struct qcow2_vet;       /* qcow2_vet.c; likewise */
struct qcow2_writes;    /* qcow2_write.c; NULL where no guest has written yet */
struct pending;         /* qcow2_pending.c; likewise */

struct qcow2 {
	pthread_mutex_t lock;
	int fd;         /* owned */
	uint64_t file_size; /* bytes, when last looked at: looked at again before anything is called outside the file */
	bool writable;
	pthread_mutex_t flush_lock; /* held across a flush: a failure is told once, to whoever asks first */
	bool failed;    /* a flush or metadata write failed: nothing more is written until it is opened anew (invariant 8) */
	char *path;     /* owned; for messages */
	struct qcow2_header header;
	uint64_t *l1;   /* host byte order, header.l1_entries long */
	struct l2_cache *l2;
	struct qcow2_refcounts *refcounts;
	struct qcow2_zones *zones;
	struct qcow2_head *head;
	struct qcow2_tables *tables;
	struct qcow2_vet *vet;
	struct qcow2_writes *writes;
	struct pending *pending; /* entries in effect that the file does not have yet: below, they count as the image's */
};

/* L1 and L2 entries, "Cluster mapping" of the specification. */
#define QCOW2_COPIED          (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED      (UINT64_C(1) << 62)
#define QCOW2_ZERO            (UINT64_C(1) << 0)
#define QCOW2_OFFSET_MASK     UINT64_C(0x00fffffffffffe00)

/* Opens what `fd` refers to (taken over, also on failure) and checks header, L1 and refcount table bounds; for a writer the
 * caller holds the file locks already and calls qcow2_make_writable next.  0, or -1 and err. */
int MUST_CHECK qcow2_open(int fd, const char *path, struct qcow2 **ret_image, struct err *err);
void qcow2_free(struct qcow2 *image); /* closes; writes nothing; NULL is fine */

/* What this file alone says of the guest bytes at `offset`: one extent, at most `length` bytes.  Takes the lock. */
int MUST_CHECK qcow2_map(struct qcow2 *image, uint64_t offset, uint64_t length, struct extent *ret_extent, struct err *err);

/* With the lock held: the entry in effect of this guest cluster; a host cluster in it is not checked. */
int MUST_CHECK qcow2_entry(struct qcow2 *image, uint64_t cluster, uint64_t *ret_entry, struct err *err);
/* The host clusters that an entry names, whether it may or not; none where it names nothing. */
struct run qcow2_entry_clusters(const struct qcow2 *image, uint64_t entry);
/* With the lock held: whether what the entry names can be a guest's: aligned, within the file, not in the header's tables. */
int MUST_CHECK qcow2_check_entry(struct qcow2 *image, uint64_t entry, struct err *err);

/* With the lock held: the L2 table, as the file has it, that serves `offset`, in host byte order, cluster_size/8 entries, through the cache; NULL
 * in *ret_table where L1 has none.  The pointer lives until the next call on this image. 0, or -1 and err (a table outside
 * the file or not cluster-aligned is corruption, named with its offset). */
int MUST_CHECK qcow2_l2_table(struct qcow2 *image, uint64_t offset, const uint64_t **ret_table, struct err *err);
/* With the lock held: forget what is cached of the table at this host offset / note that these entries changed in the file. */
void qcow2_l2_forget(struct qcow2 *image, uint64_t table_offset);
void qcow2_l2_changed(struct qcow2 *image, uint64_t table_offset, unsigned first, unsigned count, const uint64_t *entries);

#endif
