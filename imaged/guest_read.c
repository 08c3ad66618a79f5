/* SPDX-License-Identifier: Apache-2.0 */
/* Guest bytes out of a chain: an extent at a time, straight from the files, without any lock across a read. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/decompress.h"
#include "common/io.h"
#include "common/log.h"
#include "imaged/device_writes.h"
#include "imaged/guest_write.h"
#include "imaged/keeper.h"

/* A thread's means to read compressed clusters; made when first needed. */
struct expander {
	struct decompressor *decompressor;
	unsigned char *stored, *cluster;
	uint64_t stored_room, cluster_room;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t expanders;

static void expander_free(void *thread_value)
{
	struct expander *expander = thread_value;

	decompressor_free(expander->decompressor);
	free(expander->stored);
	free(expander->cluster);
	free(expander);
}

static void make_key(void)
{
	bug_if(pthread_key_create(&expanders, expander_free) != 0);
}

static struct expander *thread_expander(void)
{
	struct expander *expander;

	pthread_once(&once, make_key);
	expander = pthread_getspecific(expanders);
	if (expander)
		return expander;
	expander = must_calloc(1, sizeof *expander);
	expander->decompressor = decompressor_new();
	bug_if(pthread_setspecific(expanders, expander) != 0);
	return expander;
}

static void make_room(unsigned char **bytes, uint64_t *room, uint64_t wanted)
{
	if (*room >= wanted)
		return;
	*bytes = must_realloc(*bytes, wanted, 1);
	*room = wanted;
}

static int read_compressed(
	const struct chain_layer *layer, const struct extent *extent, void *buffer, struct err *err)
{
	struct expander *expander = thread_expander();
	int64_t stored;

	make_room(&expander->stored, &expander->stored_room, extent->host_length);
	make_room(&expander->cluster, &expander->cluster_room, extent->cluster_size);
	stored = pread_up_to(
		layer->layer->fd, expander->stored, extent->host_length, extent->host_offset);
	if (stored < 0)
		return err_set_errno(err, errno, "%s", layer->path);
	if (decompress(expander->decompressor,
		    extent->codec == EXTENT_ZSTD ? DECOMPRESS_ZSTD : DECOMPRESS_DEFLATE,
		    expander->stored, (size_t)stored, expander->cluster, extent->cluster_size,
		    err) < 0)
		return err_wrap(err, "%s: the cluster at offset 0x%llx", layer->path,
			(unsigned long long)extent->host_offset);
	memcpy(buffer, expander->cluster + extent->cluster_skip, extent->length);
	return 0;
}

/* A file that somebody cut short reads as zeroes past its new end. */
static int read_plain(const struct chain_layer *layer, uint64_t host_offset, uint64_t length,
	void *buffer, struct err *err)
{
	int64_t found = pread_up_to(layer->layer->fd, buffer, length, host_offset);

	if (found < 0)
		return err_set_errno(err, errno, "%s", layer->path);
	memset((char *)buffer + found, 0, length - (uint64_t)found);
	return 0;
}

static int read_extent(
	const struct chain *chain, const struct extent *extent, void *buffer, struct err *err)
{
	switch (extent->kind) {
	case EXTENT_DATA:
		return read_plain(&chain->layers[extent->layer], extent->host_offset,
			extent->length, buffer, err);
	case EXTENT_COMPRESSED:
		return read_compressed(&chain->layers[extent->layer], extent, buffer, err);
	case EXTENT_ABSENT:
	case EXTENT_ZERO:
		break;
	}
	memset(buffer, 0, extent->length);
	return 0;
}

static bool is_raw(const struct chain_layer *layer)
{
	return strcmp(layer->format, "raw") == 0;
}

/* Of a raw file, which is always the bottom: its holes read as zeroes anyway, so they are not looked for. */
static int read_bottom(const struct chain_layer *layer, uint64_t offset, uint64_t length,
	void *buffer, struct err *err)
{
	uint64_t there = offset < layer->size ? layer->size - offset : 0;

	if (there > length)
		there = length;
	memset((char *)buffer + there, 0, length - there);
	return there == 0 ? 0 : read_plain(layer, offset, there, buffer, err);
}

static int complain(struct device *device, uint64_t offset, const struct err *err)
{
	if (device_may_complain(device))
		log_warn("device=%s a guest's read at offset %llu failed: %s", device->name,
			(unsigned long long)offset, err->text);
	return err->number ? err->number : EIO;
}

/* The leaf lacks what a guest asked for: the job may bring it first, or it is copied when the guest has its answer. */
static void note_miss(struct device *device, uint64_t offset, uint64_t length)
{
	struct err err = {0};

	guest_activity_missed(&device->activity, offset, length);
	if (!atomic_load_explicit(&device->copies_on_read, memory_order_relaxed))
		return;
	if (device_begin_writes(device, &err) == 0)
		keeper_keep(device->keeper, offset, length);
	else if (device_may_complain(device))
		log_warn("device=%s what guests read is not kept: %s", device->name, err.text);
}

static bool are_zeroes(const unsigned char *bytes, uint64_t length)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0;
}

/* Of a piece that was read into `buffer`; `end` as in guest_read_chain. */
static bool is_miss(
	const struct chain *chain, size_t end, const struct extent *extent, const void *buffer)
{
	if (extent->kind == EXTENT_ABSENT && end < chain->count)
		return end > 0 && !are_zeroes(buffer, extent->length);
	return extent->layer > 0 &&
	       (extent->kind == EXTENT_DATA || extent->kind == EXTENT_COMPRESSED);
}

/* `end` as in guest_read_chain. */
static int read_piece(const struct chain *chain, size_t end, const struct extent *extent,
	uint64_t offset, void *buffer, struct err *err)
{
	if (extent->kind == EXTENT_ABSENT && end < chain->count)
		return read_bottom(&chain->layers[end], offset, extent->length, buffer, err);
	return read_extent(chain, extent, buffer, err);
}

int guest_read_chain(struct device *device, struct chain *chain, size_t first_layer, void *buffer,
	uint64_t offset, uint64_t length)
{
	size_t first = first_layer < chain->count ? first_layer : chain->count;
	size_t end = chain->count; /* of the layers that are asked what they have */
	struct err err = {0};

	if (first < end && is_raw(&chain->layers[end - 1]))
		end--;
	while (length > 0) {
		struct extent extent;

		if (chain_map(chain, first, end, offset, length, &extent, &err) < 0 ||
			read_piece(chain, end, &extent, offset, buffer, &err) < 0)
			return complain(device, offset, &err);
		if (first == 0 && is_miss(chain, end, &extent, buffer))
			note_miss(device, offset, extent.length);
		buffer = (char *)buffer + extent.length;
		offset += extent.length;
		length -= extent.length;
	}
	return 0;
}
