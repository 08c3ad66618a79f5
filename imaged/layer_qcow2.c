/* SPDX-License-Identifier: Apache-2.0 */
/* A qcow2 image as a layer: a thin coat over qcow2_map. */
#include <stdlib.h>

#include "common/check.h"
#include "imaged/layer.h"
#include "imaged/qcow2.h"

struct layer_qcow2 {
	struct layer layer;
	struct qcow2 *image;
};

static int layer_qcow2_map(struct layer *layer, uint64_t offset, uint64_t length,
	struct extent *ret_extent, struct err *err)
{
	return qcow2_map(((struct layer_qcow2 *)layer)->image, offset, length, ret_extent, err);
}

static void layer_qcow2_free(struct layer *layer)
{
	qcow2_free(((struct layer_qcow2 *)layer)->image); /* closes the layer's fd */
	free(layer);
}

static const struct layer_ops layer_qcow2_ops = {
	.format = "qcow2",
	.map = layer_qcow2_map,
	.free = layer_qcow2_free,
};

struct layer *layer_qcow2_new(struct qcow2 *image)
{
	struct layer_qcow2 *qcow2 = must_calloc(1, sizeof(*qcow2));

	qcow2->layer = (struct layer){
		.ops = &layer_qcow2_ops, .size = image->header.disk_size, .fd = image->fd};
	qcow2->image = image;
	return &qcow2->layer;
}
