/* SPDX-License-Identifier: Apache-2.0 */
/* Where the bytes of a piece of a guest disk are: the answer of a layer, or of a whole chain. */
#ifndef SLUICE_IMAGED_EXTENT_H
#define SLUICE_IMAGED_EXTENT_H

#include <stdbool.h>
#include <stdint.h>

enum extent_kind {
	EXTENT_ABSENT,     /* this layer says nothing: look below (below the bottom: reads as zeroes) */
	EXTENT_ZERO,       /* reads as zeroes, whatever lies below */
	EXTENT_DATA,       /* plain bytes at host_offset of the layer's file */
	EXTENT_COMPRESSED, /* one whole compressed cluster; see below */
};

enum extent_codec { EXTENT_DEFLATE, EXTENT_ZSTD };

struct extent {
	enum extent_kind kind;
	uint64_t length;        /* guest bytes it covers from the offset asked for; never 0 */
	unsigned layer;         /* index in the chain, 0 = leaf; set by the chain */
	bool past_end;          /* ABSENT or ZERO only because the layer's disk ends before here (reads as zeroes there) */
	uint64_t host_offset;   /* DATA: first byte.  COMPRESSED: first byte of the compressed stream.  ZERO: of the
				 * preallocated cluster, 0 where it has none */
	/* COMPRESSED only */
	enum extent_codec codec;
	uint64_t host_length;   /* compressed bytes, at most; the stream may end earlier */
	uint64_t cluster_size;  /* decompressed bytes of the whole cluster */
	uint64_t cluster_skip;  /* where in the decompressed cluster the offset asked for stands */
};

#endif
