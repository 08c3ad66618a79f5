/* SPDX-License-Identifier: Apache-2.0 */
/* The walk goes by extents, not by clusters: an empty terabyte is one step of each layer.  Only a cluster in which an
 * extent begins or ends is looked at by itself. */
#include "imaged/work_map.h"

#include "common/check.h"
#include "common/clock.h"

/* Longest piece asked of a layer at once: bounds the time that its lock is held. */
#define WINDOW (UINT64_C(1) << 38)

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t round_up(uint64_t length, uint64_t unit)
{
	return (length + unit - 1) / unit * unit;
}

static bool has_bytes(const struct extent *extent)
{
	return extent->kind == EXTENT_DATA || extent->kind == EXTENT_COMPRESSED;
}

/* chain_map over layers that may be none at all. */
static int map_layers(const struct work_scope *scope, size_t first, size_t end, uint64_t offset,
	uint64_t length, struct extent *ret_extent, struct err *err)
{
	if (first >= end) {
		*ret_extent = (struct extent){.kind = EXTENT_ABSENT, .length = length};
		return 0;
	}
	return chain_map(scope->chain, first, end, offset, least(length, WINDOW), ret_extent, err);
}

static int map_dropped(const struct work_scope *scope, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	return map_layers(scope, 1, scope->kept, offset, length, ret_extent, err);
}

static int map_kept(const struct work_scope *scope, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	return map_layers(scope, scope->kept, scope->chain->count, offset, length, ret_extent, err);
}

int work_kept_shows(
	const struct work_scope *scope, uint64_t offset, uint64_t length, struct err *err)
{
	struct extent kept;

	while (length > 0) {
		if (map_kept(scope, offset, length, &kept, err) < 0)
			return -1;
		if (has_bytes(&kept))
			return 1;
		offset += kept.length;
		length -= kept.length;
	}
	return 0;
}

int work_depends(const struct work_scope *scope, uint64_t offset, uint64_t length, struct err *err)
{
	struct extent dropped;
	int r;

	while (length > 0) {
		if (map_dropped(scope, offset, length, &dropped, err) < 0)
			return -1;
		if (has_bytes(&dropped))
			return 1;
		if (dropped.kind == EXTENT_ZERO) {
			r = work_kept_shows(scope, offset, dropped.length, err);
			if (r != 0)
				return r;
		}
		offset += dropped.length;
		length -= dropped.length;
	}
	return 0;
}

/* One cluster that is not in the leaf, byte by byte as it were. */
static int need_of_cluster(const struct work_scope *scope, uint64_t offset, uint64_t length,
	enum work_need *ret_need, struct err *err)
{
	struct extent dropped;
	bool hides = false, reads_zero = true;
	int shows;

	while (length > 0) {
		if (map_dropped(scope, offset, length, &dropped, err) < 0)
			return -1;
		if (has_bytes(&dropped)) {
			*ret_need = NEED_COPY;
			return 0;
		}
		shows = work_kept_shows(scope, offset, dropped.length, err);
		if (shows < 0)
			return -1;
		if (shows && dropped.kind == EXTENT_ZERO)
			hides = true;
		else if (shows)
			reads_zero = false;
		offset += dropped.length;
		length -= dropped.length;
	}
	if (!hides)
		*ret_need = NEED_NOTHING;
	else
		*ret_need = reads_zero ? NEED_ZERO : NEED_COPY;
	return 0;
}

void work_walk_begin(
	struct work_walk *walk, const struct work_scope *scope, uint64_t offset, uint64_t end)
{
	bug_if((offset % scope->cluster_size != 0 && offset != end) || end > scope->chain->size);
	bug_if(end % scope->cluster_size != 0 && end != scope->chain->size);
	*walk = (struct work_walk){.scope = scope, .position = offset, .end = end};
}

/* The whole clusters at the beginning of `length` bytes that end at or before `end`; all of them where they reach it. */
static uint64_t whole_clusters(const struct work_walk *walk, uint64_t length, uint64_t end)
{
	if (walk->position + length >= end)
		return end - walk->position;
	return length - length % walk->scope->cluster_size;
}

static uint64_t one_cluster(const struct work_walk *walk)
{
	return least(walk->scope->cluster_size, walk->end - walk->position);
}

static int next_mixed(struct work_walk *walk, struct work_piece *piece, struct err *err)
{
	piece->length = one_cluster(walk);
	return need_of_cluster(walk->scope, walk->position, piece->length, &piece->need, err);
}

/* The dropped layers say zeroes up to hidden_until (cluster-aligned or the end): does a kept one have something there? */
static int next_hidden(struct work_walk *walk, struct work_piece *piece, struct err *err)
{
	uint64_t end = least(walk->hidden_until, walk->absent_until);
	struct extent kept;

	if (map_kept(walk->scope, walk->position, end - walk->position, &kept, err) < 0)
		return -1;
	piece->length = whole_clusters(walk, kept.length, end);
	if (piece->length == 0)
		return next_mixed(walk, piece, err);
	piece->need = has_bytes(&kept) ? NEED_ZERO : NEED_NOTHING;
	return 0;
}

/* The leaf has nothing up to absent_until. */
static int next_absent(struct work_walk *walk, struct work_piece *piece, struct err *err)
{
	struct extent dropped;

	if (walk->position < walk->hidden_until)
		return next_hidden(walk, piece, err);
	if (map_dropped(walk->scope, walk->position, walk->absent_until - walk->position, &dropped,
		    err) < 0)
		return -1;
	piece->length = whole_clusters(walk, dropped.length, walk->absent_until);
	if (piece->length == 0)
		return next_mixed(walk, piece, err);
	if (dropped.kind == EXTENT_ZERO) {
		walk->hidden_until = walk->position + piece->length;
		return next_hidden(walk, piece, err);
	}
	piece->need = has_bytes(&dropped) ? NEED_COPY : NEED_NOTHING;
	return 0;
}

/* Cuts the piece to a beginning of which all or nothing is known to be zeroes. */
static void subtract_known(const struct work_walk *walk, struct work_piece *piece)
{
	uint64_t cluster_size = walk->scope->cluster_size;
	uint64_t clusters, same;
	bool is_known;

	if (!walk->scope->known_zero)
		return;
	clusters = (piece->length + cluster_size - 1) / cluster_size;
	same = zero_set_span(
		walk->scope->known_zero, piece->offset / cluster_size, clusters, &is_known);
	piece->length = least(piece->length, same * cluster_size);
	if (is_known)
		piece->need = NEED_NOTHING;
}

int work_walk_next(struct work_walk *walk, struct work_piece *ret_piece, struct err *err)
{
	struct work_piece piece = {.offset = walk->position};
	uint64_t left = walk->end - walk->position;
	struct extent leaf;

	if (left == 0)
		return 0;
	if (walk->position >= walk->absent_until) {
		if (chain_map(walk->scope->chain, 0, 1, walk->position, least(left, WINDOW), &leaf,
			    err) < 0)
			return -1;
		if (leaf.kind != EXTENT_ABSENT) {
			/* Where the leaf's file ends within a cluster, so does the extent. */
			piece.length =
				least(left, round_up(leaf.length, walk->scope->cluster_size));
			piece.need = NEED_PRESENT;
			goto out;
		}
		walk->absent_until = walk->position + leaf.length;
	}
	if (next_absent(walk, &piece, err) < 0)
		return -1;
	if (piece.need == NEED_ZERO && walk->scope->copies_zeroes)
		piece.need = NEED_COPY;
	if (piece.need != NEED_NOTHING)
		subtract_known(walk, &piece);
out:
	walk->position += piece.length;
	*ret_piece = piece;
	return 1;
}

/* Puts the piece into the page.  False: no room for it. */
static bool page_add(struct work_page *page, size_t runs_max, const struct work_piece *piece)
{
	enum work work = piece->need == NEED_ZERO ? WORK_ZERO : WORK_COPY;
	struct work_run *last = page->count > 0 ? &page->runs[page->count - 1] : NULL;

	if (last && last->work == work && last->offset + last->length == piece->offset) {
		last->length += piece->length;
		return true;
	}
	if (page->count == runs_max)
		return false;
	page->runs[page->count++] =
		(struct work_run){.offset = piece->offset, .length = piece->length, .work = work};
	return true;
}

int work_map_page(const struct work_scope *scope, uint64_t offset, size_t runs_max,
	uint64_t deadline_us, struct work_page *page, struct err *err)
{
	struct work_walk walk;
	struct work_piece piece;
	unsigned steps = 0;
	int r;

	work_walk_begin(&walk, scope, offset, scope->chain->size);
	page->end = offset;
	page->present = 0;
	page->count = 0;
	for (;;) {
		r = work_walk_next(&walk, &piece, err);
		if (r <= 0)
			return r;
		if (piece.need == NEED_PRESENT)
			page->present += piece.length;
		else if (piece.need != NEED_NOTHING && !page_add(page, runs_max, &piece))
			return 0;
		page->end = walk.position;
		if (++steps % 16 == 0 && clock_monotonic_us() >= deadline_us)
			return 0;
	}
}
