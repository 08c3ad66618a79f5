/* SPDX-License-Identifier: Apache-2.0 */
/* The queue of effects that wait for a commit. */
#include <stdlib.h>
#include <string.h>

#include "broker/settle.h"
#include "tests/unit/unit.h"

static uint64_t performed[10000];
static size_t performed_count;

static void remember(void *owner, const struct effect *effect)
{
	ck_assert_ptr_eq(owner, performed);
	ck_assert_uint_eq(effect->length, 1);
	performed[performed_count++] = effect->peer;
}

static struct settle *new_queue(void)
{
	performed_count = 0;
	return settle_new(remember, performed);
}

static void add(struct settle *settle, uint64_t ticket, uint64_t name)
{
	struct effect effect = {.kind = EFFECT_REPLY, .settled = true, .peer = name};

	effect.bytes = malloc(1);
	effect.length = 1;
	settle_add(settle, ticket, &effect);
	ck_assert_ptr_null(effect.bytes);
}

START_TEST(nothing_leaves_before_its_commit)
{
	struct settle *settle = new_queue();
	add(settle, 3, 30);

	settle_release(settle, 2);

	ck_assert_uint_eq(performed_count, 0);
	ck_assert_uint_eq(settle_count(settle), 1);
	settle_free(settle);
}
END_TEST

START_TEST(a_commit_releases_all_that_waited_for_it_and_for_earlier_ones_in_order)
{
	struct settle *settle = new_queue();
	add(settle, 1, 10);
	add(settle, 2, 20);
	add(settle, 2, 21);
	add(settle, 3, 30);

	settle_release(settle, 2);

	ck_assert_uint_eq(performed_count, 3);
	ck_assert_uint_eq(performed[0], 10);
	ck_assert_uint_eq(performed[1], 20);
	ck_assert_uint_eq(performed[2], 21);
	settle_release(settle, 3);
	ck_assert_uint_eq(performed[3], 30);
	ck_assert_uint_eq(settle_bytes(settle), 0);
	settle_free(settle);
}
END_TEST

START_TEST(the_ring_grows_and_turns_without_losing_order)
{
	struct settle *settle = new_queue();
	uint64_t ticket = 0;

	while (ticket < 9000) {
		for (int i = 0; i < 90; i++, ticket++)
			add(settle, ticket, ticket);
		settle_release(settle, ticket > 40 ? ticket - 40 : 0);
	}
	settle_release(settle, UINT64_MAX);

	ck_assert_uint_eq(performed_count, 9000);
	for (uint64_t i = 0; i < 9000; i++)
		ck_assert_uint_eq(performed[i], i);
	settle_free(settle);
}
END_TEST

UNIT_MAIN("settle", nothing_leaves_before_its_commit,
	a_commit_releases_all_that_waited_for_it_and_for_earlier_ones_in_order,
	the_ring_grows_and_turns_without_losing_order)
