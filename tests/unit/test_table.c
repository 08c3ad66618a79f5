/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "clients/table.h"
#include "tests/unit/unit.h"

static const char *const titles[] = {"NAME", ">SIZE", "FILE", NULL};

/* The table as text; the caller frees it. */
static char *print(size_t width, const char *const *cells)
{
	CLEANUP(table_cleanup) struct table *table = table_new(titles);
	char *text = NULL;
	size_t length = 0;
	FILE *stream = open_memstream(&text, &length);

	for (; *cells; cells++)
		table_add(table, *cells);
	table_print(table, stream, width);
	fclose(stream);
	return text;
}

START_TEST(columns_are_as_wide_as_their_cells_and_numbers_stand_right)
{
	const char *const cells[] = {
		"vda", "10 GiB", "/images/leaf.qcow2", "a-long-name", "1 B", "x", NULL};
	CLEANUP_FREE char *text = print(0, cells);

	ck_assert_str_eq(text, "NAME           SIZE  FILE\n"
			       "vda          10 GiB  /images/leaf.qcow2\n"
			       "a-long-name     1 B  x\n");
}
END_TEST

START_TEST(the_last_column_is_cut_to_the_width)
{
	const char *const cells[] = {"vda", "1 B", "/images/leaf.qcow2", NULL};
	CLEANUP_FREE char *text = print(20, cells);

	ck_assert_str_eq(text, "NAME  SIZE  FILE\n"
			       "vda    1 B  /images…\n");
}
END_TEST

START_TEST(characters_are_counted_not_bytes_and_none_is_cut_in_two)
{
	const char *const cells[] = {
		"\303\274\303\274", "1", "\303\244\303\244\303\244\303\244\303\244\303\244", NULL};
	CLEANUP_FREE char *text = print(17, cells);

	ck_assert_str_eq(text, "NAME  SIZE  FILE\n"
			       "\303\274\303\274       1  \303\244\303\244\303\244\303\244…\n");
}
END_TEST

START_TEST(what_would_disturb_a_terminal_is_replaced)
{
	const char *const cells[] = {"a\033[2Jb", "1\n", "\177", NULL};
	CLEANUP_FREE char *text = print(0, cells);

	ck_assert_ptr_null(strchr(text, '\033'));
	ck_assert_ptr_nonnull(strstr(text, "a?[2Jb"));
	ck_assert_ptr_nonnull(strstr(text, "1?"));
}
END_TEST

UNIT_MAIN("table", columns_are_as_wide_as_their_cells_and_numbers_stand_right,
	the_last_column_is_cut_to_the_width,
	characters_are_counted_not_bytes_and_none_is_cut_in_two,
	what_would_disturb_a_terminal_is_replaced)
