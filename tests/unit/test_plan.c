/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cleanup.h"
#include "imaged/plan.h"
#include "tests/unit/fake_chain.h"
#include "tests/unit/unit.h"

DEFINE_CLEANUP(chain, chain_free)

static struct err err;
static struct qcow2 leaf = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Clusters of 4 units: 2 KiB, so an L2 table serves 512 KiB. */
static struct work_scope scope_of(struct chain *chain, size_t kept)
{
	chain->leaf = &leaf;
	return (struct work_scope){.chain = chain, .kept = kept, .cluster_size = 4 * UNIT};
}

START_TEST(each_byte_is_counted_once_and_belongs_to_a_layer)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("DDDD................", "....D...ZZZZ........",
		"......DDDDDDDDDD....", "DDDDDDDDDDDDDDDDDD..");
	struct work_scope scope = scope_of(chain, 3);
	struct plan plan;

	plan_begin(&plan, PLAN_BY_LAYER);
	ck_assert_int_eq(plan_count(&plan, &scope, UINT64_MAX, &err), 1);
	ck_assert_uint_eq(plan.present, 4 * UNIT);
	ck_assert_uint_eq(plan.copy, 8 * UNIT);
	ck_assert_uint_eq(plan.zeroes, 4 * UNIT);
	ck_assert_uint_eq(plan.holes, 4 * UNIT);
	ck_assert_uint_eq(plan.by_layer[1], UNIT);
	ck_assert_uint_eq(plan.by_layer[2], 2 * UNIT + 4 * UNIT);
	ck_assert_uint_eq(plan.by_layer[3], UNIT); /* kept, but part of a copied cluster */
	ck_assert_uint_eq(plan.tables, 1);
}
END_TEST

START_TEST(counting_stops_in_time_and_goes_on)
{
	static char text[2001], base[2001];
	struct plan whole, sliced;
	unsigned slices = 0;

	for (size_t i = 0; i < 2000; i++) {
		text[i] = '.';
		base[i] = i / 4 % 2 ? 'D' : '.';
	}
	CLEANUP(chain_cleanup) struct chain *chain = FAKE_CHAIN(text, base);
	struct work_scope scope = scope_of(chain, 2);

	plan_begin(&whole, PLAN_TOTALS);
	ck_assert_int_eq(plan_count(&whole, &scope, UINT64_MAX, &err), 1);
	plan_begin(&sliced, PLAN_TOTALS);
	while (plan_count(&sliced, &scope, 0, &err) == 0)
		slices++;
	ck_assert_uint_gt(slices, 10);
	ck_assert_uint_eq(sliced.copy, whole.copy);
	ck_assert_uint_eq(sliced.holes, whole.holes);
	ck_assert_uint_eq(sliced.tables, whole.tables);
	ck_assert_uint_eq(whole.copy, 1000 * UNIT);
}
END_TEST

START_TEST(growth_has_room_for_metadata)
{
	const struct qcow2_header header = {.cluster_size = 65536, .refcount_order = 4};
	struct plan plan = {0};

	ck_assert_uint_eq(plan_leaf_growth(&plan, &header), 0);
	plan.copy = 65536 * 1000;
	plan.tables = 2;
	ck_assert_uint_gt(plan_leaf_growth(&plan, &header), 65536 * 1002);
	ck_assert_uint_lt(plan_leaf_growth(&plan, &header), 65536 * 1010);
}
END_TEST

UNIT_MAIN("plan", each_byte_is_counted_once_and_belongs_to_a_layer,
	counting_stops_in_time_and_goes_on, growth_has_room_for_metadata)
