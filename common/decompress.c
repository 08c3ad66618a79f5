/* SPDX-License-Identifier: Apache-2.0 */
/* The only file that knows libdeflate and libzstd.
 *
 * A compressed cluster's length is known only in sectors, so bytes of its neighbour may follow the stream; both
 * libraries are used in the way that stops at the stream's own end. */
#include "common/decompress.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <zstd.h>

#include "common/check.h"

struct decompressor {
	struct libdeflate_decompressor *deflate;
	ZSTD_DCtx *zstd;
};

struct decompressor *decompressor_new(void)
{
	struct decompressor *decompressor = must_calloc(1, sizeof *decompressor);

	decompressor->deflate = libdeflate_alloc_decompressor();
	decompressor->zstd = ZSTD_createDCtx();
	bug_if(!decompressor->deflate || !decompressor->zstd);
	return decompressor;
}

void decompressor_free(struct decompressor *decompressor)
{
	if (!decompressor)
		return;
	libdeflate_free_decompressor(decompressor->deflate);
	ZSTD_freeDCtx(decompressor->zstd);
	free(decompressor);
}

static int inflate_cluster(struct decompressor *decompressor, const void *stored,
	size_t stored_bytes, void *ret_bytes, size_t length, struct err *err)
{
	size_t consumed = 0;
	size_t yielded = 0;
	enum libdeflate_result result = libdeflate_deflate_decompress_ex(decompressor->deflate,
		stored, stored_bytes, ret_bytes, length, &consumed, &yielded);

	switch (result) {
	case LIBDEFLATE_SUCCESS:
		break;
	case LIBDEFLATE_INSUFFICIENT_SPACE:
		return err_set(err, "the deflate stream yields more than %zu bytes", length);
	case LIBDEFLATE_BAD_DATA:
	case LIBDEFLATE_SHORT_OUTPUT:
		return err_set(err, "the deflate stream is damaged or cut off");
	}
	if (yielded != length)
		return err_set(
			err, "the deflate stream yields %zu bytes instead of %zu", yielded, length);
	return 0;
}

static int unzstd_cluster(struct decompressor *decompressor, const void *stored,
	size_t stored_bytes, void *ret_bytes, size_t length, struct err *err)
{
	ZSTD_inBuffer input = {.src = stored, .size = stored_bytes};
	ZSTD_outBuffer output = {.dst = ret_bytes, .size = length};
	size_t left = 1;

	ZSTD_DCtx_reset(decompressor->zstd, ZSTD_reset_session_only);
	while (left > 0) {
		size_t consumed_before = input.pos;
		size_t yielded_before = output.pos;

		left = ZSTD_decompressStream(decompressor->zstd, &output, &input);
		if (ZSTD_isError(left))
			return err_set(
				err, "the zstd frame is damaged: %s", ZSTD_getErrorName(left));
		if (left > 0 && input.pos == consumed_before && output.pos == yielded_before)
			return err_set(err, "the zstd frame %s",
				output.pos == length ? "yields more than the cluster"
						     : "is cut off");
	}
	if (output.pos != length)
		return err_set(
			err, "the zstd frame yields %zu bytes instead of %zu", output.pos, length);
	return 0;
}

int decompress(struct decompressor *decompressor, enum decompress_codec codec, const void *stored,
	size_t stored_bytes, void *ret_bytes, size_t length, struct err *err)
{
	switch (codec) {
	case DECOMPRESS_DEFLATE:
		return inflate_cluster(decompressor, stored, stored_bytes, ret_bytes, length, err);
	case DECOMPRESS_ZSTD:
		return unzstd_cluster(decompressor, stored, stored_bytes, ret_bytes, length, err);
	}
	return err_set(err, "there is no codec %d", (int)codec);
}
