/* SPDX-License-Identifier: Apache-2.0 */
/* How a job gives way to a busy guest, and takes the disk back when the guest is idle.
 *
 *     rate
 *      free |-----.                    .----   unlimited
 *           |      '.                .'        the rate doubles every 100 ms
 *           |        '.            .'
 *     floor |          '----------'            a quarter of it stays every 100 ms
 *           '------|----------|----------> time
 *               guest busy   idle
 *
 * A guest is busy from a report in which some request was in flight for 2 % of the time, or that
 * tells of 100 requests a second, until 250 ms after the last such report: so one report that is
 * lost means nothing, and one that comes twice or late means no more than one.  A guest that is
 * not harmed by the copy keeps the disk busy for less; what harms it makes its requests longer,
 * and so makes it busy.
 *
 * Falling begins at what the job really moved, not at what it might have, so that it takes three
 * or four steps from any rate to the floor.  While the rate is held back, ranges are small
 * (pace_range_max): what is under way is what a guest's request can find before it on the disk.
 *
 * A floor of 1 GiB a second or more is a job that never gives way; with a floor of 0 it moves next
 * to nothing.  This is a limit beside the job's speed and the budget: the least of them holds.
 *
 * tests/bench/guest_latency.py measures what a guest feels of it. */
#ifndef SLUICE_BROKER_CORE_PACE_H
#define SLUICE_BROKER_CORE_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/core/bucket.h"

struct pace {
	struct bucket bucket; /* its speed is the rate; 0: free */
	uint64_t busy_until_ms;
	uint64_t stepped_ms;
};

struct pace_load {
	uint64_t requests, busy_permille, interval_ms;
};

void pace_init(struct pace *pace, uint64_t now_ms);
/* A report came. */
void pace_hear(struct pace *pace, const struct pace_load *load, uint64_t now_ms);
/* Lets the time until now pass.  `floor`: the rate below which it does not fall (bytes a second; 0:
 * next to nothing).  `moved`: the rate of late, where the fall begins. */
void pace_advance(struct pace *pace, uint64_t floor, uint64_t moved, uint64_t now_ms);
bool pace_is_free(const struct pace *pace);
/* When pace_advance has something to do, if nothing is heard until then; UINT64_MAX: never. */
uint64_t pace_due_ms(const struct pace *pace);
/* The longest range to be handed out now. */
uint64_t pace_range_max(const struct pace *pace);

#endif
