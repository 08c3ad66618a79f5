/* SPDX-License-Identifier: Apache-2.0 */
/* Chains drawn by hand: a string a layer, a character a unit of 512 bytes.
 *
 *   'D' data, 'C' compressed, 'Z' zeroes, '.' nothing; the string's end is the end of the layer's disk
 *
 * Data of layer n at guest offset x lies at host offset x in its file, whose inode is n. */
#ifndef SLUICE_TESTS_UNIT_FAKE_CHAIN_H
#define SLUICE_TESTS_UNIT_FAKE_CHAIN_H

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "imaged/chain.h"

#define UNIT UINT64_C(512)

struct fake_layer {
	struct layer layer;
	const char *units;
};

static inline int fake_layer_map(struct layer *layer, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err UNUSED)
{
	const struct fake_layer *fake = (const struct fake_layer *)layer;
	char kind = fake->units[offset / UNIT];
	uint64_t end = offset / UNIT;
	struct extent extent = {0};

	while (fake->units[end] == kind && end * UNIT < offset + length)
		end++;
	extent.length = end * UNIT - offset < length ? end * UNIT - offset : length;
	extent.kind = kind == 'D'   ? EXTENT_DATA
		      : kind == 'C' ? EXTENT_COMPRESSED
		      : kind == 'Z' ? EXTENT_ZERO
				    : EXTENT_ABSENT;
	extent.host_offset = offset;
	if (kind == 'C') {
		extent.host_length = 100;
		extent.cluster_size = 4 * UNIT;
		extent.cluster_skip = offset % (4 * UNIT);
		if (extent.length > 4 * UNIT - extent.cluster_skip)
			extent.length = 4 * UNIT - extent.cluster_skip;
	}
	*ret_extent = extent;
	return 0;
}

static inline void fake_layer_free(struct layer *layer)
{
	free(layer);
}

static inline struct layer *fake_layer_new(const char *units)
{
	static const struct layer_ops ops = {
		.format = "raw", .map = fake_layer_map, .free = fake_layer_free};
	struct fake_layer *fake = must_calloc(1, sizeof *fake);

	fake->units = units;
	fake->layer = (struct layer){.ops = &ops, .size = strlen(units) * UNIT, .fd = -1};
	return &fake->layer;
}

/* From the leaf down, NULL at the end.  Freed by chain_free; its leaf has no engine. */
static inline struct chain *fake_chain_new(const char *const *layers)
{
	struct chain *chain = must_calloc(1, sizeof *chain);

	for (size_t i = 0; layers[i]; i++) {
		char name[] = "layer-0";

		name[6] = (char)('0' + i);
		chain->layers[i] = (struct chain_layer){
			.layer = fake_layer_new(layers[i]),
			.name = must_strdup(name),
			.path = must_strdup(name),
			.opened_as = must_strdup(name),
			.format = "raw",
			.inode = i,
			.size = strlen(layers[i]) * UNIT,
		};
		chain->count++;
	}
	chain->size = chain->layers[0].size;
	return chain;
}

#define FAKE_CHAIN(...) fake_chain_new((const char *const[]){__VA_ARGS__, NULL})

#endif
