/* SPDX-License-Identifier: Apache-2.0 */
/* Private to schemas/wire*.c: bytes that passed the guard, as msgpack-c reads them. */
#ifndef SLUICE_SCHEMAS_WIRE_TREE_H
#define SLUICE_SCHEMAS_WIRE_TREE_H

#include <msgpack.h>

#include "schemas/wire.h"

/* All zero is an empty one. */
struct wire_tree {
	msgpack_unpacked unpacked;
};

/* 0, or -1 and err.  Strs and bins point into `bytes`.  The caller ends it with wire_tree_done in either case. */
int MUST_CHECK wire_tree_read(struct wire_tree *tree, struct wire_bytes bytes,
	const struct wire_limits *limits, struct err *err);
void wire_tree_done(struct wire_tree *tree);
static inline const msgpack_object *wire_tree_root(const struct wire_tree *tree)
{
	return &tree->unpacked.data;
}

/* Packs into the buffer. */
msgpack_packer wire_packer(struct wire_buffer *buffer);

#endif
