/* SPDX-License-Identifier: Apache-2.0 */
/* Loops around pread(2) and pwrite(2). */
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* Whether [offset, offset+length) can be named with an off_t. */
static int check_range(size_t length, uint64_t offset)
{
	if (offset > INT64_MAX || length > (uint64_t)INT64_MAX - offset) {
		errno = EOVERFLOW;
		return -1;
	}
	return 0;
}

int64_t pread_up_to(int fd, void *buffer, size_t length, uint64_t offset)
{
	size_t done = 0;

	if (check_range(length, offset) < 0)
		return -1;
	while (done < length) {
		ssize_t n = pread(fd, (char *)buffer + done, length - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (int64_t)done;
}

int pread_full(int fd, void *buffer, size_t length, uint64_t offset)
{
	int64_t n = pread_up_to(fd, buffer, length, offset);

	if (n < 0)
		return -1;
	if ((size_t)n < length) {
		errno = ENODATA;
		return -1;
	}
	return 0;
}

int pwrite_full(int fd, const void *buffer, size_t length, uint64_t offset)
{
	size_t done = 0;

	if (check_range(length, offset) < 0)
		return -1;
	while (done < length) {
		ssize_t n = pwrite(
			fd, (const char *)buffer + done, length - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0) {
			errno = EIO;
			return -1;
		}
		done += (size_t)n;
	}
	return 0;
}

int open_once_more(int fd, int flags)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	return open(link, flags);
}
