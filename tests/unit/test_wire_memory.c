/* SPDX-License-Identifier: Apache-2.0 */
/* The growing buffer and the chunks of decoded strings and lists. */
#include <stdint.h>
#include <string.h>

#include "schemas/wire.h"
#include "tests/unit/unit.h"

START_TEST(a_buffer_keeps_what_was_appended_while_it_grows)
{
	struct wire_buffer buffer;

	wire_buffer_init(&buffer);
	for (unsigned i = 0; i < 100000; i++)
		wire_buffer_append(&buffer, &(uint8_t){(uint8_t)(i % 251)}, 1);

	ck_assert_uint_eq(buffer.length, 100000);
	for (unsigned i = 0; i < 100000; i++)
		if (buffer.bytes[i] != i % 251)
			ck_abort_msg("byte %u is another one", i);
	wire_buffer_done(&buffer);
	ck_assert_ptr_null(buffer.bytes);
}
END_TEST

START_TEST(a_cleared_buffer_begins_anew_in_the_same_memory)
{
	struct wire_buffer buffer = {0};
	uint8_t *before;

	wire_buffer_append(&buffer, "abc", 3);
	before = buffer.bytes;
	wire_buffer_clear(&buffer);
	wire_buffer_append(&buffer, "d", 1);

	ck_assert_ptr_eq(buffer.bytes, before);
	ck_assert_uint_eq(buffer.length, 1);
	ck_assert_int_eq(buffer.bytes[0], 'd');
	wire_buffer_done(&buffer);
	wire_buffer_done(NULL);
}
END_TEST

static bool holds_only(const uint8_t *bytes, size_t length, uint8_t value)
{
	while (length && bytes[length - 1] == value)
		length--;
	return length == 0;
}

START_TEST(memory_is_zeroed_aligned_and_stays_where_it_is)
{
	struct wire_memory memory;
	uint8_t *pieces[300];

	wire_memory_init(&memory);
	for (size_t i = 0; i < 300; i++) {
		pieces[i] = wire_memory_get(&memory, i * 7);
		ck_assert_uint_eq((uintptr_t)pieces[i] % 16, 0);
		ck_assert(holds_only(pieces[i], i * 7, 0));
		memset(pieces[i], (int)(i % 256), i * 7);
	}

	for (size_t i = 0; i < 300; i++)
		ck_assert(holds_only(pieces[i], i * 7, (uint8_t)(i % 256)));
	wire_memory_done(&memory);
	ck_assert_ptr_null(memory.chunks);
}
END_TEST

START_TEST(no_bytes_are_a_piece_of_their_own)
{
	struct wire_memory memory = {0};
	void *first = wire_memory_get(&memory, 0);

	ck_assert_ptr_nonnull(first);
	ck_assert_ptr_ne(first, wire_memory_get(&memory, 0));
	wire_memory_done(&memory);
}
END_TEST

START_TEST(reset_memory_is_zeroed_again)
{
	struct wire_memory memory = {0};
	char *text;

	wire_memory_reset(&memory);
	(void)wire_memory_get(&memory, 100000);
	text = wire_memory_text(&memory, "abcdefgh", 8);
	ck_assert_str_eq(text, "abcdefgh");
	wire_memory_reset(&memory);
	ck_assert_str_eq(wire_memory_text(&memory, "a", 1), "a");
	ck_assert_str_eq(wire_memory_text(&memory, NULL, 0), "");
	wire_memory_done(&memory);
	wire_memory_done(NULL);
}
END_TEST

UNIT_MAIN("wire_memory", a_buffer_keeps_what_was_appended_while_it_grows,
	a_cleared_buffer_begins_anew_in_the_same_memory,
	memory_is_zeroed_aligned_and_stays_where_it_is, no_bytes_are_a_piece_of_their_own,
	reset_memory_is_zeroed_again)
