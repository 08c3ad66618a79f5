/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of 100 ms, taken when somebody looks: what happened in between is the same whenever that is. */
#include "broker/core/pace.h"

#include "broker/core/wide.h"

#define MIB		  (UINT64_C(1) << 20)
#define BUSY_PERMILLE	  20
#define BUSY_REQUESTS	  100 /* a second */
#define BUSY_MS		  250
#define STEP_MS		  100
#define FALL		  4
#define RISE		  2
#define RISES_FROM	  (8 * MIB)
#define FREE_FROM	  (1024 * MIB)
#define LEAST		  1 /* a bucket of speed 0 would be no limit */
#define RANGE_MAX	  MIB
#define RANGES_PER_SECOND 8 /* each of them is flushed: more would be worse for the guest */

void pace_init(struct pace *pace, uint64_t now_ms)
{
	*pace = (struct pace){.stepped_ms = now_ms};
	bucket_init(&pace->bucket, 0, now_ms);
}

static bool is_busy(const struct pace_load *load)
{
	return load->busy_permille >= BUSY_PERMILLE ||
	       (unsigned_wide)load->requests * 1000 >=
		       (unsigned_wide)load->interval_ms * BUSY_REQUESTS;
}

void pace_hear(struct pace *pace, const struct pace_load *load, uint64_t now_ms)
{
	if (is_busy(load))
		pace->busy_until_ms = now_ms + BUSY_MS;
}

bool pace_is_free(const struct pace *pace)
{
	return pace->bucket.speed == 0;
}

static uint64_t at_least(uint64_t least, uint64_t value)
{
	return value > least ? value : least;
}

static uint64_t fallen(uint64_t rate, uint64_t floor)
{
	return at_least(at_least(LEAST, floor), rate / FALL);
}

static void set_rate(struct pace *pace, uint64_t rate, uint64_t now_ms)
{
	bucket_set_speed(&pace->bucket, rate < FREE_FROM ? rate : 0, now_ms);
}

static void step(struct pace *pace, uint64_t floor)
{
	uint64_t rate = pace->bucket.speed;

	pace->stepped_ms += STEP_MS;
	if (pace->stepped_ms <= pace->busy_until_ms)
		rate = fallen(rate, floor);
	else
		rate = at_least(RISES_FROM, rate * RISE);
	set_rate(pace, rate, pace->stepped_ms);
}

void pace_advance(struct pace *pace, uint64_t floor, uint64_t moved, uint64_t now_ms)
{
	if (pace_is_free(pace) && now_ms < pace->busy_until_ms) {
		pace->stepped_ms = now_ms;
		set_rate(pace, fallen(moved < FREE_FROM ? moved : FREE_FROM, floor), now_ms);
	}
	/* Nobody is busy for longer than BUSY_MS without a word, so it ends soon however long ago the last step was. */
	while (!pace_is_free(pace) && now_ms >= pace->stepped_ms + STEP_MS)
		step(pace, floor);
}

uint64_t pace_due_ms(const struct pace *pace)
{
	return pace_is_free(pace) ? UINT64_MAX : pace->stepped_ms + STEP_MS;
}

uint64_t pace_range_max(const struct pace *pace)
{
	uint64_t share = pace->bucket.speed / RANGES_PER_SECOND;

	if (pace_is_free(pace))
		return UINT64_MAX;
	return share < RANGE_MAX ? share : RANGE_MAX;
}
