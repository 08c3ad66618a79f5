/* SPDX-License-Identifier: Apache-2.0 */
/* Replies that are tried again. */
#include <string.h>

#include "broker/unsent.h"
#include "tests/unit/unit.h"

static uint64_t deaf; /* takes nothing; 0: everybody reads */
static uint64_t sent[200], dropped[200];
static size_t sent_count, dropped_count, tries;

static int try_to_send(void *owner, uint64_t number, const void *bytes, size_t length)
{
	(void)owner;
	tries++;
	ck_assert_uint_ge(length, 5);
	ck_assert_mem_eq(bytes, "reply", 5);
	if (number == deaf)
		return 0;
	sent[sent_count++] = number;
	return 1;
}

static void drop(void *owner, uint64_t number)
{
	(void)owner;
	dropped[dropped_count++] = number;
}

static struct unsent *new_one(size_t bytes_max)
{
	return unsent_new(&(struct unsent_options){
		.bytes_max = bytes_max,
		.client_max = 100,
		.age_max_ms = 1000,
		.try_to_send = try_to_send,
		.drop = drop,
	});
}

START_TEST(nothing_to_send_needs_no_call)
{
	struct unsent *unsent = new_one(10000);

	ck_assert_uint_eq(unsent_retry(unsent, 5), UINT64_MAX);

	ck_assert_uint_eq(tries, 0);
	unsent_free(unsent);
}
END_TEST

START_TEST(replies_leave_soon_and_in_order)
{
	struct unsent *unsent = new_one(10000);
	for (uint64_t number = 1; number <= 5; number++)
		unsent_add(unsent, 100, 7, number, "reply", 5);

	ck_assert_uint_gt(unsent_retry(unsent, 100), 100);
	ck_assert_uint_eq(sent_count, 0);
	ck_assert_uint_eq(unsent_retry(unsent, 102), UINT64_MAX);

	ck_assert_uint_eq(sent_count, 5);
	for (uint64_t i = 0; i < 5; i++)
		ck_assert_uint_eq(sent[i], i + 1);
	unsent_add(unsent, 200, 7, 6, "reply", 5);
	ck_assert_uint_eq(unsent_retry(unsent, 202), UINT64_MAX);
	ck_assert_uint_eq(sent_count, 6);
	unsent_free(unsent);
}
END_TEST

START_TEST(who_does_not_read_holds_up_nobody_and_costs_fewer_and_fewer_tries)
{
	struct unsent *unsent = new_one(10000);
	uint64_t next;
	deaf = 2;
	for (uint64_t number = 1; number <= 3; number++)
		unsent_add(unsent, 0, 7, number, "reply", 5);

	next = unsent_retry(unsent, 2);
	while (next < 900)
		next = unsent_retry(unsent, next);

	ck_assert_uint_eq(sent_count, 2);
	ck_assert_uint_eq(unsent_count(unsent), 1);
	ck_assert_uint_lt(tries, 20);
	deaf = 0;
	unsent_retry(unsent, next);
	ck_assert_uint_eq(sent[2], 2);
	ck_assert_uint_eq(dropped_count, 0);
	unsent_free(unsent);
}
END_TEST

START_TEST(the_oldest_is_dropped_when_there_are_too_many_bytes)
{
	struct unsent *unsent = new_one(3000);
	char large[1000] = "reply";

	for (uint64_t number = 1; number <= 4; number++)
		unsent_add(unsent, 0, 7, number, large, sizeof(large));

	ck_assert_uint_eq(dropped_count, 2);
	ck_assert_uint_eq(dropped[0], 1);
	ck_assert_uint_eq(dropped[1], 2);
	unsent_retry(unsent, 2);
	ck_assert_uint_eq(sent_count, 2);
	unsent_free(unsent);
}
END_TEST

START_TEST(a_reply_is_given_up_when_it_is_old)
{
	struct unsent *unsent = new_one(3000);
	uint64_t next;
	deaf = 1;
	unsent_add(unsent, 0, 7, 1, "reply", 5);

	next = unsent_retry(unsent, 2);
	while (next != UINT64_MAX) {
		ck_assert_uint_lt(next, 1300);
		next = unsent_retry(unsent, next);
	}

	ck_assert_uint_eq(dropped_count, 1);
	ck_assert_uint_eq(unsent_count(unsent), 0);
	unsent_add(unsent, 2000, 7, 5, "reply", 5);
	unsent_retry(unsent, 2002);
	ck_assert_uint_eq(sent[0], 5);
	unsent_free(unsent);
}
END_TEST

START_TEST(a_client_that_never_reads_takes_no_room_from_the_others)
{
	struct unsent *unsent = new_one(1 << 20);

	for (uint64_t number = 1; number <= 103; number++)
		unsent_add(unsent, 0, 7, number, "reply", 5);
	unsent_add(unsent, 0, 8, 200, "reply", 5);

	ck_assert_uint_eq(dropped_count, 3);
	ck_assert_uint_eq(dropped[0], 101);
	ck_assert_uint_eq(unsent_count(unsent), 101);
	unsent_retry(unsent, 2);
	unsent_add(unsent, 10, 7, 300, "reply", 5);
	ck_assert_uint_eq(dropped_count, 3);
	unsent_free(unsent);
}
END_TEST

UNIT_MAIN("unsent", nothing_to_send_needs_no_call, replies_leave_soon_and_in_order,
	who_does_not_read_holds_up_nobody_and_costs_fewer_and_fewer_tries,
	the_oldest_is_dropped_when_there_are_too_many_bytes, a_reply_is_given_up_when_it_is_old,
	a_client_that_never_reads_takes_no_room_from_the_others)
