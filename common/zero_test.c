/* SPDX-License-Identifier: Apache-2.0 */
/* The zero test of a cluster.
 *
 * Most clusters that hold data betray it in their first bytes, so those are asked first; the rest is read in blocks whose
 * words are or-ed together without a branch, which the compiler turns into vector instructions. */
#include "common/zero_test.h"

#include <stdint.h>
#include <string.h>

#define BLOCK_BYTES 256

/* May stand at any address, and over any type. */
typedef uint64_t vector __attribute__((vector_size(32), aligned(1), may_alias));

static bool block_is_zero(const unsigned char *block)
{
	const vector *v = (const vector *)block;
	vector any = v[0] | v[1] | v[2] | v[3] | v[4] | v[5] | v[6] | v[7];

	return (any[0] | any[1] | any[2] | any[3]) == 0;
}

static bool few_bytes_are_zero(const unsigned char *bytes, size_t length)
{
	unsigned char any = 0;

	for (size_t i = 0; i < length; i++)
		any |= bytes[i];
	return any == 0;
}

bool bytes_are_zero(const void *bytes, size_t length)
{
	const unsigned char *at = bytes;
	uint64_t first;

	if (length >= sizeof first) {
		memcpy(&first, at, sizeof first);
		if (first)
			return false;
	}
	for (; length >= BLOCK_BYTES; at += BLOCK_BYTES, length -= BLOCK_BYTES) {
		if (!block_is_zero(at))
			return false;
	}
	return few_bytes_are_zero(at, length);
}
