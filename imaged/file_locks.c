/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes to set, bytes to test, and words for who is in the way. */
#include "imaged/file_locks.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "common/ofd_lock.h"
#include "schemas/errors.gen.h"

#define USES_CONSISTENT_READ	100
#define USES_WRITE		101
#define USES_RESIZE		103
#define FORBIDS_CONSISTENT_READ 200
#define FORBIDS_WRITE		201
#define FORBIDS_RESIZE		203

#define BYTES_MAX 5

struct lock_plan {
	uint64_t set[BYTES_MAX + 1], test[BYTES_MAX + 1]; /* each ends with 0 */
};

static const struct lock_plan writer_plan = {
	.set = {USES_CONSISTENT_READ, USES_WRITE, USES_RESIZE, FORBIDS_WRITE, FORBIDS_RESIZE},
	.test = {USES_WRITE, USES_RESIZE, FORBIDS_CONSISTENT_READ, FORBIDS_RESIZE},
};

static const struct lock_plan reader_plan = {
	.set = {USES_CONSISTENT_READ, FORBIDS_WRITE, FORBIDS_RESIZE},
	.test = {USES_WRITE, USES_RESIZE, FORBIDS_CONSISTENT_READ},
};

static const char *words_for(uint64_t byte)
{
	switch (byte) {
	case USES_WRITE:
		return "another process writes to it";
	case USES_RESIZE:
		return "another process may resize it";
	case FORBIDS_CONSISTENT_READ:
		return "another process is rewriting it and lets nobody read it";
	case FORBIDS_RESIZE:
		return "another process reads it and lets nobody change it";
	}
	return "another process holds it";
}

static void give_up(int fd, const uint64_t *bytes)
{
	for (; *bytes; bytes++)
		ofd_unlock_byte(fd, *bytes);
}

static int set_bytes(
	int fd, const char *path, const char *as, const uint64_t *bytes, struct err *err)
{
	for (; *bytes; bytes++) {
		if (ofd_lock_byte(fd, *bytes) == 0)
			continue;
		if (errno == EAGAIN)
			return err_set_kind(err, ERROR_CLASS_DEVICE_IN_USE,
				"Failed to get \"%s\" lock on %s: another process holds it exclusively",
				as, path);
		return err_set_errno(err, errno, "Failed to get \"%s\" lock on %s", as, path);
	}
	return 0;
}

static int test_bytes(
	int fd, const char *path, const char *as, const uint64_t *bytes, struct err *err)
{
	for (; *bytes; bytes++) {
		int held = ofd_lock_held_elsewhere(fd, *bytes, 1, NULL);

		if (held < 0)
			return err_set_errno(err, errno, "Failed to test the locks of %s", path);
		if (held)
			return err_set_kind(err, ERROR_CLASS_DEVICE_IN_USE,
				"Failed to get \"%s\" lock on %s: %s", as, path, words_for(*bytes));
	}
	return 0;
}

static int lock(
	int fd, const char *path, const char *as, const struct lock_plan *plan, struct err *err)
{
	if (set_bytes(fd, path, as, plan->set, err) == 0 &&
		test_bytes(fd, path, as, plan->test, err) == 0)
		return 0;
	give_up(fd, plan->set);
	return -1;
}

int file_lock_writer(int fd, const char *path, struct err *err)
{
	return lock(fd, path, "write", &writer_plan, err);
}

int file_lock_reader(int fd, const char *path, struct err *err)
{
	return lock(fd, path, "read", &reader_plan, err);
}
