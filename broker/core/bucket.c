/* SPDX-License-Identifier: Apache-2.0 */
/* Token bucket with debt.  It holds at most 50 ms worth, so that a pause does not end in a burst
 * that the average over a few seconds would show. */
#include "broker/core/bucket.h"

#include "broker/core/wide.h"

#define HOLDS_MS 50

static int64_t most(const struct bucket *bucket)
{
	uint64_t bytes = bucket->speed / 1000 * HOLDS_MS;

	return bytes > 0 ? (int64_t)bytes : 1;
}

void bucket_init(struct bucket *bucket, uint64_t speed, uint64_t now_ms)
{
	*bucket = (struct bucket){.speed = speed, .level = 1, .filled_ms = now_ms};
}

static void fill(struct bucket *bucket, uint64_t now_ms)
{
	unsigned_wide gain;

	if (now_ms <= bucket->filled_ms)
		return;
	gain = (unsigned_wide)bucket->speed * (now_ms - bucket->filled_ms) + bucket->fraction;
	bucket->filled_ms = now_ms;
	if (bucket->speed == 0)
		return;
	if (gain / 1000 >= (unsigned_wide)((wide)most(bucket) - bucket->level)) {
		bucket->level = most(bucket);
		bucket->fraction = 0;
		return;
	}
	bucket->level += (int64_t)(gain / 1000);
	bucket->fraction = (uint64_t)(gain % 1000);
}

void bucket_set_speed(struct bucket *bucket, uint64_t speed, uint64_t now_ms)
{
	fill(bucket, now_ms);
	bucket->speed = speed;
	bucket->fraction = 0;
	if (speed == 0)
		bucket->level = 1;
	else if (bucket->level > most(bucket))
		bucket->level = most(bucket);
}

bool bucket_has_any(struct bucket *bucket, uint64_t now_ms)
{
	fill(bucket, now_ms);
	return bucket->speed == 0 || bucket->level > 0;
}

void bucket_take(struct bucket *bucket, uint64_t bytes)
{
	if (bucket->speed == 0)
		return;
	if (__builtin_sub_overflow(bucket->level, (int64_t)bytes, &bucket->level))
		bucket->level = INT64_MIN / 2;
}

void bucket_give_back(struct bucket *bucket, uint64_t bytes)
{
	int64_t room;

	if (bucket->speed == 0)
		return;
	if (__builtin_sub_overflow(most(bucket), bucket->level, &room))
		room = INT64_MAX;
	bucket->level += (int64_t)bytes < room ? (int64_t)bytes : room;
}

uint64_t bucket_ready_ms(const struct bucket *bucket)
{
	unsigned_wide missing, wait_ms;

	if (bucket->speed == 0 || bucket->level > 0)
		return bucket->filled_ms;
	missing = (unsigned_wide)(1 - (wide)bucket->level) * 1000 - bucket->fraction;
	wait_ms = (missing + bucket->speed - 1) / bucket->speed;
	return wait_ms > INT64_MAX ? INT64_MAX : bucket->filled_ms + (uint64_t)wait_ms;
}
