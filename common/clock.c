/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's clocks; they can't fail for the two clocks used here. */
#include "common/clock.h"

#include <time.h>

#include "common/check.h"

static uint64_t read_clock_us(clockid_t clock)
{
	struct timespec now;
	int rc = clock_gettime(clock, &now);

	bug_if(rc != 0);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t clock_monotonic_ms(void)
{
	return read_clock_us(CLOCK_MONOTONIC) / 1000;
}

uint64_t clock_monotonic_us(void)
{
	return read_clock_us(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_us(void)
{
	return read_clock_us(CLOCK_REALTIME);
}
