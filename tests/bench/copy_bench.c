/* SPDX-License-Identifier: Apache-2.0 */
/* How fast copy_run is: processes that share a file's ranges among them, from a warm raw base into preallocated space, until all is
 * durable; beside `cp` and fdatasync of the same bytes.  Prints a line a round and the medians.
 *
 *     copy_bench --folder /var/tmp --size 2G --processes 2 --range 64M --buffer 1M --rounds 3 */
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/io.h"
#include "common/options.h"
#include "common/random.h"
#include "workers/copy_run.h"

#define CLUSTER	   65536u
#define ROUNDS_MAX 99

struct bench {
	const char *folder;
	uint64_t size, processes, range, buffer, rounds;
	char base[4096], leaf[4096];
};

/* Ends the program where the machine does not give what the measurement needs. */
static void must(bool is_fine, const char *what)
{
	if (is_fine)
		return;
	perror(what);
	exit(1);
}

static void make_base(const struct bench *bench)
{
	uint64_t *block = must_calloc(1, 1 << 20);
	int fd = open(bench->base, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint64_t state = random_id();

	must(fd >= 0, bench->base);
	for (uint64_t at = 0; at < bench->size; at += 1 << 20) {
		for (size_t i = 0; i < (1 << 20) / sizeof *block; i++)
			block[i] = state =
				state * UINT64_C(6364136223846793005) + 1442695040888963407u;
		must(pwrite_full(fd, block, 1 << 20, at) == 0, bench->base);
	}
	must(fdatasync(fd) == 0, bench->base);
	close(fd);
	free(block);
}

/* The leaf's file with all its space, as imaged reserves it. */
static void make_leaf(const struct bench *bench)
{
	unlink(bench->leaf);
	int fd = open(bench->leaf, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0, bench->leaf);
	must(posix_fallocate(fd, 0, (off_t)(bench->size + CLUSTER)) == 0, bench->leaf);
	must(fsync(fd) == 0, bench->leaf);
	close(fd);
	sync();
}

static void copy_range(const struct bench *bench, struct copy_machine *machine,
	const struct copy_files *files, uint64_t offset)
{
	static struct copy_outcome outcome;
	struct copy_control control = {0};
	uint64_t length = bench->size - offset < bench->range ? bench->size - offset : bench->range;
	struct source_extent source = {
		.codec = CODEC_PLAIN,
		.length = length,
		.has_file = true,
		.has_offset = true,
		.offset = offset,
	};
	struct destination_extent destination = {.offset = offset + CLUSTER, .length = length};
	const struct copy_order order = {
		.length = length,
		.cluster_bytes = CLUSTER,
		.detect_zeroes = true,
		.sources = &source,
		.sources_count = 1,
		.destinations = &destination,
		.destinations_count = 1,
	};

	copy_run(machine, &order, files, &control, &outcome);
	if (outcome.end == COPY_END_COPIED)
		return;
	fprintf(stderr, "%s\n", outcome.failure.err.text);
	_exit(1);
}

/* One process: takes ranges until there are no more. */
static void work(const struct bench *bench, atomic_uint_fast64_t *next)
{
	struct copy_machine *machine = copy_machine_new(bench->buffer);
	struct copy_file source = {open(bench->base, O_RDONLY | O_CLOEXEC), bench->base};
	const struct copy_files files = {
		.leaf = {open(bench->leaf, O_RDWR | O_CLOEXEC), bench->leaf}, .sources = &source};
	uint64_t offset;

	while ((offset = atomic_fetch_add(next, bench->range)) < bench->size)
		copy_range(bench, machine, &files, offset);
	_exit(0);
}

static double copy_by_processes(const struct bench *bench)
{
	atomic_uint_fast64_t *next =
		mmap(NULL, sizeof *next, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	must(next != MAP_FAILED, "mmap");
	make_leaf(bench);
	atomic_init(next, 0);
	uint64_t start = clock_monotonic_us();
	for (uint64_t i = 0; i < bench->processes; i++) {
		pid_t pid = fork();
		must(pid >= 0, "fork");
		if (pid == 0)
			work(bench, next);
	}
	for (uint64_t i = 0; i < bench->processes; i++) {
		int status;
		must(wait(&status) > 0 && status == 0, "a copying process");
	}
	uint64_t end = clock_monotonic_us();
	munmap(next, sizeof *next);
	return (double)(end - start) / 1e6;
}

static double copy_by_cp(const struct bench *bench)
{
	const char *arguments[] = {
		"cp", "--reflink=never", "--sparse=never", bench->base, bench->leaf, NULL};
	const char *environment[] = {"PATH=/usr/bin:/bin", NULL};
	pid_t pid;
	int status;

	unlink(bench->leaf);
	sync();
	uint64_t start = clock_monotonic_us();
	must(posix_spawnp(&pid, "cp", NULL, NULL, (char **)(uintptr_t)arguments,
		     (char **)(uintptr_t)environment) == 0,
		"cp");
	must(waitpid(pid, &status, 0) == pid && status == 0, "cp");
	int fd = open(bench->leaf, O_RDWR | O_CLOEXEC);
	must(fd >= 0 && fdatasync(fd) == 0, bench->leaf);
	uint64_t end = clock_monotonic_us();
	close(fd);
	return (double)(end - start) / 1e6;
}

static int by_size(const void *left, const void *right)
{
	double l = *(const double *)left, r = *(const double *)right;

	return l < r ? -1 : l > r;
}

static double median(double *seconds, uint64_t count)
{
	qsort(seconds, count, sizeof *seconds, by_size);
	return seconds[count / 2];
}

static void parse(int argc, char **argv, struct bench *bench)
{
	const uint64_t most = (uint64_t)1 << 40;
	const struct option table[] = {
		{"folder", OPTION_TEXT, &bench->folder, "DIR",
			"Where the files go (default: /var/tmp)."},
		{"size", OPTION_NUMBER, &bench->size, "SIZE", "Of the base (default: 2G).", 1 << 20,
			most, true},
		{"processes", OPTION_NUMBER, &bench->processes, "N", "That copy (default: 2).", 1,
			64},
		{"range", OPTION_NUMBER, &bench->range, "SIZE", "Per order (default: 64M).",
			CLUSTER, most, true},
		{"buffer", OPTION_NUMBER, &bench->buffer, "SIZE",
			"Per read (default: what workers use).", 512, most, true},
		{"rounds", OPTION_NUMBER, &bench->rounds, "N",
			"To take the median of (default: 3).", 1, ROUNDS_MAX},
		{0},
	};
	const struct options_usage usage = {.program = "copy_bench",
		.synopsis = "[OPTION]...",
		.about = "Measures copy_run beside cp."};

	options_parse(argc, argv, &usage, table, NULL);
	snprintf(bench->base, sizeof bench->base, "%s/copy_bench.base", bench->folder);
	snprintf(bench->leaf, sizeof bench->leaf, "%s/copy_bench.leaf", bench->folder);
}

int main(int argc, char **argv)
{
	static double ours[ROUNDS_MAX], cps[ROUNDS_MAX];
	struct bench bench = {
		.folder = "/var/tmp",
		.size = (uint64_t)2 << 30,
		.processes = 2,
		.range = 64 << 20,
		.buffer = COPY_BUFFER_BYTES_DEFAULT,
		.rounds = 3,
	};

	parse(argc, argv, &bench);
	bench.size &= ~(uint64_t)((1 << 20) - 1);
	make_base(&bench);
	for (uint64_t i = 0; i < bench.rounds; i++) {
		ours[i] = copy_by_processes(&bench);
		cps[i] = copy_by_cp(&bench);
		printf("round %" PRIu64 ": copy_run %.2f s, cp + fdatasync %.2f s\n", i + 1,
			ours[i], cps[i]);
		fflush(stdout);
	}
	double our = median(ours, bench.rounds), cp = median(cps, bench.rounds);
	printf("median: copy_run %.2f s, cp + fdatasync %.2f s, ratio %.2f\n", our, cp, cp / our);
	unlink(bench.base);
	unlink(bench.leaf);
	return 0;
}
