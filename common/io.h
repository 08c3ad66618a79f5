/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes: EINTR and short counts end here.  And open files. */
#ifndef SLUICE_COMMON_IO_H
#define SLUICE_COMMON_IO_H

#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"

/* 0, or -1 with errno.  A file that ends before `length` bytes gives -1 with ENODATA (pread) */
int MUST_CHECK pread_full(int fd, void *buffer, size_t length, uint64_t offset);
int MUST_CHECK pwrite_full(int fd, const void *buffer, size_t length, uint64_t offset);
/* Bytes read before end of file, at most `length`; -1 with errno. */
int64_t MUST_CHECK pread_up_to(int fd, void *buffer, size_t length, uint64_t offset);

/* The same open file once more, with a description of its own: its own offset and locks, and told by itself of writes that fail from
 * here on.  A descriptor with `flags` of open(2), or -1 with errno. */
int MUST_CHECK open_once_more(int fd, int flags);

#endif
