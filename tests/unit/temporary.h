/* SPDX-License-Identifier: Apache-2.0 */
/* Where the files of a test lie. */
#ifndef SLUICE_TESTS_UNIT_TEMPORARY_H
#define SLUICE_TESTS_UNIT_TEMPORARY_H

#include <stdlib.h>

/* TMPDIR, which whoever expects a test to fail sets, for one that fails does not clean up; otherwise /tmp.  Keep it short: endpoints
 * of ipc:// lie there, and a socket's name has 107 bytes. */
static inline const char *temporary_place(void)
{
	const char *place = getenv("TMPDIR");

	return place && *place ? place : "/tmp";
}

#endif
