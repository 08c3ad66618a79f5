/* SPDX-License-Identifier: Apache-2.0 */
/* A limit on bytes per second: a bucket that fills with time and is emptied by what is handed
 * out.
 *
 * A range may be taken as soon as the bucket holds anything; what it lacks then becomes a debt
 * that time pays.  So the average is exact whatever the size of the ranges, and the first range
 * never waits.  What turns out not to have been copied (zeroes, what the guest wrote first) is
 * given back. */
#ifndef SLUICE_BROKER_CORE_BUCKET_H
#define SLUICE_BROKER_CORE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct bucket {
	uint64_t speed;	   /* bytes per second; 0: no limit */
	int64_t level;	   /* bytes; below zero: debt */
	uint64_t fraction; /* of a byte, in 1/1000 */
	uint64_t filled_ms;
};

void bucket_init(struct bucket *bucket, uint64_t speed, uint64_t now_ms);
/* A new limit counts from now on; a debt stays, at the new pace. */
void bucket_set_speed(struct bucket *bucket, uint64_t speed, uint64_t now_ms);
bool bucket_has_any(struct bucket *bucket, uint64_t now_ms);
void bucket_take(struct bucket *bucket, uint64_t bytes);
void bucket_give_back(struct bucket *bucket, uint64_t bytes);
/* When it will hold something, if nothing is taken until then. */
uint64_t bucket_ready_ms(const struct bucket *bucket);

#endif
