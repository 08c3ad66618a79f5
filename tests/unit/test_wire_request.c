/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, replies and events as wholes. */
#include <string.h>

#include "schemas/wire_request.h"
#include "tests/unit/unit.h"

static struct wire_buffer buffer;
static struct wire_memory memory;
static struct err err;

static void finish(void)
{
	wire_buffer_done(&buffer);
	wire_memory_done(&memory);
}

static const struct wire_bytes id_seven = {"\x07", 1};
static const struct wire_bytes nothing = {NULL, 0};

START_TEST(a_request_comes_back_with_its_arguments_and_id)
{
	struct wire_bytes arguments = {"\x81\xa1x\x01", 4};
	struct request_envelope request;

	wire_request_put(&buffer, "query-status", arguments, id_seven);
	ck_assert_int_eq(
		wire_request_read(buffer.bytes, buffer.length, &memory, &request, &err), 0);

	ck_assert_str_eq(request.execute, "query-status");
	ck_assert_uint_eq(request.arguments.length, 4);
	ck_assert_mem_eq(request.arguments.bytes, "\x81\xa1x\x01", 4);
	ck_assert_uint_eq(request.id.length, 1);
	finish();
}
END_TEST

START_TEST(absent_arguments_are_an_empty_map)
{
	struct request_envelope request;

	wire_request_put(&buffer, "query-status", nothing, nothing);
	ck_assert_int_eq(
		wire_request_read(buffer.bytes, buffer.length, &memory, &request, &err), 0);

	ck_assert_uint_eq(request.arguments.length, 1);
	ck_assert_mem_eq(request.arguments.bytes, "\x80", 1);
	ck_assert_ptr_null(request.id.bytes);
	finish();
}
END_TEST

static void refused(const void *bytes, size_t length, const char *words, size_t id_length)
{
	struct request_envelope request = {.execute = "old"};

	ck_assert_int_eq(wire_request_read(bytes, length, &memory, &request, &err), -1);
	ck_assert_str_eq(err.text, words);
	ck_assert_uint_eq(request.id.length, id_length);
	ck_assert_ptr_null(request.execute);
	finish();
}

START_TEST(a_request_that_is_wrong_is_refused_and_keeps_its_id)
{
	refused("\x81\xa2id\x07", 5, "the request can't be read: member 'execute' is missing", 1);
	refused("\x82\xa7"
		"execute\x01\xa2id\x07",
		14, "the request can't be read: member 'execute' must be a string", 1);
	refused("\x83\xa7"
		"execute\xa1x\xa9"
		"arguments\x90\xa2id\x07",
		26, "the request can't be read: member 'arguments' must be a map", 1);
	refused("\x83\xa7"
		"execute\xa1x\xa4more\xc0\xa2id\x07",
		21, "the request can't be read: member 'more' is unknown", 1);
}
END_TEST

START_TEST(what_is_no_request_at_all_is_refused)
{
	static char big[(64 << 10) + 1];

	refused("", 0, "the request can't be read: it ends too early", 0);
	refused("\xc1", 1,
		"the request can't be read: it has the byte 0xc1 where a value should begin", 0);
	refused("\x93\x01\x02\x03", 4, "the request can't be read: it is not a map", 0);
	refused(big, sizeof big,
		"the request can't be read: it is 65537 bytes long, more than 65536", 0);
}
END_TEST

START_TEST(a_reply_with_a_return_comes_back)
{
	struct reply_envelope reply;

	wire_reply_put(&buffer, id_seven, 12, nothing);
	ck_assert_int_eq(wire_reply_read(buffer.bytes, buffer.length, &memory, &reply, &err), 0);

	ck_assert(!reply.has_error);
	ck_assert_mem_eq(reply.returned.bytes, "\x80", 1);
	ck_assert_mem_eq(reply.id.bytes, "\x07", 1);
	ck_assert_uint_eq(reply.seq, 12);
	finish();
}
END_TEST

START_TEST(a_reply_with_an_error_comes_back_with_its_names)
{
	const struct wire_name names[] = {{"device", "virtio0"}, {"file", NULL}};
	struct reply_envelope reply;

	wire_reply_put_error(&buffer, nothing, 0, ERROR_CLASS_DEVICE_NOT_FOUND,
		"Device 'virtio0' not found", names, 2);
	ck_assert_int_eq(wire_reply_read(buffer.bytes, buffer.length, &memory, &reply, &err), 0);

	ck_assert(reply.has_error);
	ck_assert_str_eq(reply.error.class, "DeviceNotFound");
	ck_assert_str_eq(reply.error.desc, "Device 'virtio0' not found");
	ck_assert_uint_eq(reply.error.data.length, 16);
	ck_assert_mem_eq(reply.error.data.bytes,
		"\x81\xa6"
		"device\xa7virtio0",
		16);
	ck_assert_ptr_null(reply.id.bytes);
	finish();
}
END_TEST

START_TEST(a_reply_with_neither_or_both_is_refused)
{
	struct reply_envelope reply;

	ck_assert_int_eq(wire_reply_read("\x81\xa3seq\x01", 6, &memory, &reply, &err), -1);
	ck_assert_str_eq(err.text, "the reply can't be read: it must have either return or error");
	finish();
}
END_TEST

START_TEST(a_durable_event_has_its_numbers_and_another_has_none)
{
	struct wire_bytes data = {"\x80", 1};
	struct event_envelope event;

	wire_event_put(&buffer, "DEVICE_ONLINE", data, 5000007, 3, 2);
	ck_assert_int_eq(
		event_envelope_decode(buffer.bytes, buffer.length, &memory, &event, &err), 0);
	ck_assert_str_eq(event.event, "DEVICE_ONLINE");
	ck_assert_uint_eq(event.timestamp.seconds, 5);
	ck_assert_uint_eq(event.timestamp.microseconds, 7);
	ck_assert(event.has_seq && event.seq == 3 && event.has_prev && event.prev == 2);

	wire_buffer_clear(&buffer);
	wire_event_put(&buffer, "BROKER_HEARTBEAT", data, 5000007, 0, 0);
	ck_assert_int_eq(
		event_envelope_decode(buffer.bytes, buffer.length, &memory, &event, &err), 0);
	ck_assert(!event.has_seq && !event.has_prev);
	finish();
}
END_TEST

UNIT_MAIN("wire_request", a_request_comes_back_with_its_arguments_and_id,
	absent_arguments_are_an_empty_map, a_request_that_is_wrong_is_refused_and_keeps_its_id,
	what_is_no_request_at_all_is_refused, a_reply_with_a_return_comes_back,
	a_reply_with_an_error_comes_back_with_its_names, a_reply_with_neither_or_both_is_refused,
	a_durable_event_has_its_numbers_and_another_has_none)
