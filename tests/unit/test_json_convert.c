/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "clients/json_convert.h"
#include "tests/unit/unit.h"

START_TEST(any_json_survives_the_way_to_msgpack_and_back)
{
	static const char *const texts[] = {"{}", "[]", "null", "true", "false", "0", "-1",
		"9223372036854775807", "-9223372036854775808", "2.5", "\"\"", "\"\\u00fc\\u20ac\"",
		"{\"a\": [1, {\"b\": null}, [[]]], \"c\": \"d\\n\\\"\", \"\": -300}"};

	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		CLEANUP(json_cleanup) json_t *before = json_loads(texts[i], JSON_DECODE_ANY, NULL);
		struct wire_buffer packed;
		struct err err = {0};

		wire_buffer_init(&packed);
		json_pack_value(before, &packed);
		CLEANUP(json_cleanup)
		json_t *after = json_unpack_value(wire_buffer_bytes(&packed), &err);
		ck_assert_msg(after != NULL, "%s: %s", texts[i], err.text);
		ck_assert_msg(json_equal(before, after), "%s", texts[i]);
		wire_buffer_done(&packed);
	}
}
END_TEST

START_TEST(bytes_that_are_no_msgpack_are_refused)
{
	const struct wire_bytes bad[] = {{"\xc1", 1}, {"", 0}, {"\x91", 1}, {"\x01\x01", 2}};

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct err err = {0};
		ck_assert_ptr_null(json_unpack_value(bad[i], &err));
		ck_assert_uint_gt(strlen(err.text), 0);
	}
}
END_TEST

START_TEST(members_that_are_not_there_are_empty)
{
	CLEANUP(json_cleanup)
	json_t *object = json_pack("{s:s, s:i, s:i}", "t", "x", "n", 5, "m", -5);

	ck_assert_str_eq(json_text(object, "t"), "x");
	ck_assert_str_eq(json_text(object, "n"), "");
	ck_assert_str_eq(json_text(NULL, "t"), "");
	ck_assert_uint_eq(json_number(object, "n"), 5);
	ck_assert_uint_eq(json_number(object, "m"), 0);
	ck_assert_uint_eq(json_number(object, "t"), 0);
}
END_TEST

UNIT_MAIN("json_convert", any_json_survives_the_way_to_msgpack_and_back,
	bytes_that_are_no_msgpack_are_refused, members_that_are_not_there_are_empty)
