/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of both codecs: whole, followed by a neighbour's bytes, cut at every byte, damaged, of the wrong size. */
#include <libdeflate.h>
#include <string.h>
#include <zstd.h>

#include "tests/unit/unit.h"
#include "common/decompress.h"

#define CLUSTER 4096

struct stream {
	enum decompress_codec codec;
	unsigned char plain[CLUSTER];
	unsigned char bytes[2 * CLUSTER];
	size_t length;
};

/* Compressible, but not to nothing. */
static void fill_plain(unsigned char *bytes)
{
	unsigned state = 12345;

	for (size_t i = 0; i < CLUSTER; i++) {
		state = state * 1103515245u + 12345u;
		bytes[i] = (unsigned char)((state >> 16) & 0x0f);
	}
}

static struct stream make_stream(enum decompress_codec codec)
{
	struct stream stream = {.codec = codec};

	fill_plain(stream.plain);
	if (codec == DECOMPRESS_ZSTD) {
		stream.length =
			ZSTD_compress(stream.bytes, sizeof stream.bytes, stream.plain, CLUSTER, 3);
	} else {
		struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(6);
		stream.length = libdeflate_deflate_compress(
			compressor, stream.plain, CLUSTER, stream.bytes, sizeof stream.bytes);
		libdeflate_free_compressor(compressor);
	}
	ck_assert_uint_gt(stream.length, 100);
	ck_assert_uint_lt(stream.length, CLUSTER);
	return stream;
}

static int try_stream(const struct stream *stream, size_t stored, size_t length, struct err *err)
{
	static unsigned char yielded[2 * CLUSTER];
	struct decompressor *decompressor = decompressor_new();

	int rc = decompress(
		decompressor, stream->codec, stream->bytes, stored, yielded, length, err);
	if (rc == 0)
		ck_assert_mem_eq(yielded, stream->plain, length);
	decompressor_free(decompressor);
	return rc;
}

static const enum decompress_codec codecs[] = {DECOMPRESS_DEFLATE, DECOMPRESS_ZSTD};

START_TEST(a_stream_is_read_also_with_a_neighbour_behind_it)
{
	for (size_t i = 0; i < 2; i++) {
		struct stream stream = make_stream(codecs[i]);
		struct err err;

		memset(stream.bytes + stream.length, 0xa5, sizeof stream.bytes - stream.length);
		ck_assert_int_eq(try_stream(&stream, stream.length, CLUSTER, &err), 0);
		ck_assert_int_eq(try_stream(&stream, stream.length + 511, CLUSTER, &err), 0);
	}
}
END_TEST

START_TEST(a_stream_cut_at_any_byte_is_refused)
{
	for (size_t i = 0; i < 2; i++) {
		struct stream stream = make_stream(codecs[i]);

		for (size_t stored = 0; stored < stream.length; stored++) {
			struct err err = {0};
			ck_assert_int_eq(try_stream(&stream, stored, CLUSTER, &err), -1);
			ck_assert_uint_gt(strlen(err.text), 0);
		}
	}
}
END_TEST

START_TEST(a_stream_of_another_size_is_refused)
{
	for (size_t i = 0; i < 2; i++) {
		struct stream stream = make_stream(codecs[i]);
		struct err err;

		ck_assert_int_eq(try_stream(&stream, stream.length, CLUSTER + 1, &err), -1);
		ck_assert_int_eq(try_stream(&stream, stream.length, 2 * CLUSTER, &err), -1);
		ck_assert_int_eq(try_stream(&stream, stream.length, CLUSTER - 1, &err), -1);
	}
}
END_TEST

START_TEST(one_decompressor_reads_on_after_a_damaged_stream)
{
	struct decompressor *decompressor = decompressor_new();
	unsigned char yielded[CLUSTER];
	struct err err;

	for (size_t i = 0; i < 2; i++) {
		struct stream good = make_stream(codecs[i]);
		struct stream bad = good;

		memset(bad.bytes, 0xff, bad.length);
		ck_assert_int_eq(decompress(decompressor, bad.codec, bad.bytes, bad.length, yielded,
					 CLUSTER, &err),
			-1);
		ck_assert_int_eq(decompress(decompressor, good.codec, good.bytes, good.length,
					 yielded, CLUSTER, &err),
			0);
		ck_assert_mem_eq(yielded, good.plain, CLUSTER);
	}
	decompressor_free(decompressor);
}
END_TEST

UNIT_MAIN("decompress", a_stream_is_read_also_with_a_neighbour_behind_it,
	a_stream_cut_at_any_byte_is_refused, a_stream_of_another_size_is_refused,
	one_decompressor_reads_on_after_a_damaged_stream)
