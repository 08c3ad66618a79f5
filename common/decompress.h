/* SPDX-License-Identifier: Apache-2.0 */
/* Decompresses whole clusters.  One decompressor per thread. */
#ifndef SLUICE_COMMON_DECOMPRESS_H
#define SLUICE_COMMON_DECOMPRESS_H

#include <stddef.h>

#include "common/attributes.h"
#include "common/err.h"

enum decompress_codec {
	DECOMPRESS_DEFLATE, /* raw, RFC 1951 */
	DECOMPRESS_ZSTD,    /* one frame */
};

struct decompressor;

/* Ends the process where there is no memory. */
struct decompressor *decompressor_new(void);
void decompressor_free(struct decompressor *decompressor);

/* Turns the stream at the beginning of `stored` into exactly `length` bytes at `ret_bytes`; what follows the stream is not
 * looked at.  0, or -1 and err: damaged, cut off, or it yields fewer or more bytes; `ret_bytes` then holds anything. */
int MUST_CHECK decompress(struct decompressor *decompressor, enum decompress_codec codec,
	const void *stored, size_t stored_bytes, void *ret_bytes, size_t length, struct err *err);

#endif
