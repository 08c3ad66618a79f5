/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/inquiry.h"

#include <string.h>

#include "common/clock.h"
#include "schemas/errors.gen.h"

#define PLAN_US	 UINT64_C(1000000)
#define PAGE_US	 UINT64_C(50000)
#define RUNS_MAX 2048

static struct chain *chain_of(const struct device *device)
{
	return device->live.current->chain;
}

/* The layers to be dropped, and kept ones of which pieces must be copied with them. */
static void tell_layers(const struct chain *chain, size_t kept, const struct plan *plan,
	struct wire_memory *memory, struct msg_planned *planned)
{
	planned->layers = wire_memory_get(memory, chain->count * sizeof planned->layers[0]);
	for (size_t i = 1; i < chain->count; i++) {
		const char *name = chain->layers[i].name;

		if (i >= kept && plan->by_layer[i] == 0)
			continue;
		planned->layers[planned->layers_count++] = (struct plan_layer){
			.file = wire_memory_text(memory, name, strlen(name)),
			.copy = plan->by_layer[i],
		};
	}
}

static int check_space(
	const struct device *device, const struct msg_planned *planned, struct err *err)
{
	if (planned->leaf_growth <= planned->space_free)
		return 0;
	return err_set_kind(err, ERROR_CLASS_NO_SPACE,
		"the copy does not fit: '%s' would grow by up to %llu bytes, and %llu are free",
		device->leaf->path, (unsigned long long)planned->leaf_growth,
		(unsigned long long)planned->space_free);
}

int inquiry_plan(struct device *device, const struct stream_wish *wish, struct wire_memory *memory,
	struct msg_planned *ret_planned, struct trouble *trouble)
{
	struct msg_planned planned = {0};
	struct stream stream;
	struct work_scope scope;
	struct plan plan;
	int r;

	r = stream_resolve(device, wish, &stream, trouble);
	stream_renew_promise(device);
	if (r < 0)
		return -1;
	scope = stream_scope_for(device, &stream);
	scope.known_zero = NULL;
	plan_begin(&plan, PLAN_BY_LAYER);
	r = plan_count(&plan, &scope, clock_monotonic_us() + PLAN_US, &trouble->err);
	if (r < 0 || plan_space_free(device->leaf->fd, &planned.space_free, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_READING);
	planned.complete = r == 1;
	planned.copy = plan.copy;
	planned.zeroes = plan.zeroes;
	planned.holes = plan.holes;
	planned.present = plan.present;
	planned.leaf_growth = plan_leaf_growth(&plan, &device->leaf->header);
	if (check_space(device, &planned, &trouble->err) < 0)
		return -1;
	tell_layers(chain_of(device), stream.kept, &plan, memory, &planned);
	planned.chain_count = description_chain(
		device->name, chain_of(device), stream.kept, memory, &planned.chain);
	*ret_planned = planned;
	return 0;
}

/* What one extent of the leaf, or of the layers under it, is called. */
static struct allocation_run run_of(uint64_t offset, const struct extent *extent, bool is_raw_leaf)
{
	struct allocation_run run = {.offset = offset, .length = extent->length};

	switch (extent->kind) {
	case EXTENT_DATA:
	case EXTENT_COMPRESSED:
		run.state = extent->layer == 0 ? ALLOCATION_STATE_LEAF : ALLOCATION_STATE_BACKING;
		run.has_layer = extent->layer > 0;
		run.layer = extent->layer;
		break;
	case EXTENT_ZERO:
		run.state = extent->layer == 0 && !is_raw_leaf ? ALLOCATION_STATE_ZERO
							       : ALLOCATION_STATE_HOLE;
		break;
	case EXTENT_ABSENT:
		run.state = ALLOCATION_STATE_HOLE;
		break;
	}
	return run;
}

/* False: no room. */
static bool page_add(struct msg_allocation_page *page, const struct allocation_run *run)
{
	struct allocation_run *last =
		page->runs_count > 0 ? &page->runs[page->runs_count - 1] : NULL;

	if (last && last->state == run->state && last->has_layer == run->has_layer &&
		(!run->has_layer || last->layer == run->layer)) {
		last->length += run->length;
		return true;
	}
	if (page->runs_count == RUNS_MAX)
		return false;
	page->runs[page->runs_count++] = *run;
	return true;
}

int inquiry_allocation(struct device *device, uint64_t offset, uint64_t length,
	struct wire_memory *memory, struct msg_allocation_page *ret_page, struct trouble *trouble)
{
	struct msg_allocation_page page = {0};
	uint64_t deadline_us = clock_monotonic_us() + PAGE_US, end;
	struct chain *chain;
	unsigned steps = 0;

	if (device_check_open(device, &trouble->err) < 0)
		return -1;
	chain = chain_of(device);
	page.runs = wire_memory_get(memory, RUNS_MAX * sizeof page.runs[0]);
	page.end = offset < chain->size ? offset : chain->size;
	end = length < chain->size - page.end ? page.end + length : chain->size;
	while (page.end < end) {
		struct allocation_run run;
		struct extent extent;

		if (chain_map(chain, 0, chain->count, page.end, end - page.end, &extent,
			    &trouble->err) < 0)
			return trouble_during(trouble, TROUBLE_READING);
		run = run_of(page.end, &extent, !chain->leaf);
		if (!page_add(&page, &run))
			break;
		page.end += extent.length;
		if (++steps % 16 == 0 && clock_monotonic_us() >= deadline_us)
			break;
	}
	*ret_page = page;
	return 0;
}
