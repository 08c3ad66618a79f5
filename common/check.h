/* SPDX-License-Identifier: Apache-2.0 */
/* Our own impossibility: a broken invariant ends the process with a line and a core; the supervisor
 * starts it anew. Never for what a peer, a file or a user said. */
#ifndef SLUICE_COMMON_CHECK_H
#define SLUICE_COMMON_CHECK_H

#include "common/attributes.h"

void bug(const char *file, int line, const char *condition) NORETURN;

#define bug_if(condition)                                    \
	do {                                                 \
		if (__builtin_expect(!!(condition), 0))      \
			bug(__FILE__, __LINE__, #condition); \
	} while (0)

/* Memory that a daemon of fixed limits must get; ends the process where there is none. */
void *must_calloc(unsigned long count, unsigned long size) MUST_CHECK;
void *must_realloc(void *old, unsigned long count, unsigned long size) MUST_CHECK;
char *must_strdup(const char *text) MUST_CHECK;

#endif
