/* SPDX-License-Identifier: Apache-2.0 */
/* Why a request on a device failed, and, where the system had a part in it, what was being done then. */
#ifndef SLUICE_IMAGED_TROUBLE_H
#define SLUICE_IMAGED_TROUBLE_H

#include "common/err.h"

enum trouble_during { TROUBLE_ELSEWHERE, TROUBLE_READING, TROUBLE_WRITING, TROUBLE_FLUSHING };

struct trouble {
	struct err err;
	enum trouble_during during;
};

/* Notes what was being done; returns -1. */
static inline int trouble_during(struct trouble *trouble, enum trouble_during during)
{
	trouble->during = during;
	return -1;
}

#endif
