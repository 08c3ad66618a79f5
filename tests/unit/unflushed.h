/* SPDX-License-Identifier: Apache-2.0 */
/* Stand before the C library's, for LMDB too: nothing waits for the disk.  What outlives a process has no need of it, and a thousand
 * commits in a row take a slow disk longer than a test has. */
#ifndef SLUICE_TESTS_UNIT_UNFLUSHED_H
#define SLUICE_TESTS_UNIT_UNFLUSHED_H

#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "common/attributes.h"

/* What a test wants to happen then; set before there are threads. */
static void (*while_flushing)(void);

int fdatasync(int fd UNUSED)
{
	if (while_flushing)
		while_flushing();
	return 0;
}

int fsync(int fd UNUSED)
{
	return 0;
}

/* The name that LMDB knows: in this program open() is another one. */
int open_unflushed(const char *path, int flags, ...) __asm__("open");

int open_unflushed(const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	return openat(AT_FDCWD, path, flags & ~O_DSYNC, mode);
}

#endif
