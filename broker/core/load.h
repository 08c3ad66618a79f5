/* SPDX-License-Identifier: Apache-2.0 */
/* From the store into memory at start, and the settings back into it. */
#ifndef SLUICE_BROKER_CORE_LOAD_H
#define SLUICE_BROKER_CORE_LOAD_H

#include "common/attributes.h"
#include "common/err.h"

struct core;

/* All records are read: ties them together and begins this life.  -1 and err: they do not fit
 * together. */
int MUST_CHECK core_start(struct core *core, struct err *err);
/* Stores the settings if they changed in this step. */
void settings_store(struct core *core);

#endif
