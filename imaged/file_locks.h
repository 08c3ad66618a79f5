/* SPDX-License-Identifier: Apache-2.0 */
/* The byte-range locks by which programs that open one image refuse each other, QEMU's among them.
 *
 * A shared lock on byte 100 + p says "I use permission p", one on 200 + p "nobody else may use p" (p: 0 consistent reading,
 * 1 writing, 3 resizing).  Each program sets its bytes first and tests others' afterwards: of two that come at once at least one
 * sees the other.  The locks belong to the open file description and end with it, however the process ends.
 *
 *                       sets                       tests
 *   leaf for writing    100, 101, 103, 201, 203    101, 103, 200, 203
 *   any other file      100, 201, 203              101, 103, 200
 *
 * A writer does not test 201: it is what a worker that copies into the leaf holds. */
#ifndef SLUICE_IMAGED_FILE_LOCKS_H
#define SLUICE_IMAGED_FILE_LOCKS_H

#include "common/attributes.h"
#include "common/err.h"

/* Locks the file behind `fd`; `path` is for the message.  0, or -1 and err: of kind ERROR_CLASS_DEVICE_IN_USE where another
 * open file description (also one of this process) holds what excludes us.  Then no byte is held by `fd` any more. */
int MUST_CHECK file_lock_writer(int fd, const char *path, struct err *err);
int MUST_CHECK file_lock_reader(int fd, const char *path, struct err *err);

#endif
