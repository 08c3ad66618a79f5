/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a leaf's internal snapshots still need the layers that a job would drop.
 *
 * A snapshot has an L1 table of its own; where that says nothing, the snapshot reads from the backing chain, and would read
 * something else once the chain is shorter.  A job does not fill snapshots, so such a leaf is refused. */
#ifndef SLUICE_IMAGED_SNAPSHOTS_H
#define SLUICE_IMAGED_SNAPSHOTS_H

#include "imaged/work_map.h"

/* 0: none of them needs a dropped layer; -1 and err, of kind ERROR_CLASS_NOT_SUPPORTED naming the snapshot where one does. */
int MUST_CHECK snapshots_check(const struct work_scope *scope, struct err *err);

#endif
