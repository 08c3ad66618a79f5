/* SPDX-License-Identifier: Apache-2.0 */
/* What a broker and a worker do with the device of device_fixture.h, in one call each. */
#ifndef SLUICE_TESTS_UNIT_COPY_FIXTURE_H
#define SLUICE_TESTS_UNIT_COPY_FIXTURE_H

#include "tests/unit/device_fixture.h"

/* Clusters [first, first+count). */
static inline struct reservation fixture_reserve(
	struct device_fixture *fixture, uint64_t first, uint64_t count)
{
	const struct reservation_wish wish = {.job = "j",
		.join = fixture->join->id,
		.offset = first * CLUSTER,
		.length = count * CLUSTER};
	struct reservation made = {0};

	ck_assert_msg(reservation_make(fixture->device, &wish, &fixture->memory, &made,
			      &fixture->trouble) == 0,
		"%s", fixture->trouble.err.text);
	return made;
}

/* What a worker writes there. */
static inline void fixture_copy(
	const struct device_fixture *fixture, const struct reservation *made, char byte)
{
	for (size_t i = 0; i < made->destination_count; i++) {
		char *bytes = must_calloc(1, made->destinations[i].length);

		memset(bytes, byte, made->destinations[i].length);
		ck_assert_int_eq(pwrite_full(fixture->worker, bytes, made->destinations[i].length,
					 made->destinations[i].offset),
			0);
		free(bytes);
	}
}

static inline struct reservation_outcome fixture_commit(
	struct device_fixture *fixture, const struct reservation *made)
{
	struct reservation_outcome outcome = {0};

	ck_assert_msg(reservation_commit(fixture->device, made->lease, NULL, 0, &outcome,
			      &fixture->trouble) == 0,
		"%s", fixture->trouble.err.text);
	return outcome;
}

/* The kind of the leaf's extent at a cluster. */
static inline enum extent_kind fixture_kind(struct device_fixture *fixture, uint64_t cluster)
{
	struct extent extent = {0};

	ck_assert_int_eq(chain_map(fixture->device->live.current->chain, 0, 1, cluster * CLUSTER,
				 CLUSTER, &extent, NULL),
		0);
	return extent.kind;
}

#endif
