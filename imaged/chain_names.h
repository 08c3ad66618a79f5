/* SPDX-License-Identifier: Apache-2.0 */
/* PURE: the names by which headers and users call files of a chain, made into paths or refused.  Nothing is opened or looked
 * for here. */
#ifndef SLUICE_IMAGED_CHAIN_NAMES_H
#define SLUICE_IMAGED_CHAIN_NAMES_H

#include "common/attributes.h"
#include "common/err.h"

/* `name` as seen from the folder in which the file `from` (a path) lies; an absolute name stands for itself.  Owned by the
 * caller. */
char *MUST_CHECK chain_name_beside(const char *from, const char *name);

/* The path that the header of the file `from` means with backing file `name` of format `format` (empty: it names none).  0 and
 * an owned path; or -1 and err with what to do about it: no format, a name in JSON; of kind ERROR_CLASS_NOT_SUPPORTED for
 * an unknown format and for what is not a file but a protocol. */
int MUST_CHECK chain_name_resolve(
	const char *from, const char *name, const char *format, char **ret_path, struct err *err);

#endif
