/* SPDX-License-Identifier: Apache-2.0 */
/* Space for new clusters: zones at the end of the file.
 *
 *                      outstanding: counted as in use on disk, nothing refers to it
 *   | mapped | mapped | reserved | free | mapped | reserved | free    free    free | end of the file
 *            |<---------------- zone ----------------->|<------- zone ------>|
 *
 * Invariants: a cluster is handed to a worker only after its count of 1 is durable; its space is preallocated.  A zone is
 * known, and named in the header's hint (qcow2_hint.c), as long as one of its clusters is outstanding.  The free sets, the
 * zones and `end` are guarded by the image's lock; they change only with the structure lock (qcow2_head.h) held as well, but
 * for clusters going in and out of the free sets and for fresh zones.
 *
 * Making such a zone flushes twice, without the image's lock, and each flush takes all that a guest has written along.  For
 * guests' clusters and for L2 tables there are fresh zones: their counts are written and not flushed.  That is enough, since
 * their entries reach the file only behind a flush (qcow2_write_back.c, qcow2_tables.c), which makes the counts durable too.
 * The hint names the file's end some way ahead, and refcount blocks are made so far, so that neither is flushed for each of
 * them.  The next flush, whatever for, makes them like the others.  A fresh zone is made without the structure lock, which
 * others hold across flushes: no guest waits for those as long as what was named ahead lasts, and it is named anew when half
 * of it is used up. */
#ifndef SLUICE_IMAGED_QCOW2_ZONE_H
#define SLUICE_IMAGED_QCOW2_ZONE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"
#include "imaged/qcow2_head.h"
#include "imaged/run_set.h"

#define ZONE_BYTES_MIN	  (UINT64_C(1) << 20)
#define ZONE_BYTES_MAX	  (UINT64_C(256) << 20)
#define ZONE_CLUSTERS_MIN 4

struct zone {
	uint64_t first, end;  /* clusters */
	uint64_t outstanding; /* of them are free or reserved */
	bool is_settling; /* all mapped before the flush that is under way: to be forgotten after it */
};

struct qcow2_zones {
	struct run_set free; /* counted durably */
	/* Counted, not known to be durable: for clusters whose entries are written behind a flush. */
	struct run_set fresh;
	/* Cluster: the hint names what lies between `end` and here, durably; 0: it does not. */
	uint64_t named_until;
	struct zone *zones; /* owned; ascending */
	size_t count, capacity;
	/* Held by who moves `end` up; between the structure lock and the image's. */
	pthread_mutex_t end_lock;
	uint64_t end;	/* cluster: the next zone begins here; the file's end */
	uint64_t begin; /* cluster: where the first zone of this life could begin */
	uint64_t floor; /* cluster: the file may be cut down to here */
	uint64_t next_bytes;
	uint64_t last_clusters; /* of the zone that was made last */
	bool is_tight;		/* the file system was full when a zone was last made ahead */
	/* Leaks that somebody left behind: of an earlier life of the image, and of a crash that may come. */
	struct zone_window *left_behind; /* owned */
	unsigned left_behind_count;
	/* Where counts are lowered about now, and were before the flush that is under way. */
	struct zone_window passing[ZONE_WINDOWS_MAX + 1], settling[ZONE_WINDOWS_MAX];
	unsigned passing_count, settling_count;
	unsigned lowering; /* callers between qcow2_zone_expect_leaks and qcow2_zone_leaks_over */
};

int MUST_CHECK qcow2_zones_load(struct qcow2 *image, struct err *err);
void qcow2_zones_free(struct qcow2_zones *zones);

/* What is needed of a zone's clusters. */
enum zone_kind { ZONE_DURABLE, ZONE_FRESH };

/* ---- making zones: qcow2_zone_make.c */

/* Clusters into the free set of the image, at least `want` in a row if the file system has them, at least one; into the fresh ones
 * if they will do and can be made so.  0, or -1 and err (number ENOSPC, kind NO_SPACE where the file system is full).  No lock
 * held. */
int MUST_CHECK qcow2_zone_make(
	struct qcow2 *image, uint64_t want, enum zone_kind kind, struct err *err);
/* Makes the next zone where less than half of the last one is free.  Only that the image failed is a failure here.  No lock held. */
int MUST_CHECK qcow2_zone_make_ready(struct qcow2 *image, enum zone_kind kind, struct err *err);
/* The same for what the hint names ahead, where less than half of that is left. */
int MUST_CHECK qcow2_zone_look_ahead(struct qcow2 *image, struct err *err);
/* Whether one of the two has something to do. */
bool qcow2_zone_wanted(struct qcow2 *image);

/* ---- the sets */

/* With the image's lock held.  All of [first, end) is counted once, and free to use. */
void qcow2_zone_add(struct qcow2 *image, uint64_t first, uint64_t end, enum zone_kind kind);

/* With the image's lock held.  Whether `clusters` can be had without a new zone in one run, or else in a few large ones. */
bool qcow2_zone_can_serve(
	struct qcow2 *image, uint64_t clusters, unsigned runs_max, enum zone_kind kind);
/* With the image's lock held. Takes up to `count` clusters in a row out of a free set that will do; 0 where it has none. */
uint64_t qcow2_zone_take(
	struct qcow2 *image, uint64_t count, enum zone_kind kind, uint64_t *ret_first);
/* With the image's lock held.  Around a flush: what was fresh before it is durable after it. */
void qcow2_zone_before_flush(struct qcow2 *image, struct run_set *ret_fresh);
void qcow2_zone_after_flush(struct qcow2 *image, struct run_set *fresh);
/* With the image's lock held: all is to be treated alike, because it will be counted as free. */
void qcow2_zone_end_freshness(struct qcow2 *image);
/* These clusters are referred to from now on. */
void qcow2_zone_mapped(struct qcow2 *image, uint64_t first, uint64_t count);
/* The same for one cluster that may be of no zone: found in the log of an earlier life. */
void qcow2_zone_mapped_if_known(struct qcow2 *image, uint64_t cluster);
/* With the structure lock held too.  These clusters, counted once, lost their last reference, and what they held is gone: they are fresh
 * ones of the zones from now on.  A zone may grow over clusters that are in use: those do not count in it. */
void qcow2_zone_take_back(struct qcow2 *image, uint64_t first, uint64_t count);
/* These clusters of the free set are no part of a zone any more. */
void qcow2_zone_shed(struct qcow2 *image, uint64_t first, uint64_t count);
/* The next zone begins here; what zones had behind it has left them. */
void qcow2_zone_end_at(struct qcow2 *image, uint64_t end);

/* With the structure lock held, around qcow2_zone_write_hint, and when the counts are lowered: a crash in between leaves leaks
 * in this window. */
void qcow2_zone_expect_leaks(struct qcow2 *image, uint64_t offset, uint64_t length);
void qcow2_zone_leaks_over(struct qcow2 *image);
/* With the structure lock held: names in the header all that may leak, and `more` (may be NULL).  The caller flushes. */
int MUST_CHECK qcow2_zone_write_hint(
	struct qcow2 *image, const struct zone_window *more, struct err *err);
/* With the structure lock held, before and after a flush: what is durable by it need not be named any more. */
void qcow2_zone_begin_settling(struct qcow2 *image);
void qcow2_zone_settled(struct qcow2 *image);

#endif
