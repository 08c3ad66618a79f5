/* SPDX-License-Identifier: Apache-2.0 */
/* What a writable image's own tables say is believed only so far: they are a stranger's bytes, and a guest's write goes where they
 * point.
 *
 * Invariants: what lies at or behind the end that the file had when it was opened is named by nobody but this process: a table of
 * the file that names such a place is refused when it is first used, whole: which of its entries this process made later could not be
 * told.  No entry of a guest cluster leads into an L1 or L2 table of the active disk, into the table or a block of counts, into the
 * header or the beginning of the snapshots' table: nothing there is written, counted lower or punched on a guest's behalf. */
#ifndef SLUICE_IMAGED_QCOW2_VET_H
#define SLUICE_IMAGED_QCOW2_VET_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"

struct qcow2_vet {
	uint64_t *tables; /* owned; host clusters of L2 tables and refcount blocks as they were found, ascending */
	size_t count;
	unsigned char *vetted; /* owned; a bit an L1 entry */
};

/* With all of the write side loaded, before anything is written.  0, or -1 and err. */
int MUST_CHECK qcow2_vet_load(struct qcow2 *image, struct err *err);
void qcow2_vet_free(struct qcow2_vet *vet);

/* With the lock held: the table of this L1 entry, as it was read.  0, or -1 and err. */
int MUST_CHECK qcow2_vet_table(
	struct qcow2 *image, uint64_t index, const uint64_t *table, struct err *err);
/* With the lock held: this table was made here. */
void qcow2_vet_made(struct qcow2 *image, uint64_t index);
/* With the lock held: whether a guest's write may change what this entry names. 0, or -1 and err. */
int MUST_CHECK qcow2_vet_entry(struct qcow2 *image, uint64_t entry, struct err *err);

#endif
