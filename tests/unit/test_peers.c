/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers for addresses. */
#include <stdio.h>
#include <string.h>

#include "broker/peers.h"
#include "tests/unit/unit.h"

START_TEST(an_address_keeps_its_number_and_a_number_its_address)
{
	uint64_t counter = 0;
	struct peers *peers = peers_new(8, &counter);
	struct peer_address found;

	uint64_t one = peers_number(peers, "one", 3);
	uint64_t two = peers_number(peers, "two", 3);

	ck_assert_uint_ne(one, two);
	ck_assert_uint_eq(peers_number(peers, "one", 3), one);
	ck_assert(peers_find(peers, two, &found));
	ck_assert_uint_eq(found.length, 3);
	ck_assert_mem_eq(found.bytes, "two", 3);
	peers_free(peers);
}
END_TEST

START_TEST(a_forgotten_address_gets_a_number_never_used_before)
{
	uint64_t counter = 0;
	struct peers *peers = peers_new(8, &counter);
	struct peer_address found;
	uint64_t first = peers_number(peers, "x", 1);

	peers_forget(peers, first);
	peers_forget(peers, first);

	ck_assert(!peers_find(peers, first, &found));
	ck_assert_uint_gt(peers_number(peers, "x", 1), first);
	peers_free(peers);
}
END_TEST

START_TEST(added_ones_are_apart_even_with_one_address)
{
	uint64_t counter = 0;
	struct peers *peers = peers_new(8, &counter);
	uint64_t one = peers_add(peers, "", 0);
	uint64_t two = peers_add(peers, "", 0);
	struct peer_address found;

	ck_assert_uint_ne(one, two);
	ck_assert_uint_ne(peers_number(peers, "", 0), two);
	peers_forget(peers, one);
	ck_assert(peers_find(peers, two, &found));
	ck_assert_uint_eq(found.length, 0);
	peers_free(peers);
}
END_TEST

START_TEST(the_one_unused_for_longest_makes_room)
{
	uint64_t counter = 0;
	struct peers *peers = peers_new(3, &counter);
	struct peer_address found;
	uint64_t a = peers_number(peers, "a", 1);
	uint64_t b = peers_number(peers, "b", 1);
	uint64_t c = peers_number(peers, "c", 1);
	peers_number(peers, "a", 1);

	uint64_t d = peers_number(peers, "d", 1);

	ck_assert_uint_eq(peers_count(peers), 3);
	ck_assert(peers_find(peers, a, &found));
	ck_assert(!peers_find(peers, b, &found));
	ck_assert(peers_find(peers, c, &found));
	ck_assert(peers_find(peers, d, &found));
	peers_free(peers);
}
END_TEST

START_TEST(a_flood_of_strangers_stays_within_the_limit)
{
	uint64_t counter = 0;
	struct peers *peers = peers_new(1000, &counter);
	struct peer_address found;

	for (int i = 0; i < 100000; i++) {
		char address[16];
		int length = snprintf(address, sizeof(address), "%d", i);

		peers_number(peers, address, (size_t)length);
		if (i % 7 == 1)
			peers_forget(peers, counter);
	}

	ck_assert_uint_eq(peers_count(peers), 1000);
	ck_assert(peers_find(peers, counter, &found));
	peers_free(peers);
}
END_TEST

UNIT_MAIN("peers", an_address_keeps_its_number_and_a_number_its_address,
	a_forgotten_address_gets_a_number_never_used_before,
	added_ones_are_apart_even_with_one_address, the_one_unused_for_longest_makes_room,
	a_flood_of_strangers_stays_within_the_limit)
