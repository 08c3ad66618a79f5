/* SPDX-License-Identifier: Apache-2.0 */
/* Takes over what an earlier process of this boot had acknowledged and not yet written into the file (qcow2_pending.h).
 *
 * The slots are believed only if they fit the image, all of them: each guest cluster's entry in the file is one of those that
 * the slot names, and each host cluster is counted once and referred to by nobody else.  Otherwise somebody has written to the
 * image meanwhile, and they are dropped: a log that does not fit must never share a cluster. */
#ifndef SLUICE_IMAGED_QCOW2_ADOPT_H
#define SLUICE_IMAGED_QCOW2_ADOPT_H

#include "imaged/qcow2_write.h"

/* Right after qcow2_make_writable, before anything is written.  0: *ret_count slots were found good (none where they did not
 * fit: then `why` says so and all are free); -1 and err: the image could not be read. */
int MUST_CHECK qcow2_adopt(struct qcow2 *image, struct pending_slot *slots, uint32_t *ret_count,
	struct err *why, struct err *err);

#endif
