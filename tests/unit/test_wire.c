/* SPDX-License-Identifier: Apache-2.0 */
/* Structs to bytes and back, through generated functions; what the tables refuse, and in which words. */
#include <string.h>

#include "schemas/client_broker.gen.h"
#include "schemas/worker_broker.gen.h"
#include "tests/unit/unit.h"

START_TEST(a_message_comes_back_as_it_was_sent)
{
	struct source_extent sources[] = {
		{.codec = CODEC_PLAIN, .length = 65536, .has_file = true, .file = 1},
		{.codec = CODEC_ZERO, .length = 4096}};
	struct destination_extent destination = {.offset = 327680, .length = 69632};
	struct msg_copy_order order = {.lease = 9,
		.join = 3,
		.detect_zeroes = true,
		.sources = sources,
		.sources_count = 2,
		.destinations = &destination,
		.destinations_count = 1};
	struct wire_buffer buffer = {0};
	struct wire_memory memory = {0};
	struct broker_to_worker got;
	struct err err = {0};

	msg_copy_order_encode(&order, &buffer);
	ck_assert_msg(
		broker_to_worker_decode(buffer.bytes, buffer.length, &memory, &got, &err) == 0,
		"%s", err.text);

	ck_assert_uint_eq(got.type, BROKER_TO_WORKER_COPY_ORDER);
	ck_assert_uint_eq(got.copy_order.lease, 9);
	ck_assert(got.copy_order.detect_zeroes);
	ck_assert_uint_eq(got.copy_order.sources_count, 2);
	ck_assert_uint_eq(got.copy_order.sources[0].file, 1);
	ck_assert(got.copy_order.sources[0].has_file);
	ck_assert(!got.copy_order.sources[1].has_file);
	ck_assert_uint_eq(got.copy_order.sources[1].codec, CODEC_ZERO);
	ck_assert_uint_eq(got.copy_order.destinations[0].length, 69632);
	wire_memory_done(&memory);
	wire_buffer_done(&buffer);
}
END_TEST

START_TEST(a_wrong_argument_is_named)
{
	struct wire_buffer buffer = {0};
	struct wire_memory memory = {0};
	struct cmd_block_stream arguments;
	const char *argument = NULL;
	struct err err = {0};

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
	wire_memory_done(&memory);
	wire_buffer_done(&buffer);
}
END_TEST

UNIT_MAIN("wire", a_message_comes_back_as_it_was_sent, a_wrong_argument_is_named)
