/* SPDX-License-Identifier: Apache-2.0 */
/* Decides by which name a leaf's header will call the layer that is kept.
 *
 * Names come from users and headers.  A name is good when, seen from the leaf's folder, it finds the very same file (device and
 * inode) that the chain holds open; files are looked at only beneath the roots. */
#ifndef SLUICE_IMAGED_NAMES_H
#define SLUICE_IMAGED_NAMES_H

#include "imaged/chain.h"

/* The name for layer `kept` (1 or more): `wanted` exactly as given, which is refused where it does not find the file; or, where
 * `wanted` is NULL, the name by which the layer above called it if that still finds it, else its absolute path.  Points into the
 * chain or is `wanted`.  0, or -1 and err. */
int MUST_CHECK names_choose(const struct roots *roots, const struct chain *chain, size_t kept,
	const char *wanted, const char **ret_name, struct err *err);

#endif
