/* SPDX-License-Identifier: Apache-2.0 */
/* One walk of the work map; what is to be copied is walked once more by layer where that is asked for. */
#include "imaged/plan.h"

#include <errno.h>
#include <pthread.h>
#include <sys/statvfs.h>

#include "common/clock.h"

void plan_begin(struct plan *plan, enum plan_detail detail)
{
	*plan = (struct plan){.detail = detail};
}

/* Whole clusters are copied: bytes of a cluster that no layer stores count for the layer that stores its neighbours. */
static int count_layers(struct plan *plan, const struct work_scope *scope,
	const struct work_piece *piece, struct err *err)
{
	uint64_t position = piece->offset, end = piece->offset + piece->length, unclaimed = 0;
	struct extent extent;
	size_t owner = 1;

	while (position < end) {
		if (chain_map(scope->chain, 1, scope->chain->count, position, end - position,
			    &extent, err) < 0)
			return -1;
		if (extent.kind == EXTENT_DATA || extent.kind == EXTENT_COMPRESSED) {
			owner = extent.layer;
			plan->by_layer[owner] += unclaimed + extent.length;
			unclaimed = 0;
		} else {
			unclaimed += extent.length;
		}
		position += extent.length;
	}
	plan->by_layer[owner] += unclaimed;
	return 0;
}

/* Tables that the leaf does not have for itself alone, and so needs room for, under this piece. */
static void count_tables(
	struct plan *plan, const struct work_scope *scope, const struct work_piece *piece)
{
	uint64_t span = scope->cluster_size * (scope->cluster_size / 8);
	uint64_t first = piece->offset / span;
	uint64_t end = (piece->offset + piece->length - 1) / span + 1;
	struct qcow2 *leaf = scope->chain->leaf;

	if (first < plan->next_table)
		first = plan->next_table;
	pthread_mutex_lock(&leaf->lock);
	for (uint64_t i = first; i < end; i++) {
		if (i >= leaf->header.l1_entries || !(leaf->l1[i] & QCOW2_COPIED))
			plan->tables++;
	}
	pthread_mutex_unlock(&leaf->lock);
	if (end > plan->next_table)
		plan->next_table = end;
}

static int count_piece(struct plan *plan, const struct work_scope *scope,
	const struct work_piece *piece, struct err *err)
{
	switch (piece->need) {
	case NEED_PRESENT:
		plan->present += piece->length;
		return 0;
	case NEED_NOTHING:
		plan->holes += piece->length;
		return 0;
	case NEED_ZERO:
		plan->zeroes += piece->length;
		count_tables(plan, scope, piece);
		return 0;
	case NEED_COPY:
		plan->copy += piece->length;
		count_tables(plan, scope, piece);
		if (plan->detail == PLAN_BY_LAYER)
			return count_layers(plan, scope, piece, err);
		return 0;
	}
	return 0;
}

int plan_count(
	struct plan *plan, const struct work_scope *scope, uint64_t deadline_us, struct err *err)
{
	struct work_walk walk;
	struct work_piece piece;
	unsigned steps = 0;
	int r;

	work_walk_begin(&walk, scope, plan->position, scope->chain->size);
	for (;;) {
		r = work_walk_next(&walk, &piece, err);
		if (r < 0)
			return -1;
		if (r == 0)
			return 1;
		if (count_piece(plan, scope, &piece, err) < 0)
			return -1;
		plan->position = walk.position;
		if (++steps % 16 == 0 && clock_monotonic_us() >= deadline_us)
			return 0;
	}
}

uint64_t plan_leaf_growth(const struct plan *plan, const struct qcow2_header *leaf)
{
	uint64_t cluster_size = leaf->cluster_size;
	uint64_t data = (plan->copy + cluster_size - 1) / cluster_size;
	uint64_t clusters = data + plan->tables;
	uint64_t per_block = cluster_size * 8 >> leaf->refcount_order;
	uint64_t blocks, tables;

	if (clusters == 0)
		return 0;
	blocks = clusters / per_block + 2;
	tables = blocks * 8 / cluster_size + 1;
	return (clusters + blocks + tables) * cluster_size;
}

int plan_space_free(int fd, uint64_t *ret_bytes, struct err *err)
{
	struct statvfs space;

	if (fstatvfs(fd, &space) < 0)
		return err_set_errno(err, errno, "ask for the free space");
	*ret_bytes = (uint64_t)space.f_bavail * space.f_frsize;
	return 0;
}
