/* SPDX-License-Identifier: Apache-2.0 */
/* A raw file or block device as a layer: guest offset is host offset.
 *
 * A hole is taken at its word because nobody writes to the file meanwhile (the chain's locks).  Where the file system or the
 * device cannot tell holes, all is data. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/check.h"
#include "imaged/layer.h"

struct layer_raw {
	struct layer layer;
	char *path;
};

static int map_data_up_to(struct layer_raw *raw, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	off_t hole = lseek(raw->layer.fd, (off_t)offset, SEEK_HOLE);

	if (hole < 0)
		return err_set_errno(err, errno, "%s: cannot find its next hole", raw->path);
	if ((uint64_t)hole <= offset)
		hole = (off_t)(offset +
			       1); /* the file changed in between: take one byte as it is */
	if ((uint64_t)hole - offset < length)
		length = (uint64_t)hole - offset;
	*ret_extent = (struct extent){.kind = EXTENT_DATA, .length = length, .host_offset = offset};
	return 0;
}

static int layer_raw_map(struct layer *layer, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	struct layer_raw *raw = (struct layer_raw *)layer;
	off_t found = lseek(layer->fd, (off_t)offset, SEEK_DATA);

	if (found < 0 && errno == EINVAL) { /* cannot tell */
		*ret_extent = (struct extent){
			.kind = EXTENT_DATA, .length = length, .host_offset = offset};
		return 0;
	}
	if (found < 0 && errno == ENXIO) /* no data up to the end */
		found = (off_t)(offset + length);
	if (found < 0)
		return err_set_errno(err, errno, "%s: cannot find its next data", raw->path);
	if ((uint64_t)found <= offset)
		return map_data_up_to(raw, offset, length, ret_extent, err);
	if ((uint64_t)found - offset < length)
		length = (uint64_t)found - offset;
	*ret_extent = (struct extent){.kind = EXTENT_ZERO, .length = length};
	return 0;
}

static void layer_raw_free(struct layer *layer)
{
	struct layer_raw *raw = (struct layer_raw *)layer;

	close(layer->fd);
	free(raw->path);
	free(raw);
}

static const struct layer_ops layer_raw_ops = {
	.format = "raw",
	.map = layer_raw_map,
	.free = layer_raw_free,
};

int layer_raw_open(int fd, const char *path, struct layer **ret_layer, struct err *err)
{
	struct layer_raw *raw;
	off_t size = lseek(fd, 0, SEEK_END); /* of block devices too */

	if (size < 0) {
		err_set_errno(err, errno, "%s: cannot tell its size", path);
		close(fd);
		return -1;
	}
	raw = must_calloc(1, sizeof(*raw));
	raw->layer = (struct layer){.ops = &layer_raw_ops, .size = (uint64_t)size, .fd = fd};
	raw->path = must_strdup(path);
	*ret_layer = &raw->layer;
	return 0;
}
