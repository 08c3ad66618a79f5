/* SPDX-License-Identifier: Apache-2.0 */
/* Why something failed, in a sentence that a user can read.  The function that fails fills it; each
 * level that passes it on may put one clause before it; only the level that decides what happens
 * next logs it. */
#ifndef SLUICE_COMMON_ERR_H
#define SLUICE_COMMON_ERR_H

#include "common/attributes.h"

#define ERR_TEXT_MAX 1400

struct err {
	int number;    /* errno value, 0 where the system had no part in it */
	unsigned kind; /* the program's own class of errors; 0: generic */
	char text[ERR_TEXT_MAX];
};

/* All return -1, so that a caller can write `return err_set(...)`.  `err` may be NULL.  Text is cut
 * to fit. */
int err_set(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);
/* Adds ": " and the system's words for `number`. */
int err_set_errno(struct err *err, int number, const char *format, ...) PRINTF_LIKE(3, 4);
int err_set_kind(struct err *err, unsigned kind, const char *format, ...) PRINTF_LIKE(3, 4);
/* Puts the clause and ": " before what is there; number and kind stay. */
int err_wrap(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);
/* The name of an errno value, "EIO"; "E?" where it has none. */
const char *err_number_name(int number);

#endif
