/* SPDX-License-Identifier: Apache-2.0 */
/* Sentences about failures. */
#include <errno.h>
#include <string.h>

#include "common/err.h"
#include "tests/unit/unit.h"

START_TEST(set_fills_the_sentence_and_clears_number_and_kind)
{
	struct err err = {.number = 5, .kind = 7, .text = "old"};

	ck_assert_int_eq(err_set(&err, "no room for %d", 3), -1);

	ck_assert_str_eq(err.text, "no room for 3");
	ck_assert_int_eq(err.number, 0);
	ck_assert_uint_eq(err.kind, 0);
}
END_TEST

START_TEST(set_errno_adds_the_words_of_the_system)
{
	struct err err;

	ck_assert_int_eq(err_set_errno(&err, ENOSPC, "cannot write %s", "a"), -1);

	ck_assert_str_eq(err.text, "cannot write a: No space left on device");
	ck_assert_int_eq(err.number, ENOSPC);
}
END_TEST

START_TEST(set_kind_keeps_the_class_of_the_program)
{
	struct err err;

	ck_assert_int_eq(err_set_kind(&err, 4, "in use"), -1);

	ck_assert_uint_eq(err.kind, 4);
	ck_assert_str_eq(err.text, "in use");
}
END_TEST

START_TEST(wrap_puts_a_clause_in_front_and_keeps_number_and_kind)
{
	struct err err;

	err_set_errno(&err, EIO, "cannot read b");
	err.kind = 9;
	ck_assert_int_eq(err_wrap(&err, "layer %d", 2), -1);

	ck_assert_str_eq(err.text, "layer 2: cannot read b: Input/output error");
	ck_assert_int_eq(err.number, EIO);
	ck_assert_uint_eq(err.kind, 9);
}
END_TEST

START_TEST(the_old_text_may_be_an_argument_of_the_new_one)
{
	struct err err;

	err_set(&err, "inner");
	err_set(&err, "outer (%s)", err.text);

	ck_assert_str_eq(err.text, "outer (inner)");
}
END_TEST

START_TEST(a_long_text_is_cut_between_characters)
{
	struct err err;
	char text[2 * ERR_TEXT_MAX];

	for (int shift = 0; shift < 4; shift++) {
		size_t at = 0;
		memset(text, 'x', (size_t)shift);
		at += (size_t)shift;
		while (at + 3 < sizeof text) {
			memcpy(text + at, "\xe2\x82\xac", 3);
			at += 3;
		}
		text[at] = '\0';

		err_set(&err, "%s", text);

		size_t length = strlen(err.text);
		ck_assert_uint_lt(length, ERR_TEXT_MAX);
		ck_assert_uint_gt(length, ERR_TEXT_MAX - 4);
		ck_assert_uint_eq((length - (size_t)shift) % 3, 0);
	}
}
END_TEST

START_TEST(nobody_needs_to_want_the_reason)
{
	ck_assert_int_eq(err_set(NULL, "x"), -1);
	ck_assert_int_eq(err_set_errno(NULL, EIO, "x"), -1);
	ck_assert_int_eq(err_set_kind(NULL, 1, "x"), -1);
	ck_assert_int_eq(err_wrap(NULL, "x"), -1);
}
END_TEST

START_TEST(an_errno_value_has_its_name)
{
	struct err err;

	ck_assert_str_eq(err_number_name(EIO), "EIO");
	ck_assert_str_eq(err_number_name(ENOSPC), "ENOSPC");
	ck_assert_str_eq(err_number_name(0), "E?");
	ck_assert_str_eq(err_number_name(99999), "E?");
	err_set_errno(&err, 99999, "odd");
	ck_assert_str_eq(err.text, "odd: error 99999");
}
END_TEST

UNIT_MAIN("err", set_fills_the_sentence_and_clears_number_and_kind,
	set_errno_adds_the_words_of_the_system, set_kind_keeps_the_class_of_the_program,
	wrap_puts_a_clause_in_front_and_keeps_number_and_kind,
	the_old_text_may_be_an_argument_of_the_new_one, a_long_text_is_cut_between_characters,
	nobody_needs_to_want_the_reason, an_errno_value_has_its_name)
