/* SPDX-License-Identifier: Apache-2.0 */
/* A request that failed, where it may, has done a part of what it was asked: its bytes are read again, and each must be as it was or
 * as it was to be. */
#include "tests/support/guest/players.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "imaged/guest.h"

#define LENGTH_MAX (UINT64_C(2) << 20)
#define ROOM	   (LENGTH_MAX + 65536)

struct player {
	struct guest_run *run;
	pthread_t thread;
	struct guest *guest;
	bool is_first;
	uint64_t state;
	unsigned char *bytes, *old; /* ROOM each */
};

struct players {
	struct player players[PLAYERS_MAX];
	unsigned count;
};

void players_wrong(
	struct guest_run *run, const char *what, uint64_t offset, uint64_t length, int number)
{
	printf("seed %llu: %s at %llu, %llu bytes: %s\n", (unsigned long long)run->seed, what,
		(unsigned long long)offset, (unsigned long long)length,
		number ? strerror(number) : "not what it must be");
	atomic_store(&run->is_wrong, true);
}

static uint64_t below(struct player *player, uint64_t limit)
{
	player->state ^= player->state << 13;
	player->state ^= player->state >> 7;
	player->state ^= player->state << 17;
	return player->state % limit;
}

/* Often small, often in one place, at all alignments. */
static void random_range(struct player *player, uint64_t *ret_offset, uint64_t *ret_length)
{
	static const uint64_t units[] = {1, 1, 512, 512, 4096, 65536};
	static const uint64_t lengths[] = {600, 4096, 20000, 70000, 300000, LENGTH_MAX};
	uint64_t size = shadow_size(player->run->shadow), hot = size < 200000 ? size : 200000;
	uint64_t unit = units[below(player, 6)], offset, length;

	offset = below(player, below(player, 2) ? hot : size);
	offset -= offset % unit;
	length = 1 + below(player, lengths[below(player, 5 + (below(player, 4) == 0))]);
	length = (length + unit - 1) / unit * unit;
	*ret_offset = offset;
	*ret_length = length < size - offset ? length : size - offset;
}

/* ---- looking */

static void read_and_compare(struct player *player, uint64_t offset, uint64_t length)
{
	struct guest_run *run = player->run;
	unsigned char *expected;
	unsigned number = shadow_begin(run->shadow, offset, length, &expected);
	int failure = guest_pread(player->guest, player->bytes, offset, length);

	if (failure || memcmp(player->bytes, expected, length) != 0)
		players_wrong(run, "a read", offset, length, failure);
	shadow_end(run->shadow, number, false);
}

static bool is_either(const unsigned char *bytes, const unsigned char *one,
	const unsigned char *other, uint64_t length)
{
	for (uint64_t i = 0; i < length; i++) {
		if (bytes[i] != one[i] && bytes[i] != other[i])
			return false;
	}
	return true;
}

/* While somebody may be writing there, and what he writes is not known to fail. */
static void watch(struct player *player, uint64_t offset, uint64_t length)
{
	struct guest_run *run = player->run;
	const unsigned char *next;
	unsigned number = shadow_watch(run->shadow, offset, length, player->old, &next);
	int failure = guest_pread(player->guest, player->bytes, offset, length);

	if (failure || !is_either(player->bytes, player->old, next, length))
		players_wrong(run, "a read beside a change", offset, length, failure);
	shadow_end(run->shadow, number, false);
}

struct map_look {
	const unsigned char *expected;
	uint64_t offset, end, seen; /* [offset, seen) was told */
	bool is_good;
};

static bool look_at_piece(void *owner, uint64_t offset, uint64_t length, bool is_hole, bool is_zero)
{
	struct map_look *look = owner;
	uint64_t end = offset + length < look->end ? offset + length : look->end;

	if (offset != look->seen || length == 0 || (is_hole && !is_zero))
		look->is_good = false;
	for (uint64_t i = offset; is_zero && i < end; i++)
		look->is_good = look->is_good && look->expected[i - look->offset] == 0;
	look->seen = offset + length;
	return look->is_good;
}

/* What is said to be zeroes must be. */
static void look_at_map(struct player *player, uint64_t offset, uint64_t length)
{
	struct guest_run *run = player->run;
	struct map_look look = {
		.offset = offset, .end = offset + length, .seen = offset, .is_good = true};
	unsigned char *expected;
	unsigned number = shadow_begin(run->shadow, offset, length, &expected);
	int failure;

	look.expected = expected;
	failure = guest_map(player->guest, offset, length, look_at_piece, &look);
	if (failure || !look.is_good || look.seen == offset)
		players_wrong(run, "a map", offset, length, failure);
	shadow_end(run->shadow, number, false);
}

/* ---- changing */

typedef int change(
	struct player *player, const unsigned char *next, uint64_t offset, uint64_t length);

static int write_bytes(
	struct player *player, const unsigned char *next, uint64_t offset, uint64_t length)
{
	memcpy(player->bytes, next, length);
	return guest_pwrite(player->guest, player->bytes, offset, length);
}

static int put_zeroes(
	struct player *player, const unsigned char *next, uint64_t offset, uint64_t length)
{
	(void)next;
	return guest_put_zeroes(player->guest, offset, length, below(player, 2));
}

static int discard(
	struct player *player, const unsigned char *next, uint64_t offset, uint64_t length)
{
	(void)next;
	return guest_discard(player->guest, offset, length);
}

static bool may_fail(const struct guest_run *run, int failure)
{
	return (failure == ENOSPC && run->may_fill) || (failure == EIO && atomic_load(&run->fails));
}

/* Each byte is as it was or as it was to be; how it is counts from now on. */
static void settle(struct player *player, unsigned char *next, uint64_t offset, uint64_t length)
{
	int failure = guest_pread(player->guest, player->bytes, offset, length);

	if (failure || !is_either(player->bytes, player->old, next, length))
		players_wrong(player->run, "a read after a failed change", offset, length, failure);
	else
		memcpy(next, player->bytes, length);
}

/* The journal has whole sectors; nobody else changes anything in them meanwhile. */
static uint64_t note(
	struct guest_run *run, const unsigned char *next, uint64_t offset, uint64_t length)
{
	uint64_t before = offset % 512, end = (offset + length + 511) / 512 * 512;

	if (end > shadow_size(run->shadow))
		end = shadow_size(run->shadow);
	return journal_begin(
		run->journal, 'w', offset - before, end - offset + before, next - before);
}

/* The bytes are in `next` already, what they were in player->old. */
static void make(struct player *player, const char *name, change *ask, unsigned char *next,
	unsigned number, uint64_t offset, uint64_t length)
{
	struct guest_run *run = player->run;
	uint64_t request = note(run, next, offset, length);
	bool must_fail = atomic_load(&run->has_failed) && ask == write_bytes;
	int failure;

	shadow_go(run->shadow, number);
	failure = ask(player, next, offset, length);
	journal_answer(run->journal, request, !failure);
	if (must_fail ? failure != EIO : failure && !may_fail(run, failure))
		players_wrong(run, name, offset, length, failure);
	else if (failure)
		settle(player, next, offset, length);
	shadow_end(run->shadow, number, true);
}

static void begin_write(struct player *player, uint64_t offset, uint64_t length)
{
	unsigned char *next;
	unsigned number = shadow_begin(player->run->shadow, offset, length, &next);

	memcpy(player->old, next, length);
	for (uint64_t i = 0; i < length; i++)
		next[i] = (unsigned char)(player->state >> (i % 57)) ^ (unsigned char)i;
	make(player, "a write", write_bytes, next, number, offset, length);
}

static void begin_zeroing(struct player *player, uint64_t offset, uint64_t length)
{
	unsigned char *next;
	unsigned number = shadow_begin(player->run->shadow, offset, length, &next);

	memcpy(player->old, next, length);
	memset(next, 0, length);
	make(player, "zeroing", put_zeroes, next, number, offset, length);
}

/* The whole clusters read as zeroes afterwards, the rest as before. */
static void begin_discard(struct player *player, uint64_t offset, uint64_t length)
{
	uint64_t cluster = player->run->device->leaf->header.cluster_size, end = offset + length;
	uint64_t first = (offset + cluster - 1) / cluster * cluster;
	uint64_t last = end == shadow_size(player->run->shadow) ? end : end / cluster * cluster;
	unsigned char *next;
	unsigned number = shadow_begin(player->run->shadow, offset, length, &next);

	memcpy(player->old, next, length);
	if (first < last)
		memset(next + (first - offset), 0, last - first);
	make(player, "a discard", discard, next, number, offset, length);
}

/* ---- */

static void flush(struct player *player)
{
	struct guest_run *run = player->run;
	bool must_fail = atomic_load(&run->has_failed);
	uint64_t request = journal_begin(run->journal, 'f', 0, 0, NULL);
	int failure = guest_sync(player->guest);

	journal_answer(run->journal, request, !failure);
	if (must_fail ? failure != EIO : failure && !may_fail(run, failure))
		players_wrong(run, "a flush", 0, 0, failure);
	if (failure == EIO)
		atomic_store(&run->has_failed, true);
}

static void prefetch(struct player *player, uint64_t offset, uint64_t length)
{
	int failure = guest_prefetch(player->guest, offset, length);

	if (failure && !may_fail(player->run, failure))
		players_wrong(player->run, "a prefetch", offset, length, failure);
}

static void play_once(struct player *player)
{
	uint64_t choice = below(player, 100), offset, length;

	random_range(player, &offset, &length);
	if (choice < 25)
		read_and_compare(player, offset, length);
	else if (choice < 35 && !player->run->may_fill && !player->run->fails_while)
		watch(player, offset, length);
	else if (choice < 40)
		look_at_map(player, offset, length);
	else if (choice < 72)
		begin_write(player, offset, length);
	else if (choice < 80)
		begin_zeroing(player, offset, length);
	else if (choice < 88)
		begin_discard(player, offset, length);
	else if (choice < 96)
		flush(player);
	else
		prefetch(player, offset, length);
}

static void let_flushes_fail(struct guest_run *run)
{
	int fd;

	atomic_store(&run->fails, true);
	fd = open(run->fails_while, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	bug_if(fd < 0);
	close(fd);
}

static void *play(void *owner)
{
	struct player *player = owner;
	struct guest_run *run = player->run;

	for (uint64_t i = 0; i < run->steps && !atomic_load(&run->is_wrong); i++) {
		if (run->fails_while && player->is_first && i == run->steps / 2)
			let_flushes_fail(run);
		play_once(player);
	}
	atomic_fetch_sub(&run->working, 1);
	return NULL;
}

struct players *players_start(struct guest_run *run)
{
	struct players *players = must_calloc(1, sizeof *players);

	players->count = run->threads;
	atomic_store(&run->working, run->threads);
	for (unsigned i = 0; i < run->threads; i++) {
		struct player *player = &players->players[i];

		player->run = run;
		player->is_first = i == 0;
		player->state = (run->seed * 64 + i) * UINT64_C(0x9e3779b97f4a7c15) + 1;
		player->bytes = must_calloc(1, ROOM);
		player->old = must_calloc(1, ROOM);
		player->guest = guest_open(&run->host, "d");
		bug_if(!player->guest || pthread_create(&player->thread, NULL, play, player) != 0);
	}
	return players;
}

void players_join(struct players *players)
{
	for (unsigned i = 0; i < players->count; i++) {
		struct player *player = &players->players[i];

		pthread_join(player->thread, NULL);
		guest_close(player->guest);
		free(player->bytes);
		free(player->old);
	}
	free(players);
}
