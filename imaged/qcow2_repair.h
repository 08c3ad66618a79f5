/* SPDX-License-Identifier: Apache-2.0 */
/* Mends an image that another program left dirty (incompatible feature bit 0: reference counts may be wrong). */
#ifndef SLUICE_IMAGED_QCOW2_REPAIR_H
#define SLUICE_IMAGED_QCOW2_REPAIR_H

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/qcow2.h"

/* With the structure lock held, before anybody else uses the image: counts are made anew from the references, raised first and
 * lowered only when that is durable; the "copied" flags follow them; then the dirty bit is cleared.  References that
 * cannot be (outside the file, two users of what cannot be shared, into metadata) are refused by name; then nothing was
 * lowered that is in use. */
int MUST_CHECK qcow2_repair(struct qcow2 *image, struct err *err);

#endif
