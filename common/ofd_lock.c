/* SPDX-License-Identifier: Apache-2.0 */
/* fcntl(2) with F_OFD_SETLK and F_OFD_GETLK; never waits. */
#include "common/ofd_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int set_lock(int fd, short type, uint64_t byte)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

	if (byte > INT64_MAX) {
		errno = EOVERFLOW;
		return -1;
	}
	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EACCES)
		errno = EAGAIN;
	return -1;
}

int ofd_lock_byte(int fd, uint64_t byte)
{
	return set_lock(fd, F_RDLCK, byte);
}

int ofd_unlock_byte(int fd, uint64_t byte)
{
	return set_lock(fd, F_UNLCK, byte);
}

/* The kernel names some lock in the range, not the first one: look again before what it named until
 * it names none. */
int ofd_lock_held_elsewhere(int fd, uint64_t first, uint64_t length, uint64_t *ret_byte)
{
	uint64_t found = 0;
	int is_found = 0;

	if (first > INT64_MAX || length > INT64_MAX - first) {
		errno = EOVERFLOW;
		return -1;
	}
	while (length > 0) {
		struct flock lock = {.l_type = F_WRLCK,
			.l_whence = SEEK_SET,
			.l_start = (off_t)first,
			.l_len = (off_t)length};

		if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
			return -1;
		if (lock.l_type == F_UNLCK)
			break;
		found = (uint64_t)lock.l_start > first ? (uint64_t)lock.l_start : first;
		is_found = 1;
		length = found - first;
	}
	if (is_found && ret_byte)
		*ret_byte = found;
	return is_found;
}
