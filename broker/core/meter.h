/* SPDX-License-Identifier: Apache-2.0 */
/* How fast lately: bytes per second over the last two seconds, in slices of a quarter of a
 * second. */
#ifndef SLUICE_BROKER_CORE_METER_H
#define SLUICE_BROKER_CORE_METER_H

#include <stdbool.h>
#include <stdint.h>

#define METER_SLICES   8
#define METER_SLICE_MS 250

struct meter {
	uint64_t bytes[METER_SLICES];
	uint64_t slice;	  /* number of the newest slice since the clock's beginning */
	uint64_t started; /* number of the slice in which it was started; UINT64_MAX: not yet */
};

void meter_init(struct meter *meter);
void meter_add(struct meter *meter, uint64_t now_ms, uint64_t bytes);
/* Bytes per second.  Until the first whole slice is over, 0. */
uint64_t meter_rate(struct meter *meter, uint64_t now_ms);
/* Whether it ran long enough for the rate to mean something. */
bool meter_is_known(const struct meter *meter, uint64_t now_ms);

#endif
