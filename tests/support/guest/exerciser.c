/* SPDX-License-Identifier: Apache-2.0 */
/* Guests on a live device, in one process with imaged's own code: threads read, write, zero, discard and flush at random beside a shadow
 * of the disk (shadow.h), while jobs run on it (jobs.h).  Every read is compared.  Judged by what it says, and by others afterwards.
 *
 *   guest_exerciser ROOT LEAF SHADOW CONTENT [--seed N] [--steps N] [--threads N] [--jobs] [--finish] [--keep-on-read]
 *
 * LEAF is attached from beneath ROOT, the logs of writes go to ROOT too.  SHADOW is made from the raw file CONTENT where it is not there;
 * where it is, the disk is compared with it first: an earlier process may have been killed at any moment.  --steps: requests of each
 * thread.  --finish: jobs go on until no layer is left.  Prints what is wrong and ends with 1. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/random.h"
#include "imaged/device_host.h"
#include "imaged/guest.h"
#include "tests/support/guest/jobs.h"
#include "tests/support/guest/shadow.h"

#define LENGTH_MAX (UINT64_C(2) << 20)

static struct {
	struct device_host host;
	struct device *device;
	struct shadow *shadow;
	uint64_t seed, steps;
	unsigned threads;
	bool has_jobs, finishes, keeps_on_read;
	atomic_uint working;
	atomic_bool is_wrong;
} run = {.seed = 1, .steps = 1000, .threads = 3};

struct player {
	pthread_t thread;
	struct guest *guest;
	uint64_t state;
	unsigned char *bytes;
};

static uint64_t below(struct player *player, uint64_t limit)
{
	player->state ^= player->state << 13;
	player->state ^= player->state >> 7;
	player->state ^= player->state << 17;
	return player->state % limit;
}

static void wrong(const char *what, uint64_t offset, uint64_t length, int number)
{
	printf("seed %llu: %s at %llu, %llu bytes: %s\n", (unsigned long long)run.seed, what,
		(unsigned long long)offset, (unsigned long long)length,
		number ? strerror(number) : "not what it must be");
	atomic_store(&run.is_wrong, true);
}

/* Often small, often in one place, at all alignments. */
static void random_range(struct player *player, uint64_t *ret_offset, uint64_t *ret_length)
{
	static const uint64_t units[] = {1, 1, 512, 512, 4096, 65536};
	static const uint64_t lengths[] = {600, 4096, 20000, 70000, 300000, LENGTH_MAX};
	uint64_t size = shadow_size(run.shadow), hot = size < 200000 ? size : 200000;
	uint64_t unit = units[below(player, 6)], offset, length;

	offset = below(player, below(player, 2) ? hot : size);
	offset -= offset % unit;
	length = 1 + below(player, lengths[below(player, 5 + (below(player, 4) == 0))]);
	length = (length + unit - 1) / unit * unit;
	*ret_offset = offset;
	*ret_length = length < size - offset ? length : size - offset;
}

static void read_and_compare(struct player *player, uint64_t offset, uint64_t length)
{
	unsigned char *expected;
	unsigned number = shadow_begin(run.shadow, offset, length, &expected);
	int failure = guest_pread(player->guest, player->bytes, offset, length);

	if (failure || memcmp(player->bytes, expected, length) != 0)
		wrong("a read", offset, length, failure);
	shadow_end(run.shadow, number, false);
}

static void write_bytes(struct player *player, uint64_t offset, uint64_t length)
{
	unsigned char *next;
	unsigned number = shadow_begin(run.shadow, offset, length, &next);
	int failure;

	for (uint64_t i = 0; i < length; i++)
		next[i] = (unsigned char)(player->state >> (i % 57)) ^ (unsigned char)i;
	memcpy(player->bytes, next, length);
	shadow_go(run.shadow, number);
	failure = guest_pwrite(player->guest, player->bytes, offset, length);
	if (failure)
		wrong("a write", offset, length, failure);
	shadow_end(run.shadow, number, !failure);
}

static void put_zeroes(struct player *player, uint64_t offset, uint64_t length)
{
	unsigned char *next;
	unsigned number = shadow_begin(run.shadow, offset, length, &next);
	int failure;

	memset(next, 0, length);
	shadow_go(run.shadow, number);
	failure = guest_put_zeroes(player->guest, offset, length, below(player, 2));
	if (failure)
		wrong("zeroing", offset, length, failure);
	shadow_end(run.shadow, number, !failure);
}

/* The whole clusters read as zeroes afterwards, the rest as before. */
static void discard(struct player *player, uint64_t offset, uint64_t length)
{
	uint64_t cluster = run.device->leaf->header.cluster_size, end = offset + length;
	uint64_t first = (offset + cluster - 1) / cluster * cluster;
	uint64_t last = end == shadow_size(run.shadow) ? end : end / cluster * cluster;
	unsigned char *next;
	unsigned number = shadow_begin(run.shadow, offset, length, &next);
	int failure;

	if (first < last)
		memset(next + (first - offset), 0, last - first);
	shadow_go(run.shadow, number);
	failure = guest_discard(player->guest, offset, length);
	if (failure)
		wrong("a discard", offset, length, failure);
	shadow_end(run.shadow, number, !failure);
}

static void play_once(struct player *player)
{
	uint64_t choice = below(player, 100), offset, length;
	int failure = 0;

	random_range(player, &offset, &length);
	if (choice < 40)
		read_and_compare(player, offset, length);
	else if (choice < 72)
		write_bytes(player, offset, length);
	else if (choice < 80)
		put_zeroes(player, offset, length);
	else if (choice < 88)
		discard(player, offset, length);
	else if (choice < 96)
		failure = guest_sync(player->guest);
	else
		failure = guest_prefetch(player->guest, offset, length);
	if (failure)
		wrong("a flush or prefetch", offset, length, failure);
}

static void *play(void *owner)
{
	struct player *player = owner;

	for (uint64_t i = 0; i < run.steps && !atomic_load(&run.is_wrong); i++)
		play_once(player);
	atomic_fetch_sub(&run.working, 1);
	return NULL;
}

static void run_jobs(void)
{
	struct jobs *jobs = jobs_new(run.device, run.seed);

	while (atomic_load(&run.working) > 0 && !atomic_load(&run.is_wrong)) {
		if (jobs_step(jobs) < 0)
			atomic_store(&run.is_wrong, true);
	}
	if (run.finishes && !atomic_load(&run.is_wrong) && jobs_finish_all(jobs) < 0)
		atomic_store(&run.is_wrong, true);
	jobs_free(jobs);
}

static void play_all(void)
{
	struct player players[32] = {{0}};

	atomic_store(&run.working, run.threads);
	for (unsigned i = 0; i < run.threads; i++) {
		players[i].state = (run.seed * 64 + i) * UINT64_C(0x9e3779b97f4a7c15) + 1;
		players[i].bytes = must_calloc(1, LENGTH_MAX + 65536);
		players[i].guest = guest_open(&run.host, "d");
		bug_if(!players[i].guest ||
			pthread_create(&players[i].thread, NULL, play, &players[i]) != 0);
	}
	if (run.has_jobs)
		run_jobs();
	for (unsigned i = 0; i < run.threads; i++) {
		pthread_join(players[i].thread, NULL);
		guest_close(players[i].guest);
		free(players[i].bytes);
	}
}

/* The whole disk, once. */
static void compare_all(void)
{
	uint64_t size = shadow_size(run.shadow);
	CLEANUP_FREE unsigned char *disk = must_calloc(1, size);
	struct guest *guest = guest_open(&run.host, "d");
	int failure = guest ? guest_pread(guest, disk, 0, size) : ENODEV;

	if (failure)
		wrong("reading it all", 0, size, failure);
	for (uint64_t i = 0; i < size && !failure; i++) {
		if (!shadow_accepts(run.shadow, i, disk[i])) {
			wrong("the disk after the last process", i, 1, 0);
			break;
		}
	}
	shadow_settle(run.shadow, disk);
	guest_close(guest);
}

static void attach(const char *root, const char *leaf, const char *shadow, const char *content)
{
	const struct device_attach attach = {.file = leaf, .copy_on_read = run.keeps_on_read};
	struct roots *roots = roots_new();
	struct trouble trouble = {0};

	bug_if(roots_add(roots, root, NULL) < 0);
	device_host_init(&run.host, roots, "boot", strand_pool_new(1, NULL));
	run.host.log_folder = root;
	run.device = device_host_add(&run.host, "d");
	if (device_attach(run.device, &attach, &trouble) < 0) {
		printf("attaching failed: %s\n", trouble.err.text);
		exit(1);
	}
	run.shadow = shadow_open(shadow, content, run.device->guest_size);
}

static void read_options(int argc, char **argv)
{
	for (int i = 5; i < argc; i++) {
		if (strcmp(argv[i], "--jobs") == 0)
			run.has_jobs = true;
		else if (strcmp(argv[i], "--finish") == 0)
			run.finishes = true;
		else if (strcmp(argv[i], "--keep-on-read") == 0)
			run.keeps_on_read = true;
		else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0)
			run.seed = strtoull(argv[++i], NULL, 10);
		else if (i + 1 < argc && strcmp(argv[i], "--steps") == 0)
			run.steps = strtoull(argv[++i], NULL, 10);
		else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0)
			run.threads = (unsigned)strtoull(argv[++i], NULL, 10);
	}
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: guest_exerciser ROOT LEAF SHADOW CONTENT [OPTION]...\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	read_options(argc, argv);
	attach(argv[1], argv[2], argv[3], argv[4]);
	compare_all();
	if (!atomic_load(&run.is_wrong) && run.threads > 0)
		play_all();
	device_close(run.device);
	return atomic_load(&run.is_wrong);
}
