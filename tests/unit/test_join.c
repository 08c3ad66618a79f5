/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cleanup.h"
#include "imaged/join.h"
#include "tests/unit/fake_chain.h"
#include "tests/unit/unit.h"

DEFINE_CLEANUP(chain, chain_free)

START_TEST(a_worker_keeps_its_join_until_it_ends)
{
	CLEANUP(chain_cleanup) struct chain *chain = FAKE_CHAIN(".", "D", "D");
	struct join_table table = {0};
	struct join *join = join_table_add(&table, 7, "w", 1, JOIN_LOCK_BYTE_FIRST, chain);

	join_table_add(&table, 8, "other", 1, JOIN_LOCK_BYTE_FIRST + 1, chain);
	ck_assert_ptr_eq(join_table_of_worker(&table, "w", 1), join);
	ck_assert_ptr_null(join_table_of_worker(&table, "w", 2));
	ck_assert_ptr_eq(join_table_find(&table, 7), join);
	ck_assert_ptr_null(join_table_find(&table, 9));
	ck_assert(join_table_has_byte(&table, JOIN_LOCK_BYTE_FIRST));
	ck_assert(!join_table_has_byte(&table, JOIN_LOCK_BYTE_FIRST + 2));
	ck_assert_uint_eq(join_table_active(&table), 2);
	join->state = JOIN_ENDED;
	ck_assert_ptr_null(join_table_of_worker(&table, "w", 1));
	ck_assert_uint_eq(join_table_active(&table), 1);
	join_table_remove(&table, join);
	ck_assert_ptr_null(join_table_find(&table, 7));
	ck_assert_ptr_nonnull(join_table_find(&table, 8));
	join_table_done(&table);
}
END_TEST

START_TEST(sources_keep_their_numbers_when_the_chain_gets_shorter)
{
	CLEANUP(chain_cleanup) struct chain *chain = FAKE_CHAIN(".", "D", "D", "D");
	struct join_table table = {0};
	struct join *join = join_table_add(&table, 7, "w", 1, JOIN_LOCK_BYTE_FIRST, chain);
	const struct chain_layer stranger = {.inode = 99};

	ck_assert_uint_eq(join->source_count, 3);
	chain_drop(chain, 3, "layer-3");
	ck_assert_int_eq(join_source_index(join, &chain->layers[1]), 2);
	ck_assert_int_eq(join_source_index(join, &stranger), -1);
	join_table_done(&table);
}
END_TEST

UNIT_MAIN("join", a_worker_keeps_its_join_until_it_ends,
	sources_keep_their_numbers_when_the_chain_gets_shorter)
