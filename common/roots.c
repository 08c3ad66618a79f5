/* SPDX-License-Identifier: Apache-2.0 */
/* Opening files beneath an operator's folders.
 *
 *   name ──realpath──▶ true name ──beneath which root?──▶ openat2(root, rest, BENEATH|NO_SYMLINKS)
 *        ──fstat: file or block device?──▶ open it anew, by descriptor, with the caller's flags
 *
 * The first step only finds where a name leads; nothing is decided by it that the kernel does not
 * enforce in the third. Nothing but a file or block device is ever really opened, so a FIFO cannot
 * make us wait and a device node cannot act on being opened. */
#include "common/roots.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"

#define OPEN_TRIES 8 /* openat2 may say EAGAIN while others rename */

struct root {
	char *true_name;
	int fd;
};

struct roots {
	struct root items[ROOTS_MAX];
	size_t count;
};

struct roots *roots_new(void)
{
	return must_calloc(1, sizeof(struct roots));
}

void roots_free(struct roots *roots)
{
	if (!roots)
		return;
	for (size_t i = 0; i < roots->count; i++) {
		free(roots->items[i].true_name);
		close(roots->items[i].fd);
	}
	free(roots);
}

int roots_add(struct roots *roots, const char *folder, struct err *err)
{
	if (roots->count == ROOTS_MAX)
		return err_set(err, "more than %d roots", ROOTS_MAX);

	CLEANUP_FREE char *true_name = realpath(folder, NULL);
	if (!true_name)
		return err_set_errno(err, errno, "root %s", folder);
	CLEANUP_CLOSE int fd = open(true_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set_errno(err, errno, "root %s", folder);
	if (faccessat(fd, ".", X_OK, AT_EACCESS) < 0)
		return err_set_errno(err, errno, "root %s", folder);

	roots->items[roots->count++] = (struct root){.true_name = steal(&true_name), .fd = fd};
	fd = -1;
	return 0;
}

/* The part of a true name behind a root, NULL if it does not lie beneath it; "." for the root
 * itself. */
static const char *part_beneath(const struct root *root, const char *true_name)
{
	size_t length = strlen(root->true_name);

	if (strcmp(root->true_name, "/") == 0)
		length = 0;
	if (strncmp(true_name, root->true_name, length) != 0)
		return NULL;
	if (true_name[length] == '\0')
		return ".";
	if (true_name[length] != '/')
		return NULL;
	return true_name[length + 1] ? true_name + length + 1 : ".";
}

static const struct root *find_root(
	const struct roots *roots, const char *true_name, const char **ret_part)
{
	for (size_t i = 0; i < roots->count; i++) {
		const char *part = part_beneath(&roots->items[i], true_name);
		if (part) {
			*ret_part = part;
			return &roots->items[i];
		}
	}
	return NULL;
}

static int refuse_outside(const char *path, const char *true_name, struct err *err)
{
	const char *slash = strrchr(true_name, '/');
	int folder_length = slash && slash != true_name ? (int)(slash - true_name) : 1;

	return err_set(err, "%s is outside every --root (--root %.*s would allow it)", path,
		folder_length, true_name);
}

/* Whether the folder that a name would be in lies beneath a root; so that names outside are all
 * refused alike, whether there is such a file or not. */
static bool nearest_folder_is_beneath(const struct roots *roots, const char *path)
{
	char folder[PATH_MAX];
	const char *part;

	if (strlen(path) >= sizeof folder)
		return true;
	memcpy(folder, path, strlen(path) + 1);
	for (;;) {
		char *slash = strrchr(folder, '/');
		if (slash && slash != folder)
			*slash = '\0';
		else
			memcpy(folder, slash ? "/" : ".", 2);

		CLEANUP_FREE char *true_name = realpath(folder, NULL);
		if (true_name)
			return find_root(roots, true_name, &part) != NULL;
		if (strcmp(folder, "/") == 0 || strcmp(folder, ".") == 0)
			return false;
	}
}

static int open_beneath(const struct root *root, const char *part)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd = -1;

	for (int i = 0; i < OPEN_TRIES; i++) {
		fd = syscall(SYS_openat2, root->fd, part, &how, sizeof how);
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return (int)fd;
}

static int check_type(int fd, const char *path, struct err *err)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return err_set_errno(err, errno, "%s", path);
	if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode))
		return 0;
	if (S_ISDIR(status.st_mode))
		return err_set(err, "%s is a folder, not a file or a block device", path);
	return err_set(err, "%s is neither a file nor a block device", path);
}

int roots_open(const struct roots *roots, const char *path, int flags, struct err *err)
{
	const char *part;

	bug_if(flags & (O_CREAT | O_PATH));

	CLEANUP_FREE char *true_name = realpath(path, NULL);
	if (!true_name) {
		int number = errno;
		if (nearest_folder_is_beneath(roots, path))
			return err_set_errno(err, number, "%s", path);
		return err_set(err, "%s is outside every --root", path);
	}

	const struct root *root = find_root(roots, true_name, &part);
	if (!root)
		return refuse_outside(path, true_name, err);

	CLEANUP_CLOSE int place = open_beneath(root, part);
	if (place < 0 && (errno == ELOOP || errno == EXDEV))
		return err_set(err, "%s changed while it was being opened", path);
	if (place < 0)
		return err_set_errno(err, errno, "%s", path);
	if (check_type(place, path, err) < 0)
		return -1;

	char by_descriptor[64];
	snprintf(by_descriptor, sizeof by_descriptor, "/proc/self/fd/%d", place);
	int fd = open(by_descriptor, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return err_set_errno(err, errno, "%s", path);
	return fd;
}
