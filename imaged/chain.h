/* SPDX-License-Identifier: Apache-2.0 */
/* The leaf and the files under it, opened, locked and checked, from the leaf (0) to the bottom.
 *
 * Names come from headers, that is, from strangers: every file is opened beneath the roots (common/roots.h), its format is the
 * one the header above names, never probed; a loop, a chain longer than CHAIN_MAX and a layer without a format are refused. */
#ifndef SLUICE_IMAGED_CHAIN_H
#define SLUICE_IMAGED_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/attributes.h"
#include "common/err.h"
#include "common/roots.h"
#include "imaged/extent.h"
#include "imaged/layer.h"
#include "imaged/qcow2.h"

#define CHAIN_MAX 129 /* the leaf and 128 under it */

struct chain_layer {
	struct layer *layer;
	char *name;   /* owned: as the layer above calls it (the leaf: as attach was asked) */
	char *path;   /* owned: absolute, resolved */
	char *opened_as; /* owned: absolute, links not followed; what its header names is looked for from this folder */
	const char *format; /* "qcow2" or "raw" */
	dev_t device;
	ino_t inode;
	dev_t block_device; /* its own number where the file is a block device, else 0 */
	uint64_t size;           /* guest bytes of this layer's disk */
	int64_t mtime_ns;
};

struct chain {
	size_t count;
	struct chain_layer layers[CHAIN_MAX];
	struct qcow2 *leaf; /* layers[0]'s image if it is qcow2, else NULL (a raw leaf) */
	uint64_t size;      /* guest bytes */
	bool read_only;     /* as asked for, or a raw leaf whose format was not given */
};

/* `format` may be NULL: qcow2 by its magic, else raw and read-only.  `read_only`: the leaf gets a reader's locks.  The leaf is
 * not yet made writable (qcow2_make_writable).  0, or -1 and err (kind DEVICE_IN_USE where somebody else has it). */
int MUST_CHECK chain_open(const struct roots *roots, const char *file, const char *format, bool read_only,
	struct chain **ret_chain, struct err *err);
void chain_free(struct chain *chain); /* closes and unlocks all; NULL is fine */

/* Which layer a user means with `name`: the string in the chain, else a path from the leaf's folder, else the same file (device and
 * inode).  The index (1 and up; the leaf is no base), or -1 and err of kind BASE_NOT_FOUND. */
int MUST_CHECK chain_find(const struct chain *chain, const char *name, struct err *err);

/* One extent of layers [first, end) at `offset`, at most `length` bytes: what a reader of layer `first` sees if the chain ended
 * at `end`; kind ABSENT where none of them holds it.  A layer that ends before the offset reads as zeroes there and hides what
 * is below: ZERO with past_end. */
int MUST_CHECK chain_map(struct chain *chain, size_t first, size_t end, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err);

/* Whether two layers are one file. */
bool chain_same_file(const struct chain_layer *layer, const struct stat *status);

/* Closes layers [1, end) and lets the rest move up; the first of them is called `name` from then on.  Nobody may be reading
 * meanwhile.  The files of the rest stay open and locked. */
void chain_drop(struct chain *chain, size_t end, const char *name);

#endif
