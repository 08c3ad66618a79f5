/* SPDX-License-Identifier: Apache-2.0 */
/* msgpack as JSON.  tests/wire prints every vector; here are the values that no schema has. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "schemas/wire.h"
#include "schemas/worker_broker.gen.h"
#include "tests/unit/unit.h"

static void printed_as(struct wire_buffer *buffer, const char *expected)
{
	struct wire_buffer text = {0};
	struct err err = {0};

	ck_assert_int_eq(
		wire_format(&text, wire_buffer_bytes(buffer), &wire_limits_reply, &err), 0);
	wire_buffer_append(&text, "", 1);
	ck_assert_str_eq((const char *)text.bytes, expected);
	wire_buffer_done(&text);
	wire_buffer_done(buffer);
}

START_TEST(every_kind_of_value_is_printed)
{
	struct wire_buffer buffer = {0};

	wire_put_array(&buffer, 9);
	wire_put_nil(&buffer);
	wire_put_bool(&buffer, true);
	wire_put_uint(&buffer, UINT64_MAX);
	wire_put_int(&buffer, INT64_MIN);
	wire_put_double(&buffer, 0.1);
	wire_put_double(&buffer, 3);
	wire_put_double(&buffer, INFINITY);
	wire_put_bin(&buffer, "\x00\xff", 2);
	wire_put_map(&buffer, 1);
	wire_put_str(&buffer, "key");
	wire_put_packed(&buffer, (struct wire_bytes){0});

	printed_as(&buffer,
		"[null, true, 18446744073709551615, -9223372036854775808, 0.10000000000000001, 3.0, "
		"null, \"00ff\", {\"key\": null}]");
}
END_TEST

START_TEST(strings_are_escaped)
{
	struct wire_buffer buffer = {0};

	wire_put_str(&buffer, "a\"b\\c\n\r\t\b\f\x01\x7f/ü");

	printed_as(&buffer, "\"a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u007f/ü\"");
}
END_TEST

START_TEST(bytes_that_are_not_msgpack_are_printed_as_the_reason)
{
	char text[64] = "";
	FILE *stream = fmemopen(text, sizeof text, "w");

	wire_print_bytes(stream, "\x92", 1);
	(void)fclose(stream);

	ck_assert_str_eq(text, "<it ends too early>");
}
END_TEST

START_TEST(a_message_is_printed_with_its_type)
{
	struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPY_PROGRESS,
		.copy_progress = {.lease = 9, .bytes = 4096},
	};
	char text[128] = "";
	FILE *stream = fmemopen(text, sizeof text, "w");

	worker_to_broker_print(stream, &message);
	(void)fclose(stream);

	ck_assert_str_eq(text, "{\"type\": \"copy_progress\", \"lease\": 9, \"bytes\": 4096}");
}
END_TEST

UNIT_MAIN("wire_print", every_kind_of_value_is_printed, strings_are_escaped,
	bytes_that_are_not_msgpack_are_printed_as_the_reason, a_message_is_printed_with_its_type)
