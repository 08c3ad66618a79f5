/* SPDX-License-Identifier: Apache-2.0 */
/* Deflate without any header, or zstd frames one after another.  Both straight into the caller's buffer, so that no window that a
 * stream asks for costs memory. */
#include "imaged/cluster_codec.h"

#include <libdeflate.h>
#include <zstd.h>

static int inflate_cluster(const void *compressed, size_t length, void *ret_plain,
	size_t plain_length, struct err *err)
{
	struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
	enum libdeflate_result result;
	size_t used;

	if (!decompressor)
		return err_set(err, "no memory for decompression");
	result = libdeflate_deflate_decompress_ex(
		decompressor, compressed, length, ret_plain, plain_length, &used, NULL);
	libdeflate_free_decompressor(decompressor);
	if (result != LIBDEFLATE_SUCCESS)
		return err_set(err, "the deflate stream of a compressed cluster is broken");
	return 0;
}

static int unzstd_cluster(const void *compressed, size_t length, void *ret_plain,
	size_t plain_length, struct err *err)
{
	const char *frame = compressed;
	char *plain = ret_plain;

	while (plain_length > 0) {
		size_t frame_length = ZSTD_findFrameCompressedSize(frame, length);
		size_t made;

		if (ZSTD_isError(frame_length))
			return err_set(err, "the zstd stream of a compressed cluster is broken: %s",
				ZSTD_getErrorName(frame_length));
		made = ZSTD_decompress(plain, plain_length, frame, frame_length);
		if (ZSTD_isError(made))
			return err_set(err, "the zstd stream of a compressed cluster is broken: %s",
				ZSTD_getErrorName(made));
		frame += frame_length;
		length -= frame_length;
		plain += made;
		plain_length -= made;
	}
	return 0;
}

int cluster_decompress(enum extent_codec codec, const void *compressed, size_t length,
	void *ret_plain, size_t plain_length, struct err *err)
{
	switch (codec) {
	case EXTENT_DEFLATE:
		return inflate_cluster(compressed, length, ret_plain, plain_length, err);
	case EXTENT_ZSTD:
		return unzstd_cluster(compressed, length, ret_plain, plain_length, err);
	}
	return err_set(err, "unknown codec %d", (int)codec);
}
