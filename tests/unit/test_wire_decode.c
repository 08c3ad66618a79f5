/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes to structs: what tables allow, what they refuse, and in which words.  tests/wire tries every field of every message;
 * here are the rules that no vector shows. */
#include <string.h>

#include "schemas/client_broker.gen.h"
#include "schemas/types.gen.h"
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

START_TEST(a_message_comes_back_as_it_was_sent)
{
	struct source_extent sources[] = {
		{.codec = CODEC_PLAIN, .length = 65536, .has_file = true, .file = 1},
		{.codec = CODEC_ZERO, .length = 4096},
	};
	struct destination_extent destination = {.offset = 327680, .length = 69632};
	struct msg_copy_order order = {
		.lease = 9,
		.join = 3,
		.detect_zeroes = true,
		.sources = sources,
		.sources_count = 2,
		.destinations = &destination,
		.destinations_count = 1,
	};
	struct broker_to_worker got;

	msg_copy_order_encode(&order, &buffer);
	ck_assert_int_eq(
		broker_to_worker_decode(buffer.bytes, buffer.length, &memory, &got, &err), 0);

	ck_assert_uint_eq(got.type, BROKER_TO_WORKER_COPY_ORDER);
	ck_assert_uint_eq(got.copy_order.lease, 9);
	ck_assert(got.copy_order.detect_zeroes);
	ck_assert_uint_eq(got.copy_order.sources_count, 2);
	ck_assert_uint_eq(got.copy_order.sources[0].file, 1);
	ck_assert(got.copy_order.sources[0].has_file);
	ck_assert(!got.copy_order.sources[1].has_file);
	ck_assert_uint_eq(got.copy_order.sources[1].codec, CODEC_ZERO);
	ck_assert_uint_eq(got.copy_order.destinations[0].length, 69632);
	finish();
}
END_TEST

START_TEST(a_wrong_argument_is_named)
{
	struct cmd_block_stream arguments;
	const char *argument = NULL;

	wire_put_map(&buffer, 2);
	wire_put_str(&buffer, "device");
	wire_put_str(&buffer, "virtio0");
	wire_put_str(&buffer, "speed");
	wire_put_int(&buffer, -1);
	ck_assert_int_eq(cmd_block_stream_decode(
				 buffer.bytes, buffer.length, &memory, &arguments, &argument, &err),
		-1);

	ck_assert_str_eq(
		err.text, "argument 'speed' must be an integer from 0 to 9223372036854775807");
	ck_assert_str_eq(argument, "speed");
	finish();
}
END_TEST

START_TEST(a_missing_argument_is_named)
{
	struct cmd_block_stream arguments;
	const char *argument = NULL;

	wire_put_map(&buffer, 0);
	ck_assert_int_eq(cmd_block_stream_decode(
				 buffer.bytes, buffer.length, &memory, &arguments, &argument, &err),
		-1);

	ck_assert_str_eq(err.text, "argument 'device' is missing");
	ck_assert_str_eq(argument, "device");
	finish();
}
END_TEST

START_TEST(an_unknown_argument_is_repeated_cut_and_without_control_characters)
{
	struct cmd_query_status arguments;
	const char *argument = NULL;
	char name[200];

	memset(name, 'x', sizeof name);
	name[1] = '\n';
	wire_put_map(&buffer, 1);
	wire_put_str_bytes(&buffer, name, sizeof name);
	wire_put_nil(&buffer);
	ck_assert_int_eq(cmd_query_status_decode(
				 buffer.bytes, buffer.length, &memory, &arguments, &argument, &err),
		-1);

	ck_assert_uint_eq(strlen(argument), 64);
	ck_assert_int_eq(argument[1], '?');
	ck_assert(strstr(err.text, "is unknown"));
	finish();
}
END_TEST

START_TEST(what_is_wrong_with_the_whole_names_no_argument)
{
	struct cmd_query_status arguments;
	const char *argument = "old";

	ck_assert_int_eq(
		cmd_query_status_decode("\x93", 1, &memory, &arguments, &argument, &err), -1);

	ck_assert_ptr_null(argument);
	ck_assert_str_eq(err.text, "it ends too early");
	finish();
}
END_TEST

START_TEST(a_field_deep_inside_is_named_with_its_place)
{
	struct broker_to_worker got;
	struct msg_copy_order order = {.lease = 9};

	msg_copy_order_encode(&order, &buffer);
	/* "sources" is an empty list there; now it is a list of one empty map. */
	for (size_t i = 0; i + 9 < buffer.length; i++) {
		if (memcmp(buffer.bytes + i, "\xa7sources\x90", 9) == 0) {
			struct wire_buffer changed = {0};

			wire_buffer_append(&changed, buffer.bytes, i + 8);
			wire_buffer_append(&changed, "\x91\x80", 2);
			wire_buffer_append(&changed, buffer.bytes + i + 9, buffer.length - i - 9);
			wire_buffer_done(&buffer);
			buffer = changed;
			break;
		}
	}
	ck_assert_int_eq(
		broker_to_worker_decode(buffer.bytes, buffer.length, &memory, &got, &err), -1);

	ck_assert_str_eq(err.text, "field 'sources[0].codec' is missing");
	finish();
}
END_TEST

START_TEST(unknown_keys_of_a_message_are_skipped)
{
	struct worker_to_broker got;

	wire_put_map(&buffer, 3);
	wire_put_str(&buffer, "later");
	wire_put_double(&buffer, 1.5);
	wire_put_str(&buffer, "join");
	wire_put_uint(&buffer, 3);
	wire_put_str(&buffer, "type");
	wire_put_str(&buffer, "left");
	ck_assert_int_eq(
		worker_to_broker_decode(buffer.bytes, buffer.length, &memory, &got, &err), 0);

	ck_assert_uint_eq(got.type, WORKER_TO_BROKER_LEFT);
	ck_assert_uint_eq(got.left.join, 3);
	finish();
}
END_TEST

START_TEST(a_message_of_the_other_direction_is_unknown)
{
	struct msg_left left = {.join = 3};
	struct broker_to_worker got;

	msg_left_encode(&left, &buffer);
	ck_assert_int_eq(
		broker_to_worker_decode(buffer.bytes, buffer.length, &memory, &got, &err), -1);

	ck_assert_str_eq(err.text, "message 'left' is unknown");
	finish();
}
END_TEST

START_TEST(the_output_is_not_touched_on_failure)
{
	struct guest_range range = {.offset = 7, .length = 8};

	wire_put_map(&buffer, 1);
	wire_put_str(&buffer, "offset");
	wire_put_uint(&buffer, 1);
	ck_assert_int_eq(
		guest_range_decode(buffer.bytes, buffer.length, &memory, &range, &err), -1);

	ck_assert_uint_eq(range.offset, 7);
	ck_assert_uint_eq(range.length, 8);
	finish();
}
END_TEST

START_TEST(numbers_are_read_whatever_their_width_on_the_wire)
{
	/* offset as int64 +5, length as uint64 0x8000000000000000, which is too much. */
	static const char good[] =
		"\x82\xa6offset\xd3\0\0\0\0\0\0\0\x05\xa6length\xcf\0\0\0\0\0\0\0\x06";
	static const char bad[] = "\x82\xa6offset\x05\xa6length\xcf\x80\0\0\0\0\0\0\0";
	struct guest_range range;

	ck_assert_int_eq(guest_range_decode(good, sizeof good - 1, &memory, &range, &err), 0);
	ck_assert_uint_eq(range.offset, 5);
	ck_assert_uint_eq(range.length, 6);
	ck_assert_int_eq(guest_range_decode(bad, sizeof bad - 1, &memory, &range, &err), -1);
	finish();
}
END_TEST

START_TEST(a_list_that_a_command_returns_comes_back)
{
	struct allocation_run runs[] = {
		{.offset = 0,
			.length = 1,
			.state = ALLOCATION_STATE_BACKING,
			.has_layer = true,
			.layer = 1},
		{.offset = 1, .length = 2, .state = ALLOCATION_STATE_HOLE},
	};
	struct allocation_run *got;
	size_t count;

	cmd_query_allocation_return_encode(runs, 2, &buffer);
	ck_assert_int_eq(cmd_query_allocation_return_decode(
				 buffer.bytes, buffer.length, &memory, &got, &count, &err),
		0);

	ck_assert_uint_eq(count, 2);
	ck_assert_uint_eq(got[0].layer, 1);
	ck_assert_uint_eq(got[1].state, ALLOCATION_STATE_HOLE);
	ck_assert(!got[1].has_layer);
	finish();
}
END_TEST

UNIT_MAIN("wire_decode", a_message_comes_back_as_it_was_sent, a_wrong_argument_is_named,
	a_missing_argument_is_named,
	an_unknown_argument_is_repeated_cut_and_without_control_characters,
	what_is_wrong_with_the_whole_names_no_argument, a_field_deep_inside_is_named_with_its_place,
	unknown_keys_of_a_message_are_skipped, a_message_of_the_other_direction_is_unknown,
	the_output_is_not_touched_on_failure, numbers_are_read_whatever_their_width_on_the_wire,
	a_list_that_a_command_returns_comes_back)
