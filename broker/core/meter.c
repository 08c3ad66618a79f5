/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of slices.  The newest one is not over yet and counts with the time that it has lasted. */
#include "broker/core/meter.h"

#include "broker/core/wide.h"

void meter_init(struct meter *meter)
{
	*meter = (struct meter){.started = UINT64_MAX};
}

static void advance(struct meter *meter, uint64_t now_ms)
{
	uint64_t slice = now_ms / METER_SLICE_MS;

	if (meter->started == UINT64_MAX) {
		meter->started = meter->slice = slice;
		return;
	}
	for (uint64_t i = 0; meter->slice < slice && i < METER_SLICES; i++) {
		meter->slice++;
		meter->bytes[meter->slice % METER_SLICES] = 0;
	}
	if (meter->slice < slice)
		meter->slice = slice; /* all are empty by now, wherever the ring goes on */
}

void meter_add(struct meter *meter, uint64_t now_ms, uint64_t bytes)
{
	advance(meter, now_ms);
	meter->bytes[meter->slice % METER_SLICES] += bytes;
}

uint64_t meter_rate(struct meter *meter, uint64_t now_ms)
{
	uint64_t total = 0, slices, lasted_ms;

	if (meter->started == UINT64_MAX)
		return 0;
	advance(meter, now_ms);
	for (unsigned i = 0; i < METER_SLICES; i++)
		total += meter->bytes[i];
	slices = meter->slice - meter->started;
	if (slices > METER_SLICES - 1)
		slices = METER_SLICES - 1;
	lasted_ms = slices * METER_SLICE_MS + now_ms % METER_SLICE_MS;
	if (slices == 0)
		return 0;
	return (uint64_t)((unsigned_wide)total * 1000 / lasted_ms);
}

bool meter_is_known(const struct meter *meter, uint64_t now_ms)
{
	return meter->started != UINT64_MAX && now_ms / METER_SLICE_MS > meter->started;
}
