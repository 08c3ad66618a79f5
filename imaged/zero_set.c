/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of 4 KiB, 32,768 clusters each; the table of pieces is made with the first of them. */
#include "imaged/zero_set.h"

#include <stdlib.h>

#include "common/check.h"

#define PIECE_BYTES    4096
#define PIECE_CLUSTERS (UINT64_C(8) * PIECE_BYTES)

static uint64_t piece_count(const struct zero_set *set)
{
	return (set->clusters + PIECE_CLUSTERS - 1) / PIECE_CLUSTERS;
}

void zero_set_init(struct zero_set *set, uint64_t clusters)
{
	set->clusters = clusters;
	set->pieces = NULL;
}

void zero_set_done(struct zero_set *set)
{
	if (!set->pieces)
		return;
	for (uint64_t i = 0; i < piece_count(set); i++)
		free(set->pieces[i]);
	free(set->pieces);
	set->pieces = NULL;
}

static void add_one(struct zero_set *set, uint64_t cluster)
{
	unsigned char **piece = &set->pieces[cluster / PIECE_CLUSTERS];
	uint64_t bit = cluster % PIECE_CLUSTERS;

	if (!*piece)
		*piece = must_calloc(1, PIECE_BYTES);
	(*piece)[bit / 8] |= (unsigned char)(1U << (bit % 8));
}

void zero_set_add(struct zero_set *set, uint64_t first, uint64_t count)
{
	bug_if(first > set->clusters || count > set->clusters - first);
	if (!set->pieces && count > 0)
		set->pieces = must_calloc(piece_count(set), sizeof set->pieces[0]);
	for (uint64_t i = 0; i < count; i++)
		add_one(set, first + i);
}

static bool is_in(const struct zero_set *set, uint64_t cluster)
{
	const unsigned char *piece = set->pieces[cluster / PIECE_CLUSTERS];
	uint64_t bit = cluster % PIECE_CLUSTERS;

	return piece && (piece[bit / 8] >> (bit % 8) & 1U);
}

uint64_t zero_set_span(const struct zero_set *set, uint64_t first, uint64_t count, bool *ret_is_in)
{
	uint64_t n = 0;
	bool wanted;

	bug_if(count == 0 || first >= set->clusters || count > set->clusters - first);
	if (!set->pieces) {
		*ret_is_in = false;
		return count;
	}
	wanted = is_in(set, first);
	while (n < count && is_in(set, first + n) == wanted) {
		bool is_whole_piece = (first + n) % PIECE_CLUSTERS == 0;

		if (is_whole_piece && !set->pieces[(first + n) / PIECE_CLUSTERS])
			n += PIECE_CLUSTERS;
		else
			n++;
	}
	*ret_is_in = wanted;
	return n < count ? n : count;
}
