/* SPDX-License-Identifier: Apache-2.0 */
/* Whether bytes are all zero. */
#ifndef SLUICE_COMMON_ZERO_TEST_H
#define SLUICE_COMMON_ZERO_TEST_H

#include <stdbool.h>
#include <stddef.h>

/* True for no bytes at all.  Any alignment. */
bool bytes_are_zero(const void *bytes, size_t length);

#endif
