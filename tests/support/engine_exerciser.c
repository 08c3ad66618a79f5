/* SPDX-License-Identifier: Apache-2.0 */
/* Does to a leaf what streaming does to it, by a random plan of a printed seed, and keeps a raw file beside it up to date with what
 * a guest must read: for tests, which let other programs judge the leaf.
 *
 *   engine_exerciser LEAF SHADOW [--seed N] [--steps N] [--copy] [--switch NAME FORMAT] [--keep] [--no-trim] [--all] [--full]
 *                    [--time] [--threads N]
 *
 * --copy: writes only what the shadow says already, so that the content is right whenever the process ends.  --all: copies every
 * cluster that the leaf lacks at the end (and --switch to nothing is allowed then).  --keep: ends with reservations held.
 * --full: copies on until there is no space left, which must happen.  --no-trim: ends without giving anything back.  --time: prints how long reserving takes.  --threads: N
 * threads fill a part of the disk each, while the first one trims and flushes.  Without steps it only opens, trims
 * and closes. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/attributes.h"
#include "common/check.h"
#include "common/io.h"
#include "imaged/qcow2.h"
#include "imaged/qcow2_update.h"

#define HELD_MAX 8
#define RUNS_MAX 16

/* One of the threads that fill the disk together. */
struct filling {
	pthread_t thread;
	unsigned number;
};

/* A range whose clusters are reserved and written, but not mapped yet. */
struct held {
	uint64_t offset; /* guest */
	struct cluster_run runs[RUNS_MAX];
	unsigned runs_count;
};

static struct {
	struct qcow2 *image;
	int shadow;
	uint64_t seed, steps;
	bool is_copy, keeps, trims, copies_all, fills_up, is_full, is_timed;
	const char *switch_name, *switch_format;
	struct held held[HELD_MAX];
	unsigned held_count;
	unsigned skip_percent, threads;

	/* What is in use for one step.  Kept here, where it is found when a failure ends the process: the address sanitizer shall
	 * complain of nothing but what the engine has lost. */
	unsigned char *bytes, *bitmap,
		*visited; /* visited: clusters of the last range that a zero mapping took */
	uint64_t visited_offset;
	struct filling *fillings;
} run = {.seed = 1, .trims = true};

static void NORETURN fail(const char *what, const struct err *err)
{
	fprintf(stderr, "engine_exerciser: seed %llu: %s: %s\n", (unsigned long long)run.seed, what,
		err ? err->text : strerror(errno));
	exit(1);
}

/* Frees one of run's buffers. */
static void give_back(unsigned char **buffer)
{
	free(*buffer);
	*buffer = NULL;
}

static uint64_t random_number(void)
{
	static uint64_t state;

	if (state == 0)
		state = run.seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t below(uint64_t limit)
{
	return random_number() % limit;
}

static uint64_t cluster_size(void)
{
	return run.image->header.cluster_size;
}

/* A random range of whole clusters; the last one may reach past the disk's end. */
static void random_range(uint64_t *ret_offset, uint64_t *ret_length)
{
	uint64_t clusters = (run.image->header.disk_size + cluster_size() - 1) / cluster_size();
	uint64_t first = below(clusters), most = below(4) == 0 ? 512 : 16;
	uint64_t count = 1 + below(most);

	if (most * cluster_size() > (UINT64_C(32) << 20))
		count = 1 + below(8);
	if (count > clusters - first)
		count = clusters - first;
	*ret_offset = first * cluster_size();
	*ret_length = count * cluster_size();
}

/* The guest's bytes of a cluster: what the shadow has, or something new. */
static void fill(unsigned char *bytes, uint64_t guest)
{
	memset(bytes, 0, cluster_size());
	if (run.is_copy) {
		if (pread_up_to(run.shadow, bytes, cluster_size(), guest) < 0)
			fail("reading the shadow", NULL);
		return;
	}
	for (uint64_t i = 0; i < cluster_size(); i += 8) {
		uint64_t word = random_number();

		memcpy(bytes + i, &word, 8);
	}
}

static void write_shadow(const unsigned char *bytes, uint64_t guest)
{
	uint64_t length = run.image->header.disk_size - guest;

	if (length > cluster_size())
		length = cluster_size();
	if (!run.is_copy && pwrite_full(run.shadow, bytes, length, guest) < 0)
		fail("writing the shadow", NULL);
}

static bool random_skip(void *owner, uint64_t guest)
{
	(void)owner;
	(void)guest;
	return below(100) < run.skip_percent;
}

static void release_unmapped(const struct cluster_run *run_of, const unsigned char *bitmap)
{
	uint64_t count = run_of->length / cluster_size();

	for (uint64_t i = 0; i < count; i++) {
		if (!(bitmap[i / 8] >> (i % 8) & 1))
			qcow2_release(
				run.image, run_of->offset + i * cluster_size(), cluster_size());
	}
}

/* -1: the disk is full, as it was meant to be. */
static int prepare_or_stop(uint64_t offset, uint64_t length)
{
	struct err err;

	if (qcow2_prepare_tables(run.image, offset, length, &err) == 0)
		return 0;
	if (!run.fills_up || err.number != ENOSPC)
		fail("preparing tables", &err);
	run.is_full = true;
	return -1;
}

static void map_held(struct held *held)
{
	uint64_t guest = held->offset, mapped;
	struct err err;

	run.bytes = must_calloc(1, cluster_size());
	for (unsigned i = 0; i < held->runs_count; i++) {
		const struct cluster_run *one = &held->runs[i];
		uint64_t count = one->length / cluster_size(), seen = 0;

		run.bitmap = must_calloc(count / 8 + 1, 1);
		if (prepare_or_stop(guest, one->length) < 0) {
			qcow2_release(run.image, one->offset, one->length);
			give_back(&run.bitmap);
			guest += one->length;
			continue;
		}
		if (qcow2_map_clusters(run.image, guest, one->length, one->offset, random_skip,
			    NULL, &mapped, run.bitmap, &err) < 0)
			fail("mapping", &err);
		for (uint64_t k = 0; k < count; k++) {
			if (!(run.bitmap[k / 8] >> (k % 8) & 1))
				continue;
			seen += cluster_size();
			if (pread_full(run.image->fd, run.bytes, cluster_size(),
				    one->offset + k * cluster_size()) < 0)
				fail("reading a mapped cluster", NULL);
			write_shadow(run.bytes, guest + k * cluster_size());
		}
		if (seen != mapped) {
			snprintf(err.text, sizeof(err.text),
				"%llu bytes mapped, %llu in the bitmap", (unsigned long long)mapped,
				(unsigned long long)seen);
			fail("mapping", &err);
		}
		release_unmapped(one, run.bitmap);
		give_back(&run.bitmap);
		guest += one->length;
	}
	give_back(&run.bytes);
}

static void release_held(const struct held *held)
{
	for (unsigned i = 0; i < held->runs_count; i++)
		qcow2_release(run.image, held->runs[i].offset, held->runs[i].length);
}

/* Reserves clusters for (the beginning of) a range and writes them.  -1: the disk is full, as it was meant to be. */
static int reserve_and_write(uint64_t offset, uint64_t length, unsigned runs_max, struct held *held)
{
	uint64_t guest = offset;
	struct err err;

	*held = (struct held){.offset = offset};
	if (qcow2_reserve(run.image, length, held->runs, runs_max, &held->runs_count, &err) < 0) {
		if (!run.fills_up || err.number != ENOSPC)
			fail("reserving", &err);
		run.is_full = true;
		return -1;
	}
	for (unsigned i = 0; i < held->runs_count; i++) {
		run.bytes = must_calloc(1, held->runs[i].length);
		for (uint64_t at = 0; at < held->runs[i].length; at += cluster_size())
			fill(run.bytes + at, guest + at);
		if (pwrite_full(run.image->fd, run.bytes, held->runs[i].length,
			    held->runs[i].offset) < 0)
			fail("writing reserved clusters", NULL);
		give_back(&run.bytes);
		guest += held->runs[i].length;
	}
	if (fdatasync(run.image->fd) < 0)
		fail("flushing", NULL);
	return 0;
}

/* What was reserved for a range is mapped, given back or kept for later. */
static void copy_range(uint64_t offset, uint64_t length)
{
	struct held held;

	if (reserve_and_write(offset, length, 1 + (unsigned)below(RUNS_MAX), &held) < 0)
		return;
	if (run.held_count < HELD_MAX && below(4) == 0)
		run.held[run.held_count++] = held;
	else if (below(8) == 0)
		release_held(&held);
	else
		map_held(&held);
}

static void map_one_held(void)
{
	unsigned which;

	if (run.held_count == 0)
		return;
	which = (unsigned)below(run.held_count);
	if (below(4) == 0)
		release_held(&run.held[which]);
	else
		map_held(&run.held[which]);
	run.held[which] = run.held[--run.held_count];
}

static bool remember_visit(void *owner, uint64_t guest)
{
	uint64_t i = (guest - run.visited_offset) / cluster_size();

	(void)owner;
	if (below(100) < run.skip_percent)
		return true;
	run.visited[i] = 1;
	return false;
}

/* Explicit zeroes; where the content must stay, only over what reads as zeroes. */
static void zero_range(uint64_t offset, uint64_t length)
{
	uint64_t count = length / cluster_size(), mapped, seen = 0;
	struct err err;

	if (run.image->header.version < 3 || run.is_copy)
		return;
	run.bytes = must_calloc(1, cluster_size());
	run.visited = must_calloc(count, 1);
	run.visited_offset = offset;
	if (qcow2_prepare_tables(run.image, offset, length, &err) < 0)
		fail("preparing tables", &err);
	if (qcow2_map_zeroes(run.image, offset, length, remember_visit, NULL, &mapped, &err) < 0)
		fail("mapping zeroes", &err);
	for (uint64_t i = 0; i < count; i++) {
		seen += run.visited[i] * cluster_size();
		if (run.visited[i])
			write_shadow(run.bytes, offset + i * cluster_size());
	}
	if (seen != mapped)
		fail("mapping zeroes: the sum differs", NULL);
	give_back(&run.visited);
	give_back(&run.bytes);
}

static void step(void)
{
	uint64_t offset, length, choice = below(100);
	struct err err;

	random_range(&offset, &length);
	if (choice < 60)
		copy_range(offset, length);
	else if (choice < 75)
		map_one_held();
	else if (choice < 90)
		zero_range(offset, length);
	else if (choice < 95 && qcow2_flush(run.image, &err) < 0)
		fail("flushing", &err);
	else if (choice >= 95 && qcow2_trim(run.image, false, &err) < 0)
		fail("trimming", &err);
}

/* The rest of the disk, so that nothing below is needed; or as much of it as there is space for. */
static void copy_all(void)
{
	uint64_t offset = 0, size = run.image->header.disk_size;
	struct err err;

	run.skip_percent = 0;
	while (offset < size && !run.is_full) {
		struct extent extent;
		struct held held;
		uint64_t length;

		if (qcow2_map(run.image, offset, size - offset, &extent, &err) < 0)
			fail("looking up", &err);
		if (extent.kind != EXTENT_ABSENT) {
			offset += extent.length;
			continue;
		}
		length = (extent.length + cluster_size() - 1) / cluster_size() * cluster_size();
		if (length > cluster_size() * 64)
			length = cluster_size() * 64;
		if (reserve_and_write(offset, length, RUNS_MAX, &held) == 0)
			map_held(&held);
	}
	if (run.fills_up && !run.is_full)
		fail("filling the disk: there is still space", NULL);
}

static double milliseconds_since(const struct timespec *begin)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - begin->tv_sec) * 1e3 +
	       (double)(now.tv_nsec - begin->tv_nsec) / 1e6;
}

/* Reserves and maps 64 MiB again and again. */
static void measure(void)
{
	const uint64_t length = UINT64_C(64) << 20;

	for (uint64_t offset = 0; offset + length <= run.image->header.disk_size;
		offset += length) {
		struct cluster_run runs[RUNS_MAX];
		uint64_t mapped, guest = offset;
		struct timespec begin;
		double reserving, preparing;
		unsigned count;
		struct err err;

		clock_gettime(CLOCK_MONOTONIC, &begin);
		if (qcow2_reserve(run.image, length, runs, RUNS_MAX, &count, &err) < 0)
			fail("reserving", &err);
		reserving = milliseconds_since(&begin);
		clock_gettime(CLOCK_MONOTONIC, &begin);
		if (qcow2_prepare_tables(run.image, offset, length, &err) < 0)
			fail("preparing", &err);
		preparing = milliseconds_since(&begin);
		clock_gettime(CLOCK_MONOTONIC, &begin);
		for (unsigned i = 0; i < count; i++) {
			if (qcow2_map_clusters(run.image, guest, runs[i].length, runs[i].offset,
				    NULL, NULL, &mapped, NULL, &err) < 0)
				fail("mapping", &err);
			guest += runs[i].length;
		}
		printf("reserve %.3f ms (%u runs), tables %.3f ms, map %.3f ms\n", reserving, count,
			preparing, milliseconds_since(&begin));
	}
}

/* Fills [offset, end) of the disk in small pieces, every third of them reserved in vain first. */
static void fill_part(uint64_t offset, uint64_t end, unsigned char mark)
{
	for (uint64_t number = 0; offset < end; number++) {
		uint64_t length = cluster_size() * (1 + number % 7), mapped;
		struct cluster_run runs[1];
		unsigned char *bytes;
		struct extent extent;
		struct err err;
		unsigned count;
		bool is_written;

		if (length > end - offset)
			length = end - offset;
		if (qcow2_reserve(run.image, length, runs, 1, &count, &err) < 0)
			fail("reserving", &err);
		length = runs[0].length;
		if (number % 3 == 2) {
			qcow2_release(run.image, runs[0].offset, length);
			continue;
		}
		bytes = must_calloc(1, length);
		memset(bytes, mark + (int)(number % 50), length);
		is_written = pwrite_full(run.image->fd, bytes, length, runs[0].offset) == 0 &&
			     pwrite_full(run.shadow, bytes, length, offset) == 0;
		free(bytes);
		if (!is_written)
			fail("writing", NULL);
		if (qcow2_prepare_tables(run.image, offset, length, &err) < 0 ||
			qcow2_map_clusters(run.image, offset, length, runs[0].offset, NULL, NULL,
				&mapped, NULL, &err) < 0 ||
			qcow2_map(run.image, offset, length, &extent, &err) < 0)
			fail("mapping", &err);
		if (mapped != length || extent.kind != EXTENT_DATA)
			fail("mapping: something was there already", NULL);
		offset += length;
	}
}

static void *filling_thread(void *filling)
{
	uint64_t part = run.image->header.disk_size / run.threads / cluster_size() * cluster_size();
	unsigned which = ((const struct filling *)filling)->number;

	fill_part(which * part, (which + 1) * part, (unsigned char)(which * 50));
	return NULL;
}

static void use_threads(void)
{
	struct err err;

	run.fillings = must_calloc(run.threads, sizeof(*run.fillings));
	for (unsigned i = 0; i < run.threads; i++) {
		run.fillings[i].number = i;
		if (pthread_create(
			    &run.fillings[i].thread, NULL, filling_thread, &run.fillings[i]) != 0)
			fail("starting a thread", NULL);
	}
	for (int i = 0; i < 20; i++) {
		if (qcow2_flush(run.image, &err) < 0 || qcow2_trim(run.image, true, &err) < 0)
			fail("trimming", &err);
	}
	for (unsigned i = 0; i < run.threads; i++)
		pthread_join(run.fillings[i].thread, NULL);
	free(run.fillings);
	run.fillings = NULL;
}

static void parse(int count, char **arguments)
{
	for (int i = 3; i < count; i++) {
		if (strcmp(arguments[i], "--seed") == 0 && i + 1 < count)
			run.seed = strtoull(arguments[++i], NULL, 10);
		else if (strcmp(arguments[i], "--steps") == 0 && i + 1 < count)
			run.steps = strtoull(arguments[++i], NULL, 10);
		else if (strcmp(arguments[i], "--copy") == 0)
			run.is_copy = true;
		else if (strcmp(arguments[i], "--keep") == 0)
			run.keeps = true;
		else if (strcmp(arguments[i], "--no-trim") == 0)
			run.trims = false;
		else if (strcmp(arguments[i], "--all") == 0)
			run.copies_all = true;
		else if (strcmp(arguments[i], "--full") == 0)
			run.copies_all = run.fills_up = true;
		else if (strcmp(arguments[i], "--time") == 0)
			run.is_timed = true;
		else if (strcmp(arguments[i], "--threads") == 0 && i + 1 < count)
			run.threads = (unsigned)strtoul(arguments[++i], NULL, 10);
		else if (strcmp(arguments[i], "--switch") == 0 && i + 2 < count) {
			run.switch_name = arguments[++i];
			run.switch_format = arguments[++i];
		} else {
			fprintf(stderr, "engine_exerciser: what is %s?\n", arguments[i]);
			exit(2);
		}
	}
}

static void open_leaf(const char *path, const char *shadow)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct err err;

	run.shadow = open(shadow, O_RDWR | O_CLOEXEC);
	if (fd < 0 || run.shadow < 0)
		fail(path, NULL);
	if (qcow2_open(fd, path, &run.image, &err) < 0)
		fail("opening", &err);
	if (qcow2_make_writable(run.image, &err) < 0)
		fail("making it writable", &err);
}

int main(int count, char **arguments)
{
	struct err err;

	if (count < 3) {
		fprintf(stderr, "usage: engine_exerciser LEAF SHADOW [options]\n");
		return 2;
	}
	parse(count, arguments);
	open_leaf(arguments[1], arguments[2]);
	run.skip_percent = (unsigned)below(30);
	if (run.switch_name &&
		qcow2_check_backing(run.image, run.switch_name, run.switch_format, &err) < 0)
		fail("checking the backing file", &err);
	for (uint64_t i = 0; i < run.steps; i++)
		step();
	if (run.is_timed)
		measure();
	if (run.threads > 0)
		use_threads();
	if (run.copies_all)
		copy_all();
	while (!run.keeps && run.held_count > 0)
		map_one_held();
	if (qcow2_flush(run.image, &err) < 0)
		fail("flushing", &err);
	if (run.switch_name &&
		qcow2_switch_backing(run.image, run.switch_name, run.switch_format, &err) < 0)
		fail("switching the backing file", &err);
	if (run.trims && qcow2_trim(run.image, true, &err) < 0)
		fail("trimming", &err);
	qcow2_free(run.image);
	return 0;
}
