/* SPDX-License-Identifier: Apache-2.0 */
/* Where the bytes of a range come from, as a worker is told: pieces of files, in order, without a gap. */
#ifndef SLUICE_IMAGED_SOURCES_H
#define SLUICE_IMAGED_SOURCES_H

#include "imaged/chain.h"
#include "imaged/join.h"
#include "schemas/types.gen.h"

struct source_list {
	struct source_extent *items; /* the caller's, room for `room` */
	size_t count, room;
};

/* What the layers under the leaf hold from `offset` on, at most `length` bytes and as far as the list has room: *ret_length bytes.
 * 0, or -1 and err. */
int MUST_CHECK sources_find(struct chain *chain, const struct join *join, uint64_t offset,
	uint64_t length, struct source_list *list, uint64_t *ret_length, struct err *err);
/* Makes the list yield `length` bytes: cuts it, or lets zeroes follow.  The list needs room for one more. */
void sources_fit(struct source_list *list, uint64_t length);

#endif
