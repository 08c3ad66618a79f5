/* SPDX-License-Identifier: Apache-2.0 */
/* What guests asked and were answered, in order, with the places in the record of writes (kill_after.c, SLUICE_WRITE_LOG) where that
 * was: tests/support/power.py knows from it what a power cut may take away.
 *
 *   a byte: 'w' a change begins, 'f' a flush begins, 'd' it is done, 'x' it failed, 'm' the image was attached anew
 *   four 64-bit numbers in the host's order: the request, offset, length, bytes in the record of writes so far
 *   of a change, what its bytes are afterwards
 *
 * A beginning is noted before the request is made, an answer after it has come. */
#ifndef SLUICE_TESTS_SUPPORT_GUEST_JOURNAL_H
#define SLUICE_TESTS_SUPPORT_GUEST_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

struct journal;

/* Ends the process on failure. */
struct journal *journal_open(const char *path);
/* All take NULL for a journal that nobody wants.  `bytes`: of a change.  Returns the request's number. */
uint64_t journal_begin(struct journal *journal, char what, uint64_t offset, uint64_t length,
	const unsigned char *bytes);
void journal_answer(struct journal *journal, uint64_t request, bool is_done);
void journal_mark(struct journal *journal);

#endif
