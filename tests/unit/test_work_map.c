/* SPDX-License-Identifier: Apache-2.0 */
/* What each cluster of a hand-drawn chain needs: a character a cluster in the answer, p present, c copy, z zero, . nothing. */
#include "common/cleanup.h"
#include "imaged/work_map.h"
#include "tests/unit/fake_chain.h"
#include "tests/unit/unit.h"

DEFINE_CLEANUP(chain, chain_free)

static struct err err;

static struct work_scope scope_of(struct chain *chain, size_t kept, unsigned units)
{
	return (struct work_scope){.chain = chain, .kept = kept, .cluster_size = units * UNIT};
}

static char letter(enum work_need need)
{
	switch (need) {
	case NEED_PRESENT:
		return 'p';
	case NEED_NOTHING:
		return '.';
	case NEED_COPY:
		return 'c';
	case NEED_ZERO:
		return 'z';
	}
	return '?';
}

/* The whole disk's needs as text; pieces must follow one another. */
static const char *needs(const struct work_scope *scope)
{
	static char text[256];
	struct work_walk walk;
	struct work_piece piece;
	uint64_t position = 0;
	int r;

	memset(text, 0, sizeof text);
	work_walk_begin(&walk, scope, 0, scope->chain->size);
	while ((r = work_walk_next(&walk, &piece, &err)) == 1) {
		ck_assert_uint_eq(piece.offset, position);
		ck_assert_uint_eq(piece.offset % scope->cluster_size, 0);
		ck_assert_uint_gt(piece.length, 0);
		for (; position < piece.offset + piece.length; position += scope->cluster_size)
			text[position / scope->cluster_size] = letter(piece.need);
		position = piece.offset + piece.length;
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(position, scope->chain->size);
	return text;
}

static void needs_are(struct chain *chain, size_t kept, unsigned units, const char *wanted)
{
	CLEANUP(chain_cleanup) struct chain *owned = chain;
	struct work_scope scope = scope_of(owned, kept, units);

	ck_assert_str_eq(needs(&scope), wanted);
}

START_TEST(what_the_leaf_lacks_and_a_dropped_layer_has_is_copied)
{
	needs_are(FAKE_CHAIN("DZ......", "..DC....", "D.....DZ"), 3, 1, "ppcc..c.");
}
END_TEST

START_TEST(zeroes_are_made_only_where_a_kept_layer_would_show_through)
{
	needs_are(FAKE_CHAIN("....D...", "ZZ..Z.ZZ", "D.D.D.ZC"), 2, 1, "z...p..z");
}
END_TEST

START_TEST(the_end_of_a_dropped_layer_hides_what_a_kept_one_has)
{
	needs_are(FAKE_CHAIN("......", "..", "DDD.D."), 2, 1, "..z.z.");
}
END_TEST

START_TEST(a_kept_layer_that_ends_shows_nothing)
{
	needs_are(FAKE_CHAIN("......", "ZZZZZZ", "DD"), 2, 1, "zz....");
}
END_TEST

START_TEST(a_cluster_of_which_a_part_is_hidden_is_copied)
{
	needs_are(FAKE_CHAIN("................", ".......ZZZZZ....", "......DDDDDDDD.."), 2, 4,
		".cz.");
	needs_are(FAKE_CHAIN("............", "..ZZZZZZ....", "DDDDDDDDDDDD"), 2, 4, "cz.");
}
END_TEST

START_TEST(a_cluster_that_reads_as_zero_in_all_its_parts_is_made_zero)
{
	needs_are(FAKE_CHAIN("....", ".ZZ.", "..D."), 2, 4, "z");
	needs_are(FAKE_CHAIN("....", ".ZZ.", ".DZ."), 2, 4, "z");
	needs_are(FAKE_CHAIN("....", ".ZZ.", "ZZZZ"), 2, 4, ".");
}
END_TEST

START_TEST(a_part_of_a_cluster_in_a_dropped_layer_copies_the_whole)
{
	needs_are(FAKE_CHAIN("............", ".D......Z..D"), 2, 4, "c.c");
}
END_TEST

START_TEST(the_last_cluster_may_be_cut_by_the_end_of_the_disk)
{
	needs_are(FAKE_CHAIN("......", ".....D"), 2, 4, ".c");
	needs_are(FAKE_CHAIN(".....", "....Z", "....D"), 2, 4, ".z");
}
END_TEST

/* Its bytes, and zeroes behind the end of the file. */
START_TEST(a_cluster_in_which_the_leafs_file_ends_is_one_piece)
{
	needs_are(FAKE_CHAIN("..DZ..", "CCCCCC"), 2, 2, "cpc");
	needs_are(FAKE_CHAIN("..DZZ", "CCCCC"), 2, 2, "cpp");
}
END_TEST

START_TEST(nothing_is_needed_where_nothing_is_dropped)
{
	needs_are(FAKE_CHAIN("..D.", "DDDD"), 1, 1, "..p.");
	needs_are(FAKE_CHAIN("D."), 1, 1, "p.");
}
END_TEST

START_TEST(a_leaf_without_zero_clusters_has_them_copied)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("...", "ZZ.", "D..");
	struct work_scope scope = scope_of(chain, 2, 1);

	scope.copies_zeroes = true;
	ck_assert_str_eq(needs(&scope), "c..");
}
END_TEST

START_TEST(clusters_known_to_be_zeroes_need_nothing_more)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("D.....", "DDDDDD");
	struct work_scope scope = scope_of(chain, 2, 1);
	struct zero_set known;

	zero_set_init(&known, 6);
	zero_set_add(&known, 0, 1);
	zero_set_add(&known, 2, 2);
	scope.known_zero = &known;
	ck_assert_str_eq(needs(&scope), "pc..cc");
	zero_set_done(&known);
}
END_TEST

START_TEST(a_page_merges_neighbours_and_goes_on_where_it_was_full)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("D.......", ".DC.D.ZZ", "......DD");
	struct work_scope scope = scope_of(chain, 2, 1);
	struct work_run runs[2];
	struct work_page page = {.runs = runs};

	ck_assert_int_eq(work_map_page(&scope, 0, 2, UINT64_MAX, &page, &err), 0);
	ck_assert_uint_eq(page.count, 2);
	ck_assert_uint_eq(page.end, 6 * UNIT);
	ck_assert_uint_eq(page.present, UNIT);
	ck_assert_uint_eq(runs[0].offset, UNIT);
	ck_assert_uint_eq(runs[0].length, 2 * UNIT);
	ck_assert_int_eq(runs[0].work, WORK_COPY);
	ck_assert_uint_eq(runs[1].offset, 4 * UNIT);
	ck_assert_uint_eq(runs[1].length, UNIT);

	ck_assert_int_eq(work_map_page(&scope, page.end, 2, UINT64_MAX, &page, &err), 0);
	ck_assert_uint_eq(page.count, 1);
	ck_assert_uint_eq(page.end, 8 * UNIT);
	ck_assert_int_eq(runs[0].work, WORK_ZERO);
	ck_assert_uint_eq(runs[0].length, 2 * UNIT);

	ck_assert_int_eq(work_map_page(&scope, page.end, 2, UINT64_MAX, &page, &err), 0);
	ck_assert_uint_eq(page.count, 0);
	ck_assert_uint_eq(page.end, 8 * UNIT);
}
END_TEST

START_TEST(a_page_whose_time_is_up_tells_how_far_it_came)
{
	char leaf[101] = {0}, base[101] = {0};
	struct work_run runs[200];
	struct work_page page = {.runs = runs};
	uint64_t offset = 0, copy = 0;
	unsigned pages = 0;

	for (int i = 0; i < 100; i++) {
		leaf[i] = '.';
		base[i] = i % 2 ? 'D' : '.';
	}
	CLEANUP(chain_cleanup) struct chain *chain = FAKE_CHAIN(leaf, base);
	struct work_scope scope = scope_of(chain, 2, 1);
	do {
		ck_assert_int_eq(work_map_page(&scope, offset, 200, 0, &page, &err), 0);
		ck_assert_uint_gt(page.end, offset);
		for (size_t i = 0; i < page.count; i++)
			copy += runs[i].length;
		offset = page.end;
		pages++;
	} while (offset < chain->size);
	ck_assert_uint_eq(copy, 50 * UNIT);
	ck_assert_uint_gt(pages, 3);
}
END_TEST

START_TEST(a_range_depends_on_what_is_dropped_or_not)
{
	CLEANUP(chain_cleanup)
	struct chain *chain = FAKE_CHAIN("DDDDDD", ".D.ZZ", "...D.D");
	struct work_scope scope = scope_of(chain, 2, 1);

	ck_assert_int_eq(work_depends(&scope, 0, UNIT, &err), 0);
	ck_assert_int_eq(work_depends(&scope, 0, 2 * UNIT, &err), 1);
	ck_assert_int_eq(work_depends(&scope, 2 * UNIT, UNIT, &err), 0);
	ck_assert_int_eq(work_depends(&scope, 3 * UNIT, UNIT, &err), 1);
	ck_assert_int_eq(work_depends(&scope, 4 * UNIT, UNIT, &err), 0);
	ck_assert_int_eq(work_depends(&scope, 5 * UNIT, UNIT, &err), 1);
	ck_assert_int_eq(work_kept_shows(&scope, 0, 3 * UNIT, &err), 0);
	ck_assert_int_eq(work_kept_shows(&scope, 0, 4 * UNIT, &err), 1);
}
END_TEST

/* What the words at the top of work_map.h say, byte by byte. */
static char need_by_the_rule(
	const char *const *layers, size_t count, size_t kept, size_t unit, size_t units)
{
	bool copies = false, hides = false, shows = false;

	if (layers[0][unit] != '.')
		return 'p';
	for (size_t x = unit; x < unit + units && x < strlen(layers[0]); x++) {
		char dropped = '.', below = '.';

		for (size_t i = 1; i < kept && dropped == '.'; i++)
			dropped = x < strlen(layers[i]) ? layers[i][x] : 'Z';
		for (size_t i = kept; i < count && below == '.'; i++)
			below = x < strlen(layers[i]) ? layers[i][x] : 'Z';
		copies |= dropped == 'D';
		hides |= dropped == 'Z' && below == 'D';
		shows |= dropped == '.' && below == 'D';
	}
	if (copies || (hides && shows))
		return 'c';
	return hides ? 'z' : '.';
}

static void draw(char *text, size_t length, unsigned cluster)
{
	for (size_t i = 0; i < length; i++) {
		bool goes_on = i % cluster != 0 || (i > 0 && rand() % 2);

		text[i] = goes_on && i > 0 ? text[i - 1] : ".DZ"[rand() % 3];
	}
	text[length] = '\0';
}

START_TEST(random_chains_need_what_the_rule_says)
{
	srand(1);
	for (int round = 0; round < 5000; round++) {
		char texts[4][65], wanted[65] = {0};
		const char *layers[5] = {texts[0], texts[1], texts[2], texts[3], NULL};
		unsigned units = 1U << rand() % 3;
		size_t size = 1 + (size_t)rand() % 64, count = 2 + (size_t)rand() % 3;
		size_t kept = 2 + (size_t)rand() % (count - 1);

		draw(texts[0], size, units);
		for (size_t i = 1; i < count; i++)
			draw(texts[i], rand() % 2 ? size : 1 + (size_t)rand() % 64,
				1U << rand() % 3);
		layers[count] = NULL;
		for (size_t i = 0; i < size; i += units)
			wanted[i / units] = need_by_the_rule(layers, count, kept, i, units);
		needs_are(fake_chain_new(layers), kept, units, wanted);
	}
}
END_TEST

UNIT_MAIN("work_map", what_the_leaf_lacks_and_a_dropped_layer_has_is_copied,
	zeroes_are_made_only_where_a_kept_layer_would_show_through,
	the_end_of_a_dropped_layer_hides_what_a_kept_one_has, a_kept_layer_that_ends_shows_nothing,
	a_cluster_of_which_a_part_is_hidden_is_copied,
	a_cluster_that_reads_as_zero_in_all_its_parts_is_made_zero,
	a_part_of_a_cluster_in_a_dropped_layer_copies_the_whole,
	the_last_cluster_may_be_cut_by_the_end_of_the_disk,
	a_cluster_in_which_the_leafs_file_ends_is_one_piece,
	nothing_is_needed_where_nothing_is_dropped, a_leaf_without_zero_clusters_has_them_copied,
	clusters_known_to_be_zeroes_need_nothing_more,
	a_page_merges_neighbours_and_goes_on_where_it_was_full,
	a_page_whose_time_is_up_tells_how_far_it_came, a_range_depends_on_what_is_dropped_or_not,
	random_chains_need_what_the_rule_says)
