/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest must read of its disk, byte by byte, in a file beside the image that outlives the process which writes both.
 *
 *   header, with the requests under way | the disk as it was last answered for | the disk as it will be
 *
 * Changes under way never overlap (who would, waits), so that each byte has one expected value; only who watches one, and who looks
 * when the process was killed, finds two. */
#ifndef SLUICE_TESTS_SUPPORT_GUEST_SHADOW_H
#define SLUICE_TESTS_SUPPORT_GUEST_SHADOW_H

#include <stdbool.h>
#include <stdint.h>

struct shadow;

/* Makes it for a disk of `size` bytes that reads as the raw file `content`, or opens what is there.  Ends the process on failure. */
struct shadow *shadow_open(const char *path, const char *content, uint64_t size);
uint64_t shadow_size(const struct shadow *shadow);
/* Changes in one piece of so many bytes count as overlapping; 1 at first. */
void shadow_set_unit(struct shadow *shadow, uint64_t unit);

/* Waits until nothing under way overlaps.  *ret_next: where the new bytes go (as they are now), before shadow_go; what it returns is
 * given to shadow_end. */
unsigned shadow_begin(
	struct shadow *shadow, uint64_t offset, uint64_t length, unsigned char **ret_next);
/* The request is made from here on. */
void shadow_go(struct shadow *shadow, unsigned number);
/* It was answered; `is_done`: the new bytes count. */
void shadow_end(struct shadow *shadow, unsigned number, bool is_done);

/* Watches bytes that others may be about to change: what is read until shadow_end is for each byte what `ret_old` or what *ret_new has.
 * Nobody begins another change there meanwhile. */
unsigned shadow_watch(struct shadow *shadow, uint64_t offset, uint64_t length,
	unsigned char *ret_old, const unsigned char **ret_new);

/* Whether a byte may have this value; for requests cut off by a kill either. */
bool shadow_accepts(const struct shadow *shadow, uint64_t offset, unsigned char byte);
/* After a kill: what was read is how it is. */
void shadow_settle(struct shadow *shadow, const unsigned char *disk);
/* The bytes as they were last answered for. */
const unsigned char *shadow_now(const struct shadow *shadow);

#endif
