/* SPDX-License-Identifier: Apache-2.0 */
/* Unpredictable numbers from the kernel. */
#ifndef SLUICE_COMMON_RANDOM_H
#define SLUICE_COMMON_RANDOM_H

#include <stdint.h>

/* 1 to 2^62, uniformly; ends the process where the kernel has no randomness. */
uint64_t random_id(void);

#endif
