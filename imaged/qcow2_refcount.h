/* SPDX-License-Identifier: Apache-2.0 */
/* The reference counts of a writable image: the table in memory, the blocks through a small write-through cache of pages.
 *
 * Invariant: what is in memory is in the file already (page cache); a failed write fails the image.  Nothing here flushes:
 * the order in which things become durable is the callers' (qcow2_zone.c, qcow2_repair.c).  Cluster numbers, not offsets, are
 * what these functions take.  All but load, free and the packing want the image's lock held. */
#ifndef SLUICE_IMAGED_QCOW2_REFCOUNT_H
#define SLUICE_IMAGED_QCOW2_REFCOUNT_H

#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"
#include "imaged/run_set.h"

#define REFCOUNT_PAGES	   64
#define REFCOUNT_PAGE_SIZE 4096

struct qcow2_refcounts {
	uint64_t *table; /* owned; host byte order, offsets of the blocks, 0 where there is none */
	uint64_t entries;
	unsigned order;		/* width is 1 << order bits */
	uint64_t block_entries; /* clusters counted by one block */
	uint64_t most;		/* the highest count of this width */
	size_t page_size;	/* bytes: a cluster, at most REFCOUNT_PAGE_SIZE */
	struct refcount_page {
		uint64_t offset; /* in the file; 0: empty */
		unsigned char bytes[REFCOUNT_PAGE_SIZE];
	} pages[REFCOUNT_PAGES];
};

/* PURE: entry number `index` of a block's bytes, of 1 << order bits. */
uint64_t refcount_unpack(const unsigned char *block, unsigned order, uint64_t index);
void refcount_pack(unsigned char *block, unsigned order, uint64_t index, uint64_t value);

/* Reads the table and sets image->refcounts.  A block that is not aligned or lies outside the file is corruption. */
int MUST_CHECK qcow2_refcounts_load(struct qcow2 *image, struct err *err);
void qcow2_refcounts_free(struct qcow2_refcounts *refcounts);

/* A cluster without a block has count 0. */
int MUST_CHECK qcow2_refcount_read(
	struct qcow2 *image, uint64_t cluster, uint64_t *ret_count, struct err *err);
int MUST_CHECK qcow2_refcount_read_many(
	struct qcow2 *image, uint64_t first, uint64_t count, uint64_t *ret_counts, struct err *err);
/* Sets all counts of a range; where a block is missing only 0 may be set. */
int MUST_CHECK qcow2_refcount_write(
	struct qcow2 *image, uint64_t first, uint64_t count, uint64_t value, struct err *err);
/* The same for ascending runs, with one write for those that are close together. */
int MUST_CHECK qcow2_refcount_write_runs(
	struct qcow2 *image, const struct run *runs, size_t count, uint64_t value, struct err *err);
/* One reference less. */
int MUST_CHECK qcow2_refcount_lower(struct qcow2 *image, uint64_t cluster, struct err *err);
/* One past the last cluster whose count is not 0. */
int MUST_CHECK qcow2_refcounts_end(struct qcow2 *image, uint64_t *ret_cluster, struct err *err);
/* The table's entries [first, first+count) as they are in memory, written to the file. */
int MUST_CHECK qcow2_refcount_table_write(
	struct qcow2 *image, uint64_t first, uint64_t count, struct err *err);

/* The image has failed; for a metadata write that did not work.  -1, and err has the system's words, but always EIO. */
int qcow2_fail(struct qcow2 *image, int number, const char *what, struct err *err);
/* The same where the reason is known already. */
void qcow2_mark_failed(struct qcow2 *image);
/* For who comes later. -1 and err. */
int qcow2_say_failed(const struct qcow2 *image, struct err *err);

/* How a range at the end of the file gets its counts, and what else is needed for that (qcow2_refcount_grow.c).
 *
 *   first                                     usable            end
 *   | new blocks ... | new table, if needed | clusters to use ... |
 *
 * Steps, each durable before the next: new blocks and table are written; the counts of the range in old blocks, which may be
 * those of the new blocks; the entries of new blocks in the table, or, if it is new, the header's pointer to it.  The second
 * and third are one where no new block is counted by an old one. */
struct refcount_growth {
	uint64_t first, usable, end; /* clusters; all of [first, end) get count 1 */
	uint64_t ahead;		 /* clusters behind `end` that get blocks as well, and count 0 */
	uint64_t blocks;	 /* new blocks, the first at `first` */
	uint64_t table_clusters; /* of a new, larger table; 0: the old one stays */
	uint64_t table_entries;
	const uint64_t
		*extra; /* numbers of missing blocks below `first` to be made too, ascending */
	size_t extra_count;
};

struct refcount_wish {
	uint64_t first, want, ahead;
	const uint64_t *extra; /* as in struct refcount_growth; borrowed as long as that is used */
	size_t extra_count;
};

/* PURE but for image->refcounts: the layout for `want` usable clusters from `first` on. */
int MUST_CHECK qcow2_refcount_plan(const struct qcow2 *image, const struct refcount_wish *wish,
	struct refcount_growth *ret_growth, struct err *err);
/* Takes the steps, without the image's lock but with the structure lock held (qcow2_head.h); on failure after the first of them
 * the image has failed.  The counts of an old table are lowered. */
int MUST_CHECK qcow2_refcount_grow(
	struct qcow2 *image, struct refcount_growth *growth, struct err *err);

#endif
