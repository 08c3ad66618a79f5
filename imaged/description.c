/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/description.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"

static char *text(struct wire_memory *memory, const char *words)
{
	return wire_memory_text(memory, words, strlen(words));
}

static char *node_name(struct wire_memory *memory, const char *device, size_t index)
{
	char name[80];

	if (index == 0)
		return text(memory, device);
	snprintf(name, sizeof name, "%s#%zu", device, index);
	return text(memory, name);
}

size_t description_chain(const char *device, const struct chain *chain, size_t kept,
	struct wire_memory *memory, struct chain_layer_info **ret_layers)
{
	size_t count = 1 + chain->count - kept;
	struct chain_layer_info *layers = wire_memory_get(memory, count * sizeof *layers);

	for (size_t i = 0; i < count; i++) {
		const struct chain_layer *layer = &chain->layers[i == 0 ? 0 : kept + i - 1];

		layers[i] = (struct chain_layer_info){
			.file = text(memory, layer->name),
			.format = text(memory, layer->format),
			.size = layer->size,
			.node_name = node_name(memory, device, i),
		};
	}
	*ret_layers = layers;
	return count;
}

static size_t packed_bytes(const struct device_state *state)
{
	struct wire_buffer buffer = {0};
	size_t bytes;

	device_state_encode(state, &buffer);
	bytes = buffer.length;
	wire_buffer_done(&buffer);
	return bytes;
}

struct description *description_new(
	const char *device, const struct chain *chain, bool copy_on_read, const char *uri)
{
	struct description *description = must_calloc(1, sizeof *description);
	struct device_state *state = &description->state;

	atomic_init(&description->references, 1);
	wire_memory_init(&description->memory);
	*state = (struct device_state){
		.device = text(&description->memory, device),
		.file = text(&description->memory, chain->layers[0].name),
		.format = text(&description->memory, chain->layers[0].format),
		.size = chain->size,
		.cluster_size = chain->leaf ? chain->leaf->header.cluster_size : 0,
		.read_only = chain->read_only,
		.copy_on_read = copy_on_read,
		.nbd = text(&description->memory, uri),
	};
	state->chain_count =
		description_chain(device, chain, 1, &description->memory, &state->chain);
	description->bytes = packed_bytes(state);
	return description;
}

struct description *description_get(struct description *description)
{
	atomic_fetch_add(&description->references, 1);
	return description;
}

void description_put(struct description *description)
{
	if (!description || atomic_fetch_sub(&description->references, 1) != 1)
		return;
	wire_memory_done(&description->memory);
	free(description);
}
