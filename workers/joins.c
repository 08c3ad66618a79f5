/* SPDX-License-Identifier: Apache-2.0 */
/* Opens, locks and compares. */
#include "workers/joins.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/ofd_lock.h"

#define LOCK_BYTE_SHARED_WRITE \
	201 /* QEMU's "others may not take write access", as imaged holds it */
#define LOCK_BYTE_MIN	  ((UINT64_C(1) << 40) + 1)
#define CLUSTER_BYTES_MIN 512
#define CLUSTER_BYTES_MAX (2u << 20)

struct joins {
	struct join **items;
	size_t count;
	size_t room;
};

struct joins *joins_new(void)
{
	return must_calloc(1, sizeof(struct joins));
}

static void join_free(struct join *join)
{
	if (!join)
		return;
	for (size_t i = 0; i < join->sources_count; i++) {
		if (join->files.sources[i].fd >= 0)
			close(join->files.sources[i].fd);
		free((char *)join->files.sources[i].path);
	}
	free((struct copy_file *)join->files.sources);
	if (join->files.leaf.fd >= 0)
		close(join->files.leaf.fd);
	free((char *)join->files.leaf.path);
	free(join->device);
	free(join);
}
DEFINE_CLEANUP(join, join_free)

void joins_free(struct joins *joins)
{
	if (!joins)
		return;
	for (size_t i = 0; i < joins->count; i++)
		join_free(joins->items[i]);
	free(joins->items);
	free(joins);
}

/* A join whose files are not open yet. */
static struct join *join_new(const struct msg_join *message)
{
	struct join *join = must_calloc(1, sizeof *join);
	struct copy_file *sources = must_calloc(message->sources_count + 1, sizeof *sources);

	join->id = message->join;
	join->device = must_strdup(message->device);
	join->cluster_bytes = (uint32_t)message->cluster_size;
	join->files.leaf = (struct copy_file){.fd = -1, .path = must_strdup(message->leaf.path)};
	for (size_t i = 0; i < message->sources_count; i++)
		sources[i] =
			(struct copy_file){.fd = -1, .path = must_strdup(message->sources[i].path)};
	join->files.sources = sources;
	join->sources_count = message->sources_count;
	return join;
}

/* As imaged tells it: what was changed before 1970 was changed in 1970. */
static uint64_t mtime_ns(const struct stat *status)
{
	if (status->st_mtim.tv_sec < 0)
		return 0;
	return (uint64_t)status->st_mtim.tv_sec * UINT64_C(1000000000) +
	       (uint64_t)status->st_mtim.tv_nsec;
}

/* Opens a file beneath the roots and makes sure that it is the very file that imaged means. */
static int open_reference(const struct roots *roots, const struct file_reference *reference,
	int flags, struct stat *ret_status, struct err *err)
{
	CLEANUP_CLOSE int fd = roots_open(roots, reference->path, flags, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, ret_status) < 0)
		return err_set_errno(err, errno, "stat '%s'", reference->path);
	if (ret_status->st_dev != reference->device_number ||
		ret_status->st_ino != reference->inode)
		return err_set(err,
			"'%s' is another file here: device %ju inode %ju, imaged has device %" PRIu64
			" inode %" PRIu64,
			reference->path, (uintmax_t)ret_status->st_dev,
			(uintmax_t)ret_status->st_ino, reference->device_number, reference->inode);
	int opened = fd;
	fd = -1;
	return opened;
}

static int lock_leaf(const struct join *join, uint64_t lock_byte, struct err *err)
{
	const struct copy_file *leaf = &join->files.leaf;

	if (ofd_lock_byte(leaf->fd, LOCK_BYTE_SHARED_WRITE) < 0 ||
		ofd_lock_byte(leaf->fd, lock_byte) < 0)
		return err_set_errno(err, errno, "lock '%s'", leaf->path);
	return 0;
}

static int open_leaf(struct join *join, const struct roots *roots, const struct msg_join *message,
	struct err *err)
{
	struct stat status;
	int fd = open_reference(roots, &message->leaf, O_RDWR, &status, err);
	if (fd < 0)
		return -1;

	join->files.leaf.fd = fd;
	join->device_number = status.st_dev;
	join->inode = status.st_ino;
	return lock_leaf(join, message->lock_byte, err);
}

/* A source must also be as long and as old as imaged saw it: one that changed since then would be copied wrongly. */
static int open_source(const struct roots *roots, const struct file_reference *reference,
	struct copy_file *ret_file, struct err *err)
{
	struct stat status;
	int fd = open_reference(roots, reference, O_RDONLY, &status, err);
	if (fd < 0)
		return -1;

	ret_file->fd = fd;
	if (S_ISREG(status.st_mode) && ((uint64_t)status.st_size != reference->size ||
					       mtime_ns(&status) != reference->mtime_ns))
		return err_set(err, "'%s' was changed since imaged opened it", reference->path);
	posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	return 0;
}

static int check_join(const struct joins *joins, const struct msg_join *message, struct err *err)
{
	uint64_t cluster = message->cluster_size;

	if (cluster < CLUSTER_BYTES_MIN || cluster > CLUSTER_BYTES_MAX || (cluster & (cluster - 1)))
		return err_set(err, "clusters of %" PRIu64 " bytes", cluster);
	if (message->lock_byte < LOCK_BYTE_MIN || message->lock_byte > INT64_MAX - 1)
		return err_set(err, "lock byte %" PRIu64 " is not above 2^40", message->lock_byte);
	if (joins->count == JOINS_MAX)
		return err_set(err, "%d leaves are joined already", JOINS_MAX);
	return 0;
}

static void keep(struct joins *joins, struct join *join)
{
	if (joins->count == joins->room) {
		joins->room = joins->room ? joins->room * 2 : 16;
		joins->items = must_realloc(joins->items, joins->room, sizeof(struct join *));
	}
	joins->items[joins->count++] = join;
}

int joins_open(struct joins *joins, const struct roots *roots, const struct msg_join *message,
	struct join **ret_join, struct err *err)
{
	bug_if(joins_find(joins, message->join) != NULL);
	if (check_join(joins, message, err) < 0)
		return -1;

	CLEANUP(join_cleanup) struct join *join = join_new(message);
	if (open_leaf(join, roots, message, err) < 0)
		return -1;
	for (size_t i = 0; i < message->sources_count; i++) {
		struct copy_file *file = (struct copy_file *)&join->files.sources[i];
		if (open_source(roots, &message->sources[i], file, err) < 0)
			return -1;
	}
	keep(joins, join);
	*ret_join = steal(&join);
	return 0;
}

struct join *joins_find(const struct joins *joins, uint64_t id)
{
	for (size_t i = 0; i < joins->count; i++) {
		if (joins->items[i]->id == id)
			return joins->items[i];
	}
	return NULL;
}

void joins_close(struct joins *joins, struct join *join)
{
	bug_if(join->orders > 0);
	for (size_t i = 0; i < joins->count; i++) {
		if (joins->items[i] == join) {
			joins->items[i] = joins->items[--joins->count];
			break;
		}
	}
	join_free(join);
}

size_t joins_count(const struct joins *joins)
{
	return joins->count;
}

struct join *joins_at(const struct joins *joins, size_t index)
{
	bug_if(index >= joins->count);
	return joins->items[index];
}
