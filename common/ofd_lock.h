/* SPDX-License-Identifier: Apache-2.0 */
/* Shared locks on single bytes of a file that belong to the open file description (fcntl(2),
 * F_OFD_SETLK): they end when the last descriptor of it is closed, however the process ended. */
#ifndef SLUICE_COMMON_OFD_LOCK_H
#define SLUICE_COMMON_OFD_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"

/* Takes a shared lock on one byte.  0, or -1 with errno (EAGAIN: somebody holds it exclusively). */
int MUST_CHECK ofd_lock_byte(int fd, uint64_t byte);
/* Gives one byte up again.  0, or -1 with errno. */
int ofd_unlock_byte(int fd, uint64_t byte);
/* Whether somebody else (another open file description) holds a lock of any kind in [first,
 * first+length): 1 yes, 0 no, -1 with errno.  `ret_byte`, if not NULL, gets the first byte held. */
int MUST_CHECK ofd_lock_held_elsewhere(int fd, uint64_t first, uint64_t length, uint64_t *ret_byte);

#endif
