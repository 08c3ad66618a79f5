/* SPDX-License-Identifier: Apache-2.0 */
/* The guard alone: bytes that would cost memory, time or a wrong belief are refused before anything is allocated. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "schemas/client_broker.gen.h"
#include "schemas/wire.h"
#include "tests/unit/unit.h"

#define KILOBYTES_ALLOWED 8192

static int guard(const char *bytes, size_t length, struct err *err)
{
	return wire_guard(bytes, length, &wire_limits_request, err);
}

/* Of a string literal with NULs in it. */
#define GUARD(literal, err) guard(literal, sizeof(literal) - 1, err)

static void refused(const char *bytes, size_t length, const char *words)
{
	struct err err = {0};

	ck_assert_int_eq(guard(bytes, length, &err), -1);
	ck_assert_msg(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
}

#define REFUSED(literal, words) refused(literal, sizeof(literal) - 1, words)

static long peak_kilobytes(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

/* Through a whole decoder, so that whatever comes behind the guard would allocate too. */
static void bomb(const void *bytes, size_t length, const char *words)
{
	struct wire_memory memory = {0};
	struct wire_bytes packed = {bytes, length};
	struct wire_buffer text = {0};
	struct cmd_block_stream arguments;
	struct err err = {0};
	size_t mapped = mallinfo2().hblkhd;
	long before = peak_kilobytes();

	ck_assert_int_eq(
		cmd_block_stream_decode(bytes, length, &memory, &arguments, NULL, &err), -1);
	ck_assert_msg(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
	ck_assert_int_eq(wire_format(&text, packed, &wire_limits_request, &err), -1);
	ck_assert_int_lt(peak_kilobytes() - before, KILOBYTES_ALLOWED);
	ck_assert_uint_le(mallinfo2().hblkhd, mapped);
	wire_memory_done(&memory);
	wire_buffer_done(&text);
}

START_TEST(five_bytes_cannot_ask_for_gigabytes)
{
	bomb("\xdd\x10\x00\x00\x00", 5, "it ends too early");
	bomb("\xdd\xff\x00\x00\x00", 5, "it ends too early");
	bomb("\xdd\xff\xff\xff\xff", 5, "it ends too early");
	bomb("\xdf\x80\x00\x00\x00", 5, "it ends too early");
	bomb("\xdf\xff\xff\xff\xff", 5, "it ends too early");
	bomb("\xc6\xff\xff\xff\xff", 5, "it ends too early");
	bomb("\xdb\xff\xff\xff\xff", 5, "it ends too early");
}
END_TEST

START_TEST(nested_lists_that_promise_millions_are_refused)
{
	char bytes[31 * 5];

	for (size_t i = 0; i < sizeof bytes; i += 5)
		memcpy(bytes + i, "\xdd\x00\xff\xff\xff", 5);
	bomb(bytes, sizeof bytes, "it ends too early");
}
END_TEST

START_TEST(a_message_of_many_small_values_is_refused)
{
	static char bytes[(64 << 10)];

	memset(bytes, 0x90, sizeof bytes);
	memcpy(bytes, "\xdc\xff\xfd", 3);
	bomb(bytes, 3 + 0xfffd, "it has more than 16384 values");
}
END_TEST

START_TEST(a_message_that_is_too_long_is_refused_unseen)
{
	static char bytes[(64 << 10) + 1];

	bomb(bytes, sizeof bytes, "it is 65537 bytes long, more than 65536");
}
END_TEST

START_TEST(depth_is_limited)
{
	char bytes[64];

	memset(bytes, 0x91, sizeof bytes);
	bytes[16] = 0;
	ck_assert_int_eq(guard(bytes, 17, NULL), 0);
	bytes[16] = '\x91';
	bytes[17] = 0;
	refused(bytes, 18, "it is too deep");
	bomb(bytes, sizeof bytes, "it is too deep");
	memset(bytes, 0x81, sizeof bytes);
	refused(bytes, sizeof bytes, "a key that is not a str");
}
END_TEST

START_TEST(an_empty_container_at_the_deepest_level_counts_as_one)
{
	char bytes[17];

	memset(bytes, 0x91, sizeof bytes);
	bytes[15] = '\x90';
	ck_assert_int_eq(guard(bytes, 16, NULL), 0);
	bytes[15] = '\x91';
	bytes[16] = '\x80';
	refused(bytes, 17, "it is too deep");
}
END_TEST

START_TEST(keys_that_come_twice_are_refused)
{
	REFUSED("\x82\xa1x\x01\xa1x\x02", "the same key twice");
	/* The same name behind headers of other widths. */
	REFUSED("\x82\xa1x\x01\xd9\x01x\x02", "the same key twice");
	REFUSED("\x82\xda\x00\x01x\x01\xdb\x00\x00\x00\x01x\x02", "the same key twice");
	REFUSED("\x82\xa0\x01\xa0\x02", "the same key twice");
	/* Behind a value that has keys of its own. */
	REFUSED("\x83\xa1x\x82\xa1x\x01\xa1y\x02\xa1y\x02\xa1x\x03", "the same key twice");
	/* The same key on two levels, and in two maps beside each other, is fine. */
	ck_assert_int_eq(GUARD("\x81\xa1x\x81\xa1x\x01", NULL), 0);
	ck_assert_int_eq(GUARD("\x92\x81\xa1x\x01\x81\xa1x\x01", NULL), 0);
	ck_assert_int_eq(GUARD("\x82\xa1x\x01\xa1y\x02", NULL), 0);
}
END_TEST

START_TEST(keys_must_be_strs)
{
	REFUSED("\x81\x01\x01", "a key that is not a str");
	REFUSED("\x81\xc0\x01", "a key that is not a str");
	REFUSED("\x81\xc4\x01x\x01", "a key that is not a str");
	REFUSED("\x81\x90\x01", "a key that is not a str");
}
END_TEST

START_TEST(a_map_has_at_most_256_keys)
{
	char bytes[8192];
	size_t length = 3;

	for (unsigned i = 0; i < 257; i++)
		length +=
			(size_t)snprintf(bytes + length, sizeof bytes - length, "\xa3%03u\x01", i);
	memcpy(bytes, "\xde\x01\x00", 3);
	ck_assert_int_eq(guard(bytes, length - 5, NULL), 0);
	memcpy(bytes, "\xde\x01\x01", 3);
	refused(bytes, length, "too many keys");
}
END_TEST

START_TEST(strs_must_be_utf8)
{
	ck_assert_int_eq(GUARD("\xa2\xc3\xbc", NULL), 0);
	ck_assert_int_eq(GUARD("\xa3\xef\xbf\xbf", NULL), 0);
	ck_assert_int_eq(GUARD("\xa4\xf4\x8f\xbf\xbf", NULL), 0);
	REFUSED("\xa1\xff", "not UTF-8");
	REFUSED("\xa1\x80", "not UTF-8");
	REFUSED("\xa1\xc3", "not UTF-8");
	REFUSED("\xa2\xc0\x80", "not UTF-8");
	REFUSED("\xa2\xc1\xbf", "not UTF-8");
	REFUSED("\xa3\xe0\x9f\xbf", "not UTF-8");
	REFUSED("\xa3\xed\xa0\x80", "not UTF-8");
	REFUSED("\xa4\xf0\x8f\xbf\xbf", "not UTF-8");
	REFUSED("\xa4\xf4\x90\x80\x80", "not UTF-8");
	REFUSED("\xa4\xf5\x80\x80\x80", "not UTF-8");
	REFUSED("\x81\xa1\xff\x01", "not UTF-8");
	/* In a bin anything may stand. */
	ck_assert_int_eq(GUARD("\xc4\x02\xff\x00", NULL), 0);
}
END_TEST

START_TEST(extensions_and_the_byte_that_is_never_used_are_refused)
{
	static const char first[] = "\xc1\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8";

	for (size_t i = 0; first[i]; i++) {
		char bytes[24] = {first[i]};

		refused(bytes, sizeof bytes, "where a value should begin");
	}
}
END_TEST

START_TEST(nothing_and_more_than_one_value_are_refused)
{
	refused("", 0, "it ends too early");
	ck_assert_int_eq(wire_guard(NULL, 0, &wire_limits_request, NULL), -1);
	REFUSED("\x01\x02", "1 bytes follow its end");
	REFUSED("\x80\x80\x80", "2 bytes follow its end");
}
END_TEST

START_TEST(the_worst_keys_take_no_noticeable_time)
{
	static char bytes[64 << 10];
	struct timespec begin, end;
	size_t length = 3;
	unsigned maps = 0;

	/* As many maps of 256 keys as fit. */
	while (length + 3 + 256 * 4 < sizeof bytes && maps < 60) {
		memcpy(bytes + length, "\xde\x01\x00", 3);
		length += 3;
		for (unsigned i = 0; i < 256; i++)
			length += (size_t)snprintf(bytes + length, sizeof bytes - length,
				"\xa2%c%c\x01", 'a' + i % 16, 'a' + i / 16);
		maps++;
	}
	memcpy(bytes, "\xdc\x00", 2);
	bytes[2] = (char)maps;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
	for (unsigned i = 0; i < 10; i++)
		(void)!guard(bytes, length, NULL);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
	ck_assert_int_lt(
		(end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000, 1000);
}
END_TEST

UNIT_MAIN("guard", five_bytes_cannot_ask_for_gigabytes,
	nested_lists_that_promise_millions_are_refused, a_message_of_many_small_values_is_refused,
	a_message_that_is_too_long_is_refused_unseen, depth_is_limited,
	an_empty_container_at_the_deepest_level_counts_as_one, keys_that_come_twice_are_refused,
	keys_must_be_strs, a_map_has_at_most_256_keys, strs_must_be_utf8,
	extensions_and_the_byte_that_is_never_used_are_refused,
	nothing_and_more_than_one_value_are_refused, the_worst_keys_take_no_noticeable_time)
