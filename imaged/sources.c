/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/sources.h"

#include "common/check.h"

static bool add_zeroes(struct source_list *list, uint64_t length)
{
	struct source_extent *last = list->count > 0 ? &list->items[list->count - 1] : NULL;

	if (last && last->codec == CODEC_ZERO) {
		last->length += length;
		return true;
	}
	if (list->count == list->room)
		return false;
	list->items[list->count++] = (struct source_extent){.codec = CODEC_ZERO, .length = length};
	return true;
}

static bool add_plain(struct source_list *list, uint64_t file, uint64_t offset, uint64_t length)
{
	struct source_extent *last = list->count > 0 ? &list->items[list->count - 1] : NULL;

	if (last && last->codec == CODEC_PLAIN && last->file == file &&
		last->offset + last->length == offset) {
		last->length += length;
		return true;
	}
	if (list->count == list->room)
		return false;
	list->items[list->count++] = (struct source_extent){
		.codec = CODEC_PLAIN,
		.length = length,
		.has_file = true,
		.file = file,
		.has_offset = true,
		.offset = offset,
	};
	return true;
}

static bool add_compressed(struct source_list *list, uint64_t file, const struct extent *extent)
{
	if (list->count == list->room)
		return false;
	list->items[list->count++] = (struct source_extent){
		.codec = extent->codec == EXTENT_ZSTD ? CODEC_ZSTD : CODEC_DEFLATE,
		.length = extent->length,
		.has_file = true,
		.file = file,
		.has_offset = true,
		.offset = extent->host_offset,
		.has_stored = true,
		.stored = extent->host_length,
		.has_cluster = true,
		.cluster = extent->cluster_size,
		.has_skip = true,
		.skip = extent->cluster_skip,
	};
	return true;
}

/* 1: added; 0: no room; -1 and err. */
static int add_extent(const struct chain *chain, const struct join *join, struct source_list *list,
	const struct extent *extent, struct err *err)
{
	int file;

	if (extent->kind == EXTENT_ABSENT || extent->kind == EXTENT_ZERO)
		return add_zeroes(list, extent->length);
	file = join_source_index(join, &chain->layers[extent->layer]);
	if (file < 0)
		return err_set(err, "the worker joined before '%s' was in the chain",
			chain->layers[extent->layer].path);
	if (extent->kind == EXTENT_DATA)
		return add_plain(list, (uint64_t)file, extent->host_offset, extent->length);
	return add_compressed(list, (uint64_t)file, extent);
}

int sources_find(struct chain *chain, const struct join *join, uint64_t offset, uint64_t length,
	struct source_list *list, uint64_t *ret_length, struct err *err)
{
	uint64_t found = 0;
	struct extent extent;
	int r;

	while (found < length) {
		if (chain_map(chain, 1, chain->count, offset + found, length - found, &extent,
			    err) < 0)
			return -1;
		r = add_extent(chain, join, list, &extent, err);
		if (r < 0)
			return -1;
		if (r == 0)
			break;
		found += extent.length;
	}
	*ret_length = found;
	return 0;
}

void sources_fit(struct source_list *list, uint64_t length)
{
	size_t i = 0;

	while (i < list->count && list->items[i].length < length)
		length -= list->items[i++].length;
	if (i == list->count) {
		bug_if(length > 0 && list->count == list->room);
		if (length > 0)
			add_zeroes(list, length);
		return;
	}
	list->items[i].length = length;
	list->count = length > 0 ? i + 1 : i;
}
