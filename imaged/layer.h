/* SPDX-License-Identifier: Apache-2.0 */
/* One file of a chain, whatever its format: what it says about each guest byte. */
#ifndef SLUICE_IMAGED_LAYER_H
#define SLUICE_IMAGED_LAYER_H

#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "imaged/extent.h"

struct layer;

struct layer_ops {
	const char *format;
	/* One extent from `offset` on, at most `length` bytes; offset + length lies within the layer's size. */
	int (*map)(struct layer *layer, uint64_t offset, uint64_t length, struct extent *ret_extent, struct err *err);
	void (*free)(struct layer *layer);
};

struct layer {
	const struct layer_ops *ops;
	uint64_t size;    /* guest bytes */
	int fd;           /* of the file; owned by the layer */
};

/* A raw file open for reading: DATA and, where lseek(SEEK_HOLE) says so, ZERO.  Takes fd over, also on failure. */
int MUST_CHECK layer_raw_open(int fd, const char *path, struct layer **ret_layer, struct err *err);
/* Takes the image over. */
struct qcow2;
struct layer *layer_qcow2_new(struct qcow2 *image);

#endif
