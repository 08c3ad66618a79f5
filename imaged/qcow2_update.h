/* SPDX-License-Identifier: Apache-2.0 */
/* The write side of a qcow2 leaf: makes it writable, hands out clusters, maps them, switches the header, closes cleanly.
 *
 * Invariant 4 (docs/architecture.md): nothing is pointed to on disk before it is durable itself.  Refcount block, then refcount
 * table, then header; L2 table, then L1; each behind an fdatasync of its own.  Refcounts are lowered only after the table that
 * forgot the cluster is durable.  A crash can leak clusters, never share them. */
#ifndef SLUICE_IMAGED_QCOW2_UPDATE_H
#define SLUICE_IMAGED_QCOW2_UPDATE_H

#include "imaged/qcow2.h"

struct cluster_run {
	uint64_t offset; /* host, cluster-aligned */
	uint64_t length; /* bytes, a multiple of the cluster size */
};

/* After qcow2_open with a descriptor open for writing and the file locks held: repairs a dirty image, marks persistent
 * bitmaps in-use, loads the refcount table, notes leaked zones for reclaiming.  0, or -1 and err. */
int MUST_CHECK qcow2_make_writable(struct qcow2 *image, struct err *err);
/* Frees what the write side has in memory, writes nothing: for qcow2_free, and where making it writable failed. */
void qcow2_stop_writing(struct qcow2 *image);

/* Clusters for `bytes` (a multiple of the cluster size), as few runs as possible, at most `runs_max`; they are on disk as in use
 * (refcount 1, flushed), preallocated, and nothing refers to them.  Gives what it can: *ret_runs may cover less than asked
 * for, but at least one cluster.  0, or -1 and err (number ENOSPC where the file system is full). */
int MUST_CHECK qcow2_reserve(struct qcow2 *image, uint64_t bytes, struct cluster_run *ret_runs,
	unsigned runs_max, unsigned *ret_count, struct err *err);
/* The same, but that they are counted in the file is not known to be durable: for clusters whose entries are written behind a flush
 * (qcow2_write.h), and never for what another process writes. */
int MUST_CHECK qcow2_reserve_fresh(struct qcow2 *image, uint64_t bytes, struct cluster_run *ret_runs,
	unsigned runs_max, unsigned *ret_count, struct err *err);
void qcow2_release_fresh(struct qcow2 *image, uint64_t offset, uint64_t length);
/* Makes sure that L2 tables of our own (refcount 1: a shared one is copied first) serve the guest range, with one flush
 * for all of them: so that a later map only writes entries. */
int MUST_CHECK qcow2_prepare_tables(
	struct qcow2 *image, uint64_t offset, uint64_t length, struct err *err);
/* Gives reserved clusters back to the zone they came from; only when nobody can write to them any more. */
void qcow2_release(struct qcow2 *image, uint64_t offset, uint64_t length);

/* Points guest clusters [offset, offset+length) at reserved, durable host clusters, but only those that the leaf still does not
 * have (L2 entry unallocated and not zero) and no guest is writing (qcow2_write.h).  `skip(owner, guest_offset)` true: leave this cluster out too (touched since).
 * *ret_mapped: bytes mapped; the host clusters of the others are NOT released.  `mapped_bitmap` (one bit a cluster from
 * `offset`, may be NULL) says which.  Takes the lock. 0, or -1 and err (then the image has failed). */
typedef bool qcow2_skip(void *owner, uint64_t guest_offset);
int MUST_CHECK qcow2_map_clusters(struct qcow2 *image, uint64_t offset, uint64_t length,
	uint64_t host_offset, qcow2_skip *skip, void *owner, uint64_t *ret_mapped,
	unsigned char *mapped_bitmap, struct err *err);
/* Makes still-unallocated guest clusters explicit zeroes (version 3 only).  Same outcome. */
int MUST_CHECK qcow2_map_zeroes(struct qcow2 *image, uint64_t offset, uint64_t length,
	qcow2_skip *skip, void *owner, uint64_t *ret_mapped, struct err *err);

/* With the lock held: writes entries [first, first+count) of a table of our own, and what is cached of them; `entries` (host order)
 * are changed to the file's order.  A failure fails the image. */
int MUST_CHECK qcow2_write_entries(struct qcow2 *image, uint64_t table_offset, uint64_t first,
	uint64_t count, uint64_t *entries, struct err *err);

/* fdatasync of everything written so far; a failure fails the image. */
int MUST_CHECK qcow2_flush(struct qcow2 *image, struct err *err);

/* Whether the header can name this backing file and format later with one 512-byte write; 0, or -1 and err (room, no end
 * marker, format extension in another sector).  Empty name: none.  The room is kept free for the last one that was asked for. */
int MUST_CHECK qcow2_check_backing(
	struct qcow2 *image, const char *name, const char *format, struct err *err);
/* Writes it: the string beside the old one, flush, one 512-byte write of offset, size and format, flush.  Idempotent. */
int MUST_CHECK qcow2_switch_backing(
	struct qcow2 *image, const char *name, const char *format, struct err *err);

/* Gives idle zone space back (refcounts lowered, the file cut) and reclaims named leaks if `may_reclaim`: no worker of an earlier
 * life of this image can write any more.  Called at finish, idle and close; no guest may begin to write meanwhile (qcow2_writes_begin). */
int MUST_CHECK qcow2_trim(struct qcow2 *image, bool may_reclaim, struct err *err);

#endif
