/* SPDX-License-Identifier: Apache-2.0 */
/* The only place that asks what time it is. */
#ifndef SLUICE_COMMON_CLOCK_H
#define SLUICE_COMMON_CLOCK_H

#include <stdint.h>

/* Milliseconds since some fixed point, never going back (CLOCK_MONOTONIC). */
uint64_t clock_monotonic_ms(void);
/* The same in microseconds. */
uint64_t clock_monotonic_us(void);
/* Microseconds since 1970 (CLOCK_REALTIME). */
uint64_t clock_realtime_us(void);

#endif
