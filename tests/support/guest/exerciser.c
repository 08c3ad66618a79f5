/* SPDX-License-Identifier: Apache-2.0 */
/* Guests on a live device, in one process with imaged's own code (players.h), while jobs run on it (jobs.h).  Judged by what it says, and
 * by others afterwards.
 *
 *   guest_exerciser ROOT LEAF SHADOW CONTENT [OPTION]...
 *
 * LEAF is attached from beneath ROOT, the logs of writes go to ROOT too.  SHADOW is made from the raw file CONTENT where it is not there;
 * where it is, the disk is compared with it first: an earlier process may have been killed at any moment.
 *
 *   --seed N --threads N   --steps N   requests of each thread
 *   --jobs                 ranges are copied meanwhile; --finish: until no layer is left
 *   --keep-on-read         copy-on-read
 *   --boot ID              the boot that the log of writes belongs to
 *   --journal FILE         what was asked and answered (journal.h)
 *   --dump FILE            first of all writes into this file what the disk reads as; nothing else without --threads
 *   --die                  ends by SIGKILL, with everything open
 *   --may-fill             requests may end with ENOSPC
 *   --flushes-fail SIGN    half way through makes the file SIGN (kill_after.c), removes it at the end, attaches the leaf anew,
 *                          dumps it (--dump) and plays once more
 *
 * Prints what is wrong and ends with 1. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "imaged/guest.h"
#include "tests/support/guest/jobs.h"
#include "tests/support/guest/players.h"

static struct guest_run run = {.seed = 1, .steps = 1000, .threads = 3};

static struct {
	const char *root, *leaf, *shadow, *content;
	const char *boot, *journal, *dump;
	bool has_jobs, finishes, keeps_on_read, dies;
} chosen = {.boot = "boot"};

static void play_jobs(void)
{
	struct jobs *jobs = jobs_new(run.device, run.seed, run.may_fill);

	while (atomic_load(&run.working) > 0 && !atomic_load(&run.is_wrong)) {
		if (jobs_step(jobs) < 0)
			atomic_store(&run.is_wrong, true);
	}
	if (chosen.finishes && !atomic_load(&run.is_wrong) && jobs_finish_all(jobs) < 0)
		atomic_store(&run.is_wrong, true);
	jobs_free(jobs);
}

static void play(void)
{
	struct players *players;

	if (run.threads == 0 || atomic_load(&run.is_wrong))
		return;
	players = players_start(&run);
	if (chosen.has_jobs)
		play_jobs();
	players_join(players);
}

/* What the disk reads as. */
static unsigned char *read_all(uint64_t size)
{
	unsigned char *disk = must_calloc(1, size);
	struct guest *guest = guest_open(&run.host, "d");
	int failure = guest ? guest_pread(guest, disk, 0, size) : ENODEV;

	if (failure)
		players_wrong(&run, "reading it all", 0, size, failure);
	guest_close(guest);
	return disk;
}

static void dump(void)
{
	uint64_t size = run.device->guest_size;
	CLEANUP_FREE unsigned char *disk = read_all(size);
	int fd = open(chosen.dump, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	bug_if(fd < 0 || pwrite_full(fd, disk, size, 0) < 0);
	close(fd);
}

static void compare_all(void)
{
	uint64_t size = shadow_size(run.shadow);
	CLEANUP_FREE unsigned char *disk = read_all(size);

	for (uint64_t i = 0; i < size && !atomic_load(&run.is_wrong); i++) {
		if (!shadow_accepts(run.shadow, i, disk[i]))
			players_wrong(&run, "the disk after the last process", i, 1, 0);
	}
	shadow_settle(run.shadow, disk);
}

static void attach(void)
{
	const struct device_attach attach = {
		.file = chosen.leaf, .copy_on_read = chosen.keeps_on_read};
	struct trouble trouble = {0};

	if (device_attach(run.device, &attach, &trouble) == 0)
		return;
	printf("attaching failed: %s\n", trouble.err.text);
	exit(1);
}

static void begin(void)
{
	struct roots *roots = roots_new();

	bug_if(roots_add(roots, chosen.root, NULL) < 0);
	device_host_init(&run.host, roots, chosen.boot, strand_pool_new(1, NULL));
	run.host.log_folder = chosen.root;
	run.device = device_host_add(&run.host, "d");
	attach();
}

static bool is_log_there(void)
{
	char pattern[4096];
	glob_t found;
	bool is_there;

	snprintf(pattern, sizeof pattern, "%s/writes-*", chosen.root);
	is_there = glob(pattern, 0, NULL, &found) == 0;
	globfree(&found);
	return is_there;
}

/* What was not known durable is lost, and nothing else. */
static void begin_anew(void)
{
	struct err err = {0};
	unsigned char *disk;

	if (!device_notice_failure(run.device, &err))
		players_wrong(&run, "failing", 0, 0, 0);
	bug_if(unlink(run.fails_while) < 0);
	atomic_store(&run.fails, false);
	atomic_store(&run.has_failed, false);
	run.fails_while = NULL;
	attach();
	if (is_log_there())
		players_wrong(&run, "the log of a failed image", 0, 0, 0);
	journal_mark(run.journal);
	dump();
	disk = read_all(shadow_size(run.shadow));
	shadow_settle(run.shadow, disk);
	free(disk);
	play();
}

/* Whether it is an option without a value. */
static bool take_word(const char *word)
{
	const struct {
		const char *word;
		bool *claim;
	} words[] = {{"--jobs", &chosen.has_jobs}, {"--finish", &chosen.finishes},
		{"--keep-on-read", &chosen.keeps_on_read}, {"--die", &chosen.dies},
		{"--may-fill", &run.may_fill}};

	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
		if (strcmp(word, words[i].word) == 0) {
			*words[i].claim = true;
			return true;
		}
	}
	return false;
}

static bool take_pair(const char *word, const char *value)
{
	const struct {
		const char *word, **text;
	} words[] = {{"--boot", &chosen.boot}, {"--journal", &chosen.journal},
		{"--dump", &chosen.dump}, {"--flushes-fail", &run.fails_while}};

	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
		if (strcmp(word, words[i].word) == 0) {
			*words[i].text = value;
			return true;
		}
	}
	if (strcmp(word, "--seed") == 0)
		run.seed = strtoull(value, NULL, 10);
	else if (strcmp(word, "--steps") == 0)
		run.steps = strtoull(value, NULL, 10);
	else if (strcmp(word, "--threads") == 0)
		run.threads = (unsigned)strtoull(value, NULL, 10);
	else
		return false;
	return run.threads <= PLAYERS_MAX;
}

static bool read_options(int argc, char **argv)
{
	if (argc < 5)
		return false;
	chosen.root = argv[1];
	chosen.leaf = argv[2];
	chosen.shadow = argv[3];
	chosen.content = argv[4];
	for (int i = 5; i < argc; i++) {
		if (take_word(argv[i]))
			continue;
		if (i + 1 == argc || !take_pair(argv[i], argv[i + 1]))
			return false;
		i++;
	}
	return true;
}

int main(int argc, char **argv)
{
	if (!read_options(argc, argv)) {
		fprintf(stderr, "usage: guest_exerciser ROOT LEAF SHADOW CONTENT [OPTION]...\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	begin();
	if (chosen.dump)
		dump();
	if (run.threads > 0 || !chosen.dump) {
		run.shadow = shadow_open(chosen.shadow, chosen.content, run.device->guest_size);
		compare_all();
	}
	if (chosen.journal) {
		shadow_set_unit(run.shadow, 512);
		run.journal = journal_open(chosen.journal);
	}
	play();
	if (run.fails_while)
		begin_anew();
	if (chosen.dies)
		raise(SIGKILL);
	device_close(run.device);
	return atomic_load(&run.is_wrong);
}
