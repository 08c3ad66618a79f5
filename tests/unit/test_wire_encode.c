/* SPDX-License-Identifier: Apache-2.0 */
/* Structs to bytes: what is repaired, what is left out, and what ends the process. */
#include <signal.h>
#include <string.h>

#include "schemas/client_broker.gen.h"
#include "schemas/worker_broker.gen.h"
#include "tests/unit/unit.h"

static struct wire_buffer buffer;
static struct wire_memory memory;
static struct err err;

static void finish(void)
{
	wire_buffer_done(&buffer);
	wire_memory_done(&memory);
}

static const char *as_received(const char *msg)
{
	struct msg_worker_refused refused = {.msg = msg};
	static struct broker_to_worker got;

	wire_buffer_clear(&buffer);
	msg_worker_refused_encode(&refused, &buffer);
	ck_assert_int_eq(
		broker_to_worker_decode(buffer.bytes, buffer.length, &memory, &got, &err), 0);
	return got.worker_refused.msg;
}

START_TEST(bytes_that_are_not_utf8_become_question_marks)
{
	ck_assert_str_eq(as_received("open '/images/\xff\xfe.qcow2'"), "open '/images/\?\?.qcow2'");
	ck_assert_str_eq(as_received("ends in \xc3"), "ends in ?");
	ck_assert_str_eq(as_received("Grüße, 世界 😀"), "Grüße, 世界 😀");
	finish();
}
END_TEST

START_TEST(a_text_that_is_too_long_is_cut_between_characters)
{
	char text[MSG_WORKER_REFUSED_MSG_MAX + 10];
	const char *got;

	memset(text, 'x', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	memcpy(text + MSG_WORKER_REFUSED_MSG_MAX - 1, "ü", 2);
	got = as_received(text);

	ck_assert_uint_eq(strlen(got), MSG_WORKER_REFUSED_MSG_MAX - 1);
	ck_assert_int_eq(got[MSG_WORKER_REFUSED_MSG_MAX - 2], 'x');
	finish();
}
END_TEST

START_TEST(what_is_optional_and_absent_is_left_out)
{
	struct cmd_block_stream arguments = {.device = "virtio0"};

	cmd_block_stream_encode(&arguments, &buffer);

	ck_assert_uint_eq(buffer.length, 1 + 7 + 8);
	ck_assert_mem_eq(buffer.bytes,
		"\x81\xa6"
		"device\xa7virtio0",
		buffer.length);
	finish();
}
END_TEST

START_TEST(encoders_append)
{
	struct msg_left left = {.join = 3};

	wire_put_array(&buffer, 2);
	msg_left_encode(&left, &buffer);
	msg_left_encode(&left, &buffer);

	ck_assert_int_eq(wire_guard(buffer.bytes, buffer.length, &wire_limits_message, &err), 0);
	finish();
}
END_TEST

START_TEST(a_number_over_its_limit_is_a_bug)
{
	struct msg_left left = {.join = UINT64_MAX};

	msg_left_encode(&left, &buffer);
}
END_TEST

START_TEST(a_text_that_is_required_and_absent_is_a_bug)
{
	struct msg_worker_refused refused = {.msg = NULL};

	msg_worker_refused_encode(&refused, &buffer);
}
END_TEST

START_TEST(a_list_over_its_limit_is_a_bug)
{
	static struct destination_extent destinations[MSG_COPY_ORDER_DESTINATIONS_MAX + 1];
	struct msg_copy_order order = {
		.destinations = destinations,
		.destinations_count = MSG_COPY_ORDER_DESTINATIONS_MAX + 1,
	};

	msg_copy_order_encode(&order, &buffer);
}
END_TEST

START_TEST(command_names_are_taken_with_either_dash)
{
	enum command_name command = COMMAND_QUERY_STATUS;

	ck_assert(command_name_parse("block-stream", &command));
	ck_assert_uint_eq(command, COMMAND_BLOCK_STREAM);
	ck_assert(command_name_parse("query_block-jobs", &command));
	ck_assert_uint_eq(command, COMMAND_QUERY_BLOCK_JOBS);
	ck_assert(!command_name_parse("block_strea", &command));
	ck_assert(!command_name_parse("block_streams", &command));
	ck_assert(!command_name_parse("", &command));
	ck_assert(!command_name_parse("Block_stream", &command));
	ck_assert_str_eq(command_name_string(COMMAND_BLOCK_STREAM), "block_stream");
}
END_TEST

START_TEST(enums_have_names_both_ways)
{
	enum codec codec = CODEC_PLAIN;

	ck_assert_str_eq(codec_name(CODEC_ZSTD), "zstd");
	ck_assert_str_eq(codec_name((enum codec)77), "?");
	ck_assert(codec_parse("deflate", &codec));
	ck_assert_uint_eq(codec, CODEC_DEFLATE);
	ck_assert(!codec_parse("lzma", &codec));
	ck_assert_uint_eq(codec, CODEC_DEFLATE);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wire_encode");
	TCase *all = tcase_create("all");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(all, bytes_that_are_not_utf8_become_question_marks);
	tcase_add_test(all, a_text_that_is_too_long_is_cut_between_characters);
	tcase_add_test(all, what_is_optional_and_absent_is_left_out);
	tcase_add_test(all, encoders_append);
	tcase_add_test(all, command_names_are_taken_with_either_dash);
	tcase_add_test(all, enums_have_names_both_ways);
	tcase_add_test_raise_signal(all, a_number_over_its_limit_is_a_bug, SIGABRT);
	tcase_add_test_raise_signal(all, a_text_that_is_required_and_absent_is_a_bug, SIGABRT);
	tcase_add_test_raise_signal(all, a_list_over_its_limit_is_a_bug, SIGABRT);
	suite_add_tcase(suite, all);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
