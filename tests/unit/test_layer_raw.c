/* SPDX-License-Identifier: Apache-2.0 */
/* Data, holes and sizes that are no multiple of anything. */
#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/layer.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define MIB (UINT64_C(1) << 20)

static struct err err;

static struct layer *open_layer(
	const char *path, uint64_t size, uint64_t data_offset, size_t data_length)
{
	static const char ones[4096] = {1};
	struct layer *layer = NULL;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)size), 0);
	ck_assert_int_eq(pwrite_full(fd, ones, data_length, data_offset), 0);
	ck_assert_int_eq(layer_raw_open(fd, path, &layer, &err), 0);
	return layer;
}

static struct extent map(struct layer *layer, uint64_t offset, uint64_t length)
{
	struct extent extent;

	ck_assert_int_eq(layer->ops->map(layer, offset, length, &extent, &err), 0);
	ck_assert_uint_ge(extent.length, 1);
	ck_assert_uint_le(extent.length, length);
	return extent;
}

START_TEST(every_byte_is_data_where_it_is_or_zero)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct layer *layer = open_layer(folder_name(&folder, "raw"), 3 * MIB + 77, MIB, 4096);
	bool has_data = false;

	ck_assert_uint_eq(layer->size, 3 * MIB + 77);
	for (uint64_t offset = 0; offset < layer->size;) {
		struct extent extent = map(layer, offset, layer->size - offset);

		/* A file system need not tell holes; but what it calls one must not be data. */
		if (extent.kind == EXTENT_ZERO) {
			ck_assert(offset + extent.length <= MIB || offset >= MIB + 4096);
		} else {
			ck_assert_int_eq(extent.kind, EXTENT_DATA);
			ck_assert_uint_eq(extent.host_offset, offset);
			has_data = true;
		}
		offset += extent.length;
	}
	ck_assert(has_data);
	layer->ops->free(layer);
}
END_TEST

START_TEST(short_requests_get_short_answers)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct layer *layer = open_layer(folder_name(&folder, "raw"), 3 * MIB, MIB, 4096);

	ck_assert_uint_eq(map(layer, MIB + 1, 10).length, 10);
	ck_assert_uint_eq(map(layer, 100, 1).length, 1);
	layer->ops->free(layer);
}
END_TEST

START_TEST(empty_file_is_a_layer_of_no_bytes)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct layer *layer = open_layer(folder_name(&folder, "raw"), 0, 0, 0);

	ck_assert_uint_eq(layer->size, 0);
	ck_assert_str_eq(layer->ops->format, "raw");
	layer->ops->free(layer);
}
END_TEST

UNIT_MAIN("layer_raw", every_byte_is_data_where_it_is_or_zero, short_requests_get_short_answers,
	empty_file_is_a_layer_of_no_bytes)
