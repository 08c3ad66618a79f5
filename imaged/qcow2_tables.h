/* SPDX-License-Identifier: Apache-2.0 */
/* Which L2 tables are the active disk's own, so that their entries may be written in place.
 *
 * The flag in an L1 entry is not believed: a table is owned once its count was read and is 1, or once it was made here. */
#ifndef SLUICE_IMAGED_QCOW2_TABLES_H
#define SLUICE_IMAGED_QCOW2_TABLES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "imaged/qcow2.h"

struct qcow2_tables {
	/* Held by whoever makes or copies tables, across flushes; taken before the structure lock and the image's. */
	pthread_mutex_t lock;
	unsigned char *owned; /* owned; a bit an L1 entry; guarded by the image's lock */
};

void qcow2_tables_load(struct qcow2 *image);
void qcow2_tables_free(struct qcow2_tables *tables);
/* As qcow2_prepare_tables(), for the tables of these L1 entries, which ascend.  *ret_has_flushed: all that was written before the
 * call is durable, since a table was made. */
int MUST_CHECK qcow2_prepare_listed_tables(struct qcow2 *image, const uint64_t *indices,
	uint64_t count, bool *ret_has_flushed, struct err *err);
/* With the image's lock held. */
bool qcow2_table_is_owned(const struct qcow2 *image, uint64_t l1_index);

#endif
