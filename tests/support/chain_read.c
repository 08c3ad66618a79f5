/* SPDX-License-Identifier: Apache-2.0 */
/* chain_read [--seed N] [--map] [--first N] [--end N] LEAF [OUT]: writes a chain's guest bytes to OUT, through nothing but
 * chain_map, pread and decompression.  With a seed, it asks in pieces of random length, so that every border is met sooner or later;
 * --map prints the extents; --first and --end look at some layers only (ABSENT reads as zeroes). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/decompress.h"
#include "common/io.h"
#include "imaged/chain.h"

#define PIECE_MAX (UINT64_C(4) << 20)

static struct {
	unsigned seed;
	bool is_seeded, prints_map;
	size_t first, end;
} options = {.end = CHAIN_MAX};

static struct err err;
static struct decompressor *decompressor;

static NORETURN void die(const char *what)
{
	fprintf(stderr, "chain_read: %s: %s\n", what, err.text);
	exit(EXIT_FAILURE);
}

static uint64_t piece_length(uint64_t left)
{
	uint64_t length = PIECE_MAX;

	if (options.is_seeded) {
		unsigned bits = (unsigned)rand_r(&options.seed) % 23; /* up to PIECE_MAX */

		length = ((uint64_t)rand_r(&options.seed) & ((UINT64_C(1) << bits) - 1)) + 1;
	}
	return length < left ? length : left;
}

static void read_compressed(
	const struct chain *chain, const struct extent *extent, unsigned char *bytes)
{
	CLEANUP_FREE unsigned char *compressed = malloc(extent->host_length);
	CLEANUP_FREE unsigned char *plain = malloc(extent->cluster_size);

	if (!compressed || !plain ||
		pread_full(chain->layers[extent->layer].layer->fd, compressed, extent->host_length,
			extent->host_offset) < 0)
		die("reading a compressed cluster");
	if (decompress(decompressor, extent->codec == EXTENT_ZSTD ? DECOMPRESS_ZSTD : DECOMPRESS_DEFLATE,
		    compressed, extent->host_length, plain, extent->cluster_size, &err) < 0)
		die(chain->layers[extent->layer].path);
	memcpy(bytes, plain + extent->cluster_skip, extent->length);
}

static const char *kind_name(enum extent_kind kind)
{
	switch (kind) {
	case EXTENT_ABSENT:
		return "absent";
	case EXTENT_ZERO:
		return "zero";
	case EXTENT_DATA:
		return "data";
	case EXTENT_COMPRESSED:
		return "compressed";
	}
	return "?";
}

static void check_extent(const struct extent *extent, uint64_t asked)
{
	err_set(&err, "%s of %llu bytes where %llu were asked for", kind_name(extent->kind),
		(unsigned long long)extent->length, (unsigned long long)asked);
	if (extent->length == 0 || extent->length > asked)
		die("extent");
	if (extent->kind == EXTENT_COMPRESSED &&
		extent->cluster_skip + extent->length > extent->cluster_size)
		die("extent beyond its cluster");
}

static void copy_extent(
	const struct chain *chain, const struct extent *extent, uint64_t offset, int out)
{
	static unsigned char bytes[PIECE_MAX];

	if (extent->kind == EXTENT_DATA && pread_full(chain->layers[extent->layer].layer->fd, bytes,
						   extent->length, extent->host_offset) < 0)
		err_set_errno(&err, errno, "reading %s at %llu", chain->layers[extent->layer].path,
			(unsigned long long)extent->host_offset),
			die("pread");
	if (extent->kind == EXTENT_COMPRESSED)
		read_compressed(chain, extent, bytes);
	if (extent->kind == EXTENT_DATA || extent->kind == EXTENT_COMPRESSED) {
		if (pwrite_full(out, bytes, extent->length, offset) < 0)
			die("pwrite");
	}
}

static void print_extent(const struct extent *extent, uint64_t offset)
{
	printf("%llu %llu %s layer=%u host=%llu%s\n", (unsigned long long)offset,
		(unsigned long long)extent->length, kind_name(extent->kind), extent->layer,
		(unsigned long long)extent->host_offset, extent->past_end ? " past-end" : "");
}

static void read_chain(struct chain *chain, int out)
{
	size_t end = options.end < chain->count ? options.end : chain->count;

	for (uint64_t offset = 0; offset < chain->size;) {
		uint64_t left = chain->size - offset;
		uint64_t asked = options.prints_map ? left : piece_length(left);
		struct extent extent;

		if (chain_map(chain, options.first, end, offset, asked, &extent, &err) < 0)
			die("chain_map");
		check_extent(&extent, asked);
		if (options.prints_map)
			print_extent(&extent, offset);
		else
			copy_extent(chain, &extent, offset, out);
		offset += extent.length;
	}
}

static void parse_options(int argc, char **argv)
{
	static const struct option names[] = {{"seed", required_argument, NULL, 's'},
		{"map", no_argument, NULL, 'm'}, {"first", required_argument, NULL, 'f'},
		{"end", required_argument, NULL, 'e'}, {NULL, 0, NULL, 0}};
	int option;

	while ((option = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (option == 's') {
			options.seed = (unsigned)strtoul(optarg, NULL, 0);
			options.is_seeded = true;
		} else if (option == 'm') {
			options.prints_map = true;
		} else if (option == 'f') {
			options.first = strtoul(optarg, NULL, 0);
		} else if (option == 'e') {
			options.end = strtoul(optarg, NULL, 0);
		} else {
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	struct roots *roots = roots_new();
	struct chain *chain = NULL;
	int out = -1;

	decompressor = decompressor_new();
	parse_options(argc, argv);
	if (optind >= argc || (optind + 1 >= argc && !options.prints_map)) {
		fprintf(stderr,
			"usage: chain_read [--seed N] [--map] [--first N] [--end N] LEAF [OUT]\n");
		return 2;
	}
	if (roots_add(roots, "/", &err) < 0 ||
		chain_open(roots, argv[optind], NULL, true, &chain, &err) < 0)
		die("opening the chain");
	if (!options.prints_map) {
		out = open(argv[optind + 1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
		if (out < 0 || ftruncate(out, (off_t)chain->size) < 0)
			die(argv[optind + 1]);
	}
	read_chain(chain, out);
	chain_free(chain);
	roots_free(roots);
	decompressor_free(decompressor);
	if (out >= 0 && close(out) < 0)
		die(argv[optind + 1]);
	return 0;
}
