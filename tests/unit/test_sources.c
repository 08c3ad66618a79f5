/* SPDX-License-Identifier: Apache-2.0 */
/* Where a range comes from, of chains drawn by hand. */
#include <stdio.h>

#include "common/cleanup.h"
#include "imaged/sources.h"
#include "tests/unit/fake_chain.h"
#include "tests/unit/unit.h"

DEFINE_CLEANUP(chain, chain_free)

static struct err err;

/* "plain 0:4+2" is two units at unit 4 of file 0. */
static const char *told(const struct source_list *list)
{
	static char text[1000];
	size_t end = 0;

	text[0] = '\0';
	for (size_t i = 0; i < list->count; i++) {
		const struct source_extent *source = &list->items[i];

		end += (size_t)snprintf(text + end, sizeof text - end, "%s%s", i ? " " : "",
			codec_name(source->codec));
		if (source->has_file)
			end += (size_t)snprintf(text + end, sizeof text - end, " %u:%u",
				(unsigned)source->file, (unsigned)(source->offset / UNIT));
		end += (size_t)snprintf(
			text + end, sizeof text - end, "+%u", (unsigned)(source->length / UNIT));
		if (source->has_skip)
			end += (size_t)snprintf(text + end, sizeof text - end, "(%u)",
				(unsigned)(source->skip / UNIT));
	}
	return text;
}

static struct join *join_of(struct join_table *table, const struct chain *chain)
{
	return join_table_add(table, 1, "w", 1, JOIN_LOCK_BYTE_FIRST, chain);
}

START_TEST(pieces_follow_one_another_and_neighbours_are_one)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("..........", ".D....Z...", "DDDDD....D");
	struct join_table table = {0};
	struct join *join = join_of(&table, chain);
	struct source_extent items[10];
	struct source_list list = {.items = items, .room = 10};
	uint64_t found;

	ck_assert_int_eq(sources_find(chain, join, 0, 10 * UNIT, &list, &found, &err), 0);
	ck_assert_uint_eq(found, 10 * UNIT);
	ck_assert_str_eq(told(&list), "plain 1:0+1 plain 0:1+1 plain 1:2+3 zero+4 plain 1:9+1");
	join_table_done(&table);
}
END_TEST

START_TEST(compressed_clusters_are_told_one_by_one_with_what_to_skip)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("............", "CCCCCCCCCCCC");
	struct join_table table = {0};
	struct join *join = join_of(&table, chain);
	struct source_extent items[10];
	struct source_list list = {.items = items, .room = 10};
	uint64_t found;

	ck_assert_int_eq(sources_find(chain, join, 2 * UNIT, 8 * UNIT, &list, &found, &err), 0);
	ck_assert_str_eq(told(&list), "deflate 0:2+2(2) deflate 0:4+4(0) deflate 0:8+2(0)");
	ck_assert_uint_eq(items[0].cluster, 4 * UNIT);
	ck_assert_uint_eq(items[0].stored, 100);
	join_table_done(&table);
}
END_TEST

START_TEST(a_full_list_tells_how_far_it_reaches)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("......", "D.D.D.");
	struct join_table table = {0};
	struct join *join = join_of(&table, chain);
	struct source_extent items[4];
	struct source_list list = {.items = items, .room = 3};
	uint64_t found;

	ck_assert_int_eq(sources_find(chain, join, 0, 6 * UNIT, &list, &found, &err), 0);
	ck_assert_uint_eq(found, 3 * UNIT);
	ck_assert_str_eq(told(&list), "plain 0:0+1 zero+1 plain 0:2+1");
	join_table_done(&table);
}
END_TEST

START_TEST(a_list_is_cut_or_filled_up_with_zeroes)
{
	struct source_extent items[4] = {
		{.codec = CODEC_PLAIN, .length = 3 * UNIT, .has_file = true},
		{.codec = CODEC_ZERO, .length = 2 * UNIT},
	};
	struct source_list list = {.items = items, .count = 2, .room = 3};

	sources_fit(&list, 8 * UNIT);
	ck_assert_str_eq(told(&list), "plain 0:0+3 zero+5");
	sources_fit(&list, 4 * UNIT);
	ck_assert_str_eq(told(&list), "plain 0:0+3 zero+1");
	sources_fit(&list, 3 * UNIT);
	ck_assert_str_eq(told(&list), "plain 0:0+3");
	sources_fit(&list, 1 * UNIT);
	ck_assert_str_eq(told(&list), "plain 0:0+1");
	sources_fit(&list, 2 * UNIT);
	ck_assert_str_eq(told(&list), "plain 0:0+1 zero+1");
}
END_TEST

START_TEST(a_file_that_the_worker_was_not_told_of_is_an_error)
{
	CLEANUP(chain_cleanup) struct chain *chain = FAKE_CHAIN(".", "D");
	CLEANUP(chain_cleanup) struct chain *other = FAKE_CHAIN(".");
	struct join_table table = {0};
	struct join *join = join_of(&table, other);
	struct source_extent items[2];
	struct source_list list = {.items = items, .room = 2};
	uint64_t found;

	ck_assert_int_eq(sources_find(chain, join, 0, UNIT, &list, &found, &err), -1);
	join_table_done(&table);
}
END_TEST

UNIT_MAIN("sources", pieces_follow_one_another_and_neighbours_are_one,
	compressed_clusters_are_told_one_by_one_with_what_to_skip,
	a_full_list_tells_how_far_it_reaches, a_list_is_cut_or_filled_up_with_zeroes,
	a_file_that_the_worker_was_not_told_of_is_an_error)
