/* SPDX-License-Identifier: Apache-2.0 */
/* Every reference that an image holds to its clusters, named one by one: header, L1 and L2 tables, guest clusters, snapshots,
 * refcount table and blocks, bitmaps.  Reads the file, changes nothing, keeps one table in memory at a time. */
#ifndef SLUICE_IMAGED_QCOW2_WALK_H
#define SLUICE_IMAGED_QCOW2_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"

enum reference_kind {
	REFERENCE_METADATA,   /* must be the only reference to its clusters */
	REFERENCE_L2_TABLE,   /* once a tree */
	REFERENCE_CLUSTER,    /* a guest's cluster, once a tree */
	REFERENCE_COMPRESSED, /* as often as it likes */
};
const char *reference_kind_name(enum reference_kind kind);

struct reference {
	enum reference_kind kind;
	uint32_t tree;		 /* 0: the active disk; from 1: snapshots; for metadata 0 */
	uint64_t offset, length; /* bytes of the file */
};

typedef int reference_seen(void *owner, const struct reference *reference, struct err *err);

/* -1 and err where the image is corrupt (a reference that is not aligned or outside the file, a table that makes no sense), cannot
 * be read, or where `seen` said so.  With `takes_faults` an entry that cannot be is a reference like the others, to as much of the file
 * as it names: that way nothing that is used by somebody is taken for free.  No lock may be held.  Tables may be added to L1 and
 * entries to L2 tables meanwhile; whether they are seen is open. */
int MUST_CHECK qcow2_walk(struct qcow2 *image, bool takes_faults, reference_seen *seen,
	void *owner, struct err *err);

#endif
