/* SPDX-License-Identifier: Apache-2.0 */
/* Opens files, but only beneath the folders an operator named.  A name is resolved first (symbolic
 * links that stay beneath a root work, those that lead out are refused), then opened from the
 * root's own descriptor with RESOLVE_BENEATH|RESOLVE_NO_SYMLINKS, so that a link put there
 * meanwhile can't lead out either. */
#ifndef SLUICE_COMMON_ROOTS_H
#define SLUICE_COMMON_ROOTS_H

#include "common/attributes.h"
#include "common/err.h"

struct roots;

#define ROOTS_MAX 64

/* A set of none.  roots_free accepts NULL. */
struct roots *roots_new(void);
void roots_free(struct roots *roots);
/* 0, or -1 and err: not a folder, no right to it, too many. */
int MUST_CHECK roots_add(struct roots *roots, const char *folder, struct err *err);
/* A descriptor (O_CLOEXEC added to flags; no O_CREAT), or -1 and err, whose text names the file
 * and, when it lies outside every root, says so and names the option: "... is outside every
 * --root".  Only regular files and block devices. */
int MUST_CHECK roots_open(const struct roots *roots, const char *path, int flags, struct err *err);

#endif
