/* SPDX-License-Identifier: Apache-2.0 */
/* Copy orders carried out on real files: every codec, every alignment, and each way to end early. */
#include <errno.h>
#include <fcntl.h>
#include <libdeflate.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zstd.h>

#include "common/check.h"
#include "common/io.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"
#include "workers/copy_run.h"
#include "common/zero_test.h"

#define SOURCE_BYTES ((size_t)1 << 20)
#define LEAF_BYTES   ((size_t)6 << 20)
#define PIECES_MAX   256
#define UNTOUCHED    0xee

/* Two sources and a leaf full of UNTOUCHED; source 0 holds plain bytes, source 1 compressed clusters. */
struct stage {
	struct folder folder;
	struct copy_file sources[2];
	struct copy_files files;
	unsigned char *plain;  /* what source 0 holds */
	unsigned char *leaf;   /* what the leaf held before */
	unsigned char *wanted; /* what the range must become */
	struct source_extent pieces[PIECES_MAX];
	struct destination_extent destinations[PIECES_MAX];
	struct copy_order order;
	struct copy_machine *machine;
	struct copy_control control;
	struct copy_outcome outcome;
	uint64_t stored_end; /* of source 1 */
};

/* Stands before the C library's: copy_run's opening of the leaf, its writes and its flush come here. */
static struct {
	int leaf_fd;	 /* the description that all orders share */
	int own_fd;	 /* what this order opened */
	bool is_written; /* with it open */
	unsigned calls;
	int number; /* fail with this errno */
	const struct copy_control *control;
	uint64_t bytes_done; /* of the range when it was called */
} flush;

int open(const char *path, int flags, ...)
{
	int fd = openat(AT_FDCWD, path, flags, 0600);

	if (!strncmp(path, "/proc/self/fd/", 14))
		flush.own_fd = fd;
	return fd;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
	flush.is_written |= fd == flush.leaf_fd && flush.own_fd >= 0;
	return syscall(SYS_pwrite64, fd, bytes, length, offset);
}

/* Of a failure the kernel has told the shared description already. */
int fdatasync(int fd)
{
	bool is_told = fd >= 0 && fd == flush.own_fd && flush.is_written;

	flush.calls++;
	flush.bytes_done = flush.control ? atomic_load(&flush.control->bytes_done) : 0;
	errno = flush.number;
	return is_told && flush.number ? -1 : 0;
}

static uint32_t state = 7;

static uint32_t chance(uint32_t below)
{
	state = state * 1664525u + 1013904223u;
	return (uint32_t)(((uint64_t)state * below) >> 32);
}

static int make_file(
	const struct folder *folder, const char *name, const void *bytes, size_t length)
{
	int fd = open(folder_name(folder, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite_full(fd, bytes, length, 0), 0);
	return fd;
}

static void stage_init(struct stage *stage, size_t buffer_bytes)
{
	memset(stage, 0, sizeof *stage);
	stage->folder = folder_make();
	stage->plain = must_calloc(1, SOURCE_BYTES);
	stage->leaf = must_calloc(1, LEAF_BYTES);
	stage->wanted = must_calloc(1, LEAF_BYTES);
	for (size_t i = 0; i < SOURCE_BYTES; i++)
		stage->plain[i] = (unsigned char)(1 + chance(250));
	for (size_t i = 0; i < 40; i++) /* stretches of zeroes */
		memset(stage->plain + chance(SOURCE_BYTES - 20000), 0, 1 + chance(20000));
	memset(stage->leaf, UNTOUCHED, LEAF_BYTES);
	stage->sources[0] = (struct copy_file){
		make_file(&stage->folder, "plain", stage->plain, SOURCE_BYTES), "plain"};
	stage->sources[1] =
		(struct copy_file){make_file(&stage->folder, "stored", "", 0), "stored"};
	stage->files = (struct copy_files){
		.leaf = {make_file(&stage->folder, "leaf", stage->leaf, LEAF_BYTES), "leaf"},
		.sources = stage->sources,
	};
	stage->order.sources = stage->pieces;
	stage->order.destinations = stage->destinations;
	stage->order.guest_offset = 1 << 30;
	stage->machine = copy_machine_new(buffer_bytes);
}

static void stage_done(struct stage *stage)
{
	close(stage->sources[0].fd);
	close(stage->sources[1].fd);
	close(stage->files.leaf.fd);
	copy_machine_free(stage->machine);
	free(stage->plain);
	free(stage->leaf);
	free(stage->wanted);
	folder_remove(&stage->folder);
}

static struct source_extent *add_piece(struct stage *stage, enum codec codec, uint64_t length)
{
	struct source_extent *piece = &stage->pieces[stage->order.sources_count++];

	ck_assert_uint_le(stage->order.sources_count, PIECES_MAX);
	*piece = (struct source_extent){.codec = codec, .length = length};
	stage->order.length += length;
	return piece;
}

static unsigned char *wanted_end(struct stage *stage)
{
	return stage->wanted + stage->order.length;
}

static void add_zero(struct stage *stage, uint64_t length)
{
	memset(wanted_end(stage), 0, length);
	add_piece(stage, CODEC_ZERO, length);
}

static void add_plain(struct stage *stage, uint64_t offset, uint64_t length)
{
	memcpy(wanted_end(stage), stage->plain + offset, length);
	struct source_extent *piece = add_piece(stage, CODEC_PLAIN, length);
	piece->has_file = piece->has_offset = true;
	piece->offset = offset;
}

static size_t compress_cluster(
	enum codec codec, const void *plain, size_t length, void *ret, size_t room)
{
	if (codec == CODEC_ZSTD)
		return ZSTD_compress(ret, room, plain, length, 1);
	struct libdeflate_compressor *compressor = libdeflate_alloc_compressor(1);
	size_t stored = libdeflate_deflate_compress(compressor, plain, length, ret, room);
	libdeflate_free_compressor(compressor);
	return stored;
}

/* Several pieces of one compressed cluster, in order, with holes between them. */
static void add_compressed(struct stage *stage, enum codec codec, uint64_t cluster, unsigned pieces)
{
	static unsigned char stored[1 << 20];
	const unsigned char *plain = stage->plain + chance((uint32_t)(SOURCE_BYTES - cluster));
	size_t length = compress_cluster(codec, plain, cluster, stored, sizeof stored);

	ck_assert_uint_gt(length, 0);
	memset(stored + length, 0x5a, 512); /* the neighbour */
	ck_assert_int_eq(
		pwrite_full(stage->sources[1].fd, stored, length + 512, stage->stored_end), 0);
	for (unsigned i = 0; i < pieces; i++) {
		uint64_t part = cluster / pieces;
		uint64_t skip = i * part + chance((uint32_t)part);
		uint64_t taken = 1 + chance((uint32_t)((i + 1) * part - skip));
		memcpy(wanted_end(stage), plain + skip, taken);
		struct source_extent *piece = add_piece(stage, codec, taken);
		piece->has_file = piece->has_offset = piece->has_stored = piece->has_cluster = true;
		piece->file = 1;
		piece->offset = stage->stored_end;
		piece->stored = length + chance(2) * 512;
		piece->cluster = cluster;
		piece->has_skip = skip != 0;
		piece->skip = skip;
	}
	stage->stored_end += length + 512;
}

/* Clusters in runs, in falling and rising order, with gaps. */
static void add_destinations(struct stage *stage, uint32_t cluster)
{
	struct copy_order *order = &stage->order;
	uint64_t left = order->length;
	uint64_t low = cluster, high = LEAF_BYTES;

	order->cluster_bytes = cluster;
	while (left > 0) {
		uint64_t run = (1 + chance(5)) * (uint64_t)cluster;
		run = run < left && order->destinations_count < PIECES_MAX - 1 ? run : left;
		uint64_t offset = chance(2) ? low : high - run;
		if (offset == low)
			low += run + (chance(3) == 0) * (uint64_t)cluster;
		else
			high -= run + (chance(3) == 0) * (uint64_t)cluster;
		ck_assert_uint_le(low, high);
		order->destinations[order->destinations_count++] =
			(struct destination_extent){.offset = offset, .length = run};
		left -= run;
	}
}

static void run(struct stage *stage)
{
	flush.calls = 0;
	flush.leaf_fd = stage->files.leaf.fd;
	flush.own_fd = -1;
	flush.is_written = false;
	flush.control = &stage->control;
	copy_run(stage->machine, &stage->order, &stage->files, &stage->control, &stage->outcome);
}

static bool is_reported_zero(const struct stage *stage, uint64_t position)
{
	for (size_t i = 0; i < stage->outcome.zeroes_count; i++) {
		const struct guest_range *zero = &stage->outcome.zeroes[i];
		if (position >= zero->offset && position < zero->offset + zero->length)
			return true;
	}
	return false;
}

/* Brings stage->leaf to what the leaf must hold now, and compares. */
static void assert_leaf(struct stage *stage)
{
	const struct copy_order *order = &stage->order;
	unsigned char *found = must_calloc(1, LEAF_BYTES);
	uint64_t position = 0, written = 0;

	for (size_t i = 0; i < order->destinations_count; i++) {
		const struct destination_extent *d = &order->destinations[i];
		for (uint64_t at = 0; at < d->length; at += order->cluster_bytes) {
			const unsigned char *cluster = stage->wanted + position;
			if (is_reported_zero(stage, position)) {
				ck_assert(bytes_are_zero(cluster, order->cluster_bytes));
			} else {
				memcpy(stage->leaf + d->offset + at, cluster, order->cluster_bytes);
				written += order->cluster_bytes;
			}
			position += order->cluster_bytes;
		}
	}
	ck_assert_int_eq(pread_full(stage->files.leaf.fd, found, LEAF_BYTES, 0), 0);
	ck_assert(memcmp(found, stage->leaf, LEAF_BYTES) == 0);
	ck_assert_uint_eq(stage->outcome.bytes_written, written);
	free(found);
}

static void assert_zeroes_ascend(const struct stage *stage)
{
	uint64_t end = 0;

	for (size_t i = 0; i < stage->outcome.zeroes_count; i++) {
		const struct guest_range *zero = &stage->outcome.zeroes[i];
		ck_assert_uint_gt(zero->length, 0);
		ck_assert_uint_eq(zero->offset % stage->order.cluster_bytes, 0);
		ck_assert_uint_eq(zero->length % stage->order.cluster_bytes, 0);
		ck_assert(i == 0 || zero->offset > end);
		end = zero->offset + zero->length;
	}
	ck_assert_uint_le(end, stage->order.length);
}

static void add_by_chance(struct stage *stage)
{
	switch (chance(4)) {
	case 0:
		add_zero(stage, 1 + chance(70000));
		break;
	case 1:
		add_compressed(stage, CODEC_DEFLATE, 512u << chance(8), 1 + chance(3));
		break;
	case 2:
		add_compressed(stage, CODEC_ZSTD, 512u << chance(8), 1 + chance(3));
		break;
	default: {
		uint32_t length = 1 + chance(150000);
		add_plain(stage, chance((uint32_t)SOURCE_BYTES - length), length);
	}
	}
}

static void copy_by_chance(bool detects_zeroes)
{
	for (unsigned round = 0; round < 50; round++) {
		struct stage stage;
		uint32_t cluster = 512u << chance(9);

		stage_init(&stage, (size_t)4096 << chance(8));
		stage.order.detect_zeroes = detects_zeroes;
		for (unsigned i = 1 + chance(12); i-- > 0;)
			add_by_chance(&stage);
		uint64_t tail = stage.order.length % cluster;
		if (tail)
			add_zero(&stage, cluster - tail);
		add_destinations(&stage, cluster);

		run(&stage);

		ck_assert_int_eq(stage.outcome.end, COPY_END_COPIED);
		ck_assert_uint_eq(atomic_load(&stage.control.bytes_done), stage.order.length);
		assert_zeroes_ascend(&stage);
		ck_assert(detects_zeroes || stage.outcome.zeroes_count == 0);
		assert_leaf(&stage);
		stage_done(&stage);
	}
}

START_TEST(any_mix_of_pieces_reaches_its_place_and_zeroes_are_left_out)
{
	copy_by_chance(true);
}
END_TEST

START_TEST(zeroes_are_written_where_they_may_not_be_left_out)
{
	copy_by_chance(false);
}
END_TEST

START_TEST(every_cluster_of_zeroes_is_left_out)
{
	struct stage stage;

	stage_init(&stage, 8192);
	stage.order.detect_zeroes = true;
	add_zero(&stage, 4096);
	memset(stage.plain, 1, 4096);
	ck_assert_int_eq(pwrite_full(stage.sources[0].fd, stage.plain, 4096, 0), 0);
	add_plain(&stage, 0, 4096);
	add_zero(&stage, 65536);
	add_destinations(&stage, 4096);

	run(&stage);

	ck_assert_int_eq(stage.outcome.end, COPY_END_COPIED);
	ck_assert_uint_eq(stage.outcome.zeroes_count, 2);
	ck_assert_uint_eq(stage.outcome.zeroes[1].offset, 8192);
	ck_assert_uint_eq(stage.outcome.zeroes[1].length, 65536);
	ck_assert_uint_eq(stage.outcome.bytes_written, 4096);
	assert_leaf(&stage);
	stage_done(&stage);
}
END_TEST

START_TEST(zeroes_beyond_what_a_report_holds_are_written)
{
	struct stage stage;
	const uint32_t clusters = 2 * COPY_ZEROES_MAX + 200;
	static unsigned char every_second[2 * 512];

	stage_init(&stage, 65536);
	stage.order.detect_zeroes = true;
	every_second[0] = 1;
	for (uint32_t at = 0; at < clusters * 512; at += sizeof every_second) {
		uint32_t offset = at % (uint32_t)SOURCE_BYTES;
		memcpy(stage.plain + offset, every_second, sizeof every_second);
	}
	ck_assert_int_eq(pwrite_full(stage.sources[0].fd, stage.plain, SOURCE_BYTES, 0), 0);
	for (uint32_t left = clusters * 512; left > 0;) {
		uint32_t part = left < SOURCE_BYTES ? left : (uint32_t)SOURCE_BYTES;
		add_plain(&stage, 0, part);
		left -= part;
	}
	stage.order.cluster_bytes = 512;
	stage.order.destinations_count = 1;
	stage.destinations[0] = (struct destination_extent){512, stage.order.length};

	run(&stage);

	ck_assert_int_eq(stage.outcome.end, COPY_END_COPIED);
	ck_assert_uint_eq(stage.outcome.zeroes_count, COPY_ZEROES_MAX);
	assert_zeroes_ascend(&stage);
	assert_leaf(&stage);
	stage_done(&stage);
}
END_TEST

static void assert_failed(const struct stage *stage, enum operation operation, const char *path,
	int number, const char *words)
{
	ck_assert_int_eq(stage->outcome.end, COPY_END_FAILED);
	ck_assert_int_eq(stage->outcome.failure.operation, operation);
	ck_assert_str_eq(stage->outcome.failure.path, path);
	ck_assert_int_eq(stage->outcome.failure.err.number, number);
	ck_assert_msg(strstr(stage->outcome.failure.err.text, words), "'%s' lacks '%s'",
		stage->outcome.failure.err.text, words);
}

START_TEST(a_source_that_ends_too_early_is_a_read_error)
{
	struct stage stage;

	stage_init(&stage, 16384);
	add_plain(&stage, SOURCE_BYTES - 65536, 65536);
	add_destinations(&stage, 16384);
	ck_assert_int_eq(ftruncate(stage.sources[0].fd, SOURCE_BYTES - 100), 0);

	run(&stage);

	assert_failed(&stage, OPERATION_READ, "plain", EIO, "unexpected end of file");
	ck_assert_uint_eq(stage.outcome.failure.guest_offset, (1 << 30) + 49152);
	ck_assert_uint_eq(stage.outcome.failure.length, 16384);
	stage_done(&stage);
}
END_TEST

START_TEST(a_stream_that_yields_too_little_is_a_read_error)
{
	for (unsigned i = 0; i < 3; i++) {
		struct stage stage;

		stage_init(&stage, 1 << 20);
		add_compressed(&stage, i == 1 ? CODEC_ZSTD : CODEC_DEFLATE, 65536, 1);
		uint64_t tail = 65536 - stage.order.length;
		if (tail)
			add_zero(&stage, tail);
		add_destinations(&stage, 65536);
		if (i < 2)
			stage.pieces[0].stored = 20;
		else
			stage.pieces[0].offset += 1 << 20;

		run(&stage);

		assert_failed(&stage, OPERATION_READ, "stored", EIO,
			i == 0	 ? "deflate"
			: i == 1 ? "zstd"
				 : "unexpected end of file");
		stage_done(&stage);
	}
}
END_TEST

START_TEST(a_leaf_that_cannot_be_written_is_a_write_error)
{
	struct stage stage;

	stage_init(&stage, 1 << 20);
	add_plain(&stage, 0, 65536);
	add_destinations(&stage, 65536);
	close(stage.files.leaf.fd);
	stage.files.leaf.fd = open("/dev/full", O_RDWR | O_CLOEXEC);

	run(&stage);

	assert_failed(&stage, OPERATION_WRITE, "leaf", ENOSPC, "No space left on device");
	stage_done(&stage);
}
END_TEST

START_TEST(what_was_written_is_flushed_once_at_the_end)
{
	struct stage stage;

	stage_init(&stage, 65536);
	add_plain(&stage, 0, 655360);
	add_destinations(&stage, 65536);

	run(&stage);

	ck_assert_int_eq(stage.outcome.end, COPY_END_COPIED);
	ck_assert_uint_eq(flush.calls, 1);
	ck_assert_uint_eq(flush.bytes_done, 655360);
	stage_done(&stage);
}
END_TEST

START_TEST(a_failed_flush_is_told_as_such_and_not_tried_again)
{
	struct stage stage;

	stage_init(&stage, 65536);
	add_plain(&stage, 0, 655360);
	add_destinations(&stage, 65536);
	flush.number = EIO;

	run(&stage);

	assert_failed(&stage, OPERATION_FLUSH, "leaf", EIO, "flush 'leaf': Input/output error");
	ck_assert_uint_eq(stage.outcome.failure.length, 655360);
	ck_assert_uint_eq(flush.calls, 1);
	stage_done(&stage);
}
END_TEST

START_TEST(a_run_that_is_told_to_stop_writes_no_more)
{
	struct stage stage;

	stage_init(&stage, 65536);
	add_plain(&stage, 0, 655360);
	add_destinations(&stage, 65536);
	atomic_store(&stage.control.stop, true);

	run(&stage);

	ck_assert_int_eq(stage.outcome.end, COPY_END_STOPPED);
	ck_assert_uint_eq(stage.outcome.bytes_written, 0);
	ck_assert_uint_eq(atomic_load(&stage.control.bytes_done), 0);
	stage_done(&stage);
}
END_TEST

UNIT_MAIN("copy_run", what_was_written_is_flushed_once_at_the_end,
	a_failed_flush_is_told_as_such_and_not_tried_again,
	any_mix_of_pieces_reaches_its_place_and_zeroes_are_left_out,
	zeroes_are_written_where_they_may_not_be_left_out, every_cluster_of_zeroes_is_left_out,
	zeroes_beyond_what_a_report_holds_are_written, a_source_that_ends_too_early_is_a_read_error,
	a_stream_that_yields_too_little_is_a_read_error,
	a_leaf_that_cannot_be_written_is_a_write_error, a_run_that_is_told_to_stop_writes_no_more)
