/* SPDX-License-Identifier: Apache-2.0 */
/* The file that the slots of pending writes (qcow2_pending.h) live in: in the run directory, on tmpfs, mapped by the one imaged
 * that has the leaf.  It outlives the process, not the boot.
 *
 *   R/writes-DEVICE-INODE   a page that says whose it is, then PENDING_SLOTS slots
 *
 * Its space is allocated before it is used: memory that can't be had is an error of opening, never a signal later.  A file
 * that names another boot or another leaf (also one that got the number of a deleted one) is begun anew. */
#ifndef SLUICE_IMAGED_WRITE_LOG_H
#define SLUICE_IMAGED_WRITE_LOG_H

#include <stdbool.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"
#include "imaged/qcow2_pending.h"

struct write_log;

/* The log of this leaf, which the caller has locked for writing.  `makes`: where there is none, one is made; else *ret_log is
 * NULL then.  0, or -1 and err. */
int MUST_CHECK write_log_open(const char *folder, const struct qcow2 *image, const char *boot_id,
	bool makes, struct write_log **ret_log, struct err *err);
struct pending_slot *write_log_slots(struct write_log *log);
/* Any thread: nobody is to believe it any more, also not after the death of this process. */
void write_log_void(struct write_log *log);
/* Takes the file away; what is mapped stays until write_log_free. */
void write_log_remove(struct write_log *log);
/* Unmaps it; the file stays as it is.  NULL is fine. */
void write_log_free(struct write_log *log);

#endif
