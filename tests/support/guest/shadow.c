/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/guest/shadow.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"

#define REQUESTS_MAX 64

enum request_state { REQUEST_NONE, REQUEST_PLANNED, REQUEST_GOING, REQUEST_WATCHING };

struct header {
	uint64_t size;
	struct {
		uint64_t offset, length;
		enum request_state state;
	} requests[REQUESTS_MAX];
};

struct shadow {
	struct header *header;
	unsigned char *now, *next;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	uint64_t unit;
};

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static void load(struct shadow *shadow, const char *content)
{
	int fd = open(content, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread_up_to(fd, shadow->now, shadow->header->size, 0) < 0)
		fail(content);
	close(fd);
	memcpy(shadow->next, shadow->now, shadow->header->size);
}

struct shadow *shadow_open(const char *path, const char *content, uint64_t size)
{
	struct shadow *shadow = calloc(1, sizeof *shadow);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	uint64_t room = 2 * size + sizeof(struct header);
	struct stat status;
	unsigned char *bytes;

	if (!shadow || fd < 0 || fstat(fd, &status) < 0 ||
		(status.st_size == 0 && ftruncate(fd, (off_t)room) < 0))
		fail(path);
	bytes = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bytes == MAP_FAILED)
		fail(path);
	close(fd);
	shadow->unit = 1;
	pthread_mutex_init(&shadow->lock, NULL);
	pthread_cond_init(&shadow->ended, NULL);
	shadow->header = (struct header *)(void *)bytes;
	shadow->now = bytes + sizeof(struct header);
	shadow->next = shadow->now + size;
	if (status.st_size == 0) {
		shadow->header->size = size;
		load(shadow, content);
	}
	return shadow;
}

uint64_t shadow_size(const struct shadow *shadow)
{
	return shadow->header->size;
}

const unsigned char *shadow_now(const struct shadow *shadow)
{
	return shadow->now;
}

void shadow_set_unit(struct shadow *shadow, uint64_t unit)
{
	shadow->unit = unit;
}

/* Whether a request stands in the way of one of this state. */
static bool is_in_the_way(enum request_state there, enum request_state state)
{
	if (there == REQUEST_NONE)
		return false;
	return state != REQUEST_WATCHING || there == REQUEST_PLANNED;
}

static bool overlaps(
	const struct shadow *shadow, uint64_t offset, uint64_t length, enum request_state state)
{
	const struct header *header = shadow->header;
	uint64_t unit = shadow->unit, end = (offset + length + unit - 1) / unit * unit;

	offset = offset / unit * unit;
	for (unsigned i = 0; i < REQUESTS_MAX; i++) {
		if (is_in_the_way(header->requests[i].state, state) &&
			header->requests[i].offset < end &&
			offset < header->requests[i].offset + header->requests[i].length)
			return true;
	}
	return false;
}

/* With the lock held. */
static unsigned enter(
	struct shadow *shadow, uint64_t offset, uint64_t length, enum request_state state)
{
	struct header *header = shadow->header;
	unsigned i = 0;

	while (overlaps(shadow, offset, length, state))
		pthread_cond_wait(&shadow->ended, &shadow->lock);
	while (i < REQUESTS_MAX && header->requests[i].state != REQUEST_NONE)
		i++;
	if (i == REQUESTS_MAX)
		fail("too many requests");
	header->requests[i].offset = offset;
	header->requests[i].length = length;
	header->requests[i].state = state;
	return i;
}

unsigned shadow_begin(
	struct shadow *shadow, uint64_t offset, uint64_t length, unsigned char **ret_next)
{
	unsigned number;

	pthread_mutex_lock(&shadow->lock);
	number = enter(shadow, offset, length, REQUEST_PLANNED);
	pthread_mutex_unlock(&shadow->lock);
	*ret_next = shadow->next + offset;
	return number;
}

unsigned shadow_watch(struct shadow *shadow, uint64_t offset, uint64_t length,
	unsigned char *ret_old, const unsigned char **ret_new)
{
	unsigned number;

	pthread_mutex_lock(&shadow->lock);
	number = enter(shadow, offset, length, REQUEST_WATCHING);
	memcpy(ret_old, shadow->now + offset, length);
	pthread_mutex_unlock(&shadow->lock);
	*ret_new = shadow->next + offset;
	return number;
}

void shadow_go(struct shadow *shadow, unsigned number)
{
	pthread_mutex_lock(&shadow->lock);
	shadow->header->requests[number].state = REQUEST_GOING;
	pthread_cond_broadcast(&shadow->ended); /* who watches may come in */
	pthread_mutex_unlock(&shadow->lock);
}

void shadow_end(struct shadow *shadow, unsigned number, bool is_done)
{
	uint64_t offset = shadow->header->requests[number].offset;
	uint64_t length = shadow->header->requests[number].length;

	pthread_mutex_lock(&shadow->lock);
	if (is_done)
		memcpy(shadow->now + offset, shadow->next + offset, length);
	shadow->header->requests[number].state = REQUEST_NONE;
	pthread_cond_broadcast(&shadow->ended);
	pthread_mutex_unlock(&shadow->lock);
}

bool shadow_accepts(const struct shadow *shadow, uint64_t offset, unsigned char byte)
{
	const struct header *header = shadow->header;

	if (shadow->now[offset] == byte)
		return true;
	if (shadow->next[offset] != byte)
		return false;
	for (unsigned i = 0; i < REQUESTS_MAX; i++) {
		if (header->requests[i].state == REQUEST_GOING &&
			offset >= header->requests[i].offset &&
			offset - header->requests[i].offset < header->requests[i].length)
			return true;
	}
	return false;
}

void shadow_settle(struct shadow *shadow, const unsigned char *disk)
{
	memcpy(shadow->now, disk, shadow->header->size);
	memcpy(shadow->next, disk, shadow->header->size);
	for (unsigned i = 0; i < REQUESTS_MAX; i++)
		shadow->header->requests[i].state = REQUEST_NONE;
}
