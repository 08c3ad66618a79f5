/* SPDX-License-Identifier: Apache-2.0 */
/* The vectors that generate.py makes from the schemas: good ones come out as they went in, bad ones are refused for the
 * right reason, and no beginning, no end and no damage of a good one can do harm.
 *
 *     test_vectors VECTORS.TXT [SEED] */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/check.h"
#include "tests/unit/unit.h"
#include "tests/wire/codecs.h"

#define VECTORS_MAX	   8192
#define MUTATIONS_A_VECTOR 400

struct vector {
	bool is_good;
	const char *name;
	const struct tested_codec *codec;
	uint8_t *bytes;
	size_t length;
	const char *text; /* JSON of a good one, part of the sentence of a bad one */
};

static struct vector vectors[VECTORS_MAX];
static size_t vectors_count;
static uint64_t seed = 1;

/* ---- reading them */

static const struct tested_codec *find_codec(const char *name)
{
	for (size_t i = 0; i < tested_codecs_count; i++)
		if (strcmp(tested_codecs[i].name, name) == 0)
			return &tested_codecs[i];
	return NULL;
}

static unsigned hex_digit(char digit)
{
	return (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static void read_vector(char *line)
{
	struct vector *vector = &vectors[vectors_count++];
	char *words[5];

	bug_if(vectors_count == VECTORS_MAX);
	for (size_t i = 0; i < 5; i++)
		words[i] = strsep(&line, i < 4 ? "\t" : "\n");
	vector->is_good = strcmp(words[0], "good") == 0;
	vector->name = must_strdup(words[1]);
	vector->codec = find_codec(words[2]);
	bug_if(!vector->codec);
	vector->length = strlen(words[3]) / 2;
	vector->bytes = must_calloc(vector->length + 1, 1);
	for (size_t i = 0; i < vector->length; i++)
		vector->bytes[i] =
			(uint8_t)(hex_digit(words[3][2 * i]) << 4 | hex_digit(words[3][2 * i + 1]));
	vector->text = must_strdup(words[4]);
}

static void read_vectors(const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;

	bug_if(!file);
	while (getline(&line, &room, file) > 0)
		read_vector(line);
	bug_if(vectors_count == 0);
	free(line);
	fclose(file);
}

/* ---- tests */

START_TEST(good_bytes_come_out_as_they_went_in)
{
	for (size_t i = 0; i < vectors_count; i++) {
		const struct vector *vector = &vectors[i];
		struct wire_memory memory = {0};
		struct wire_buffer buffer = {0};
		struct err err = {0};

		if (!vector->is_good)
			continue;
		ck_assert_msg(vector->codec->round_trip(
				      vector->bytes, vector->length, &memory, &buffer, &err) == 0,
			"%s: %s", vector->name, err.text);
		ck_assert_msg(buffer.length == vector->length &&
				      memcmp(buffer.bytes, vector->bytes, vector->length) == 0,
			"%s: other bytes came out", vector->name);
		wire_buffer_done(&buffer);
		wire_memory_done(&memory);
	}
}
END_TEST

START_TEST(good_bytes_are_printed_as_json)
{
	for (size_t i = 0; i < vectors_count; i++) {
		const struct vector *vector = &vectors[i];
		struct wire_bytes packed = {vector->bytes, vector->length};
		struct wire_buffer text = {0};

		if (!vector->is_good)
			continue;
		ck_assert_int_eq(wire_format(&text, packed, &wire_limits_message, NULL), 0);
		wire_buffer_append(&text, "", 1);
		ck_assert_str_eq((const char *)text.bytes, vector->text);
		wire_buffer_done(&text);
	}
}
END_TEST

START_TEST(bad_bytes_are_refused_in_words)
{
	for (size_t i = 0; i < vectors_count; i++) {
		const struct vector *vector = &vectors[i];
		struct wire_memory memory = {0};
		struct wire_buffer buffer = {0};
		struct err err = {0};

		if (vector->is_good)
			continue;
		ck_assert_msg(vector->codec->round_trip(
				      vector->bytes, vector->length, &memory, &buffer, &err) == -1,
			"%s: was accepted", vector->name);
		ck_assert_msg(strstr(err.text, vector->text), "%s: '%s' lacks '%s'", vector->name,
			err.text, vector->text);
		wire_buffer_done(&buffer);
		wire_memory_done(&memory);
	}
}
END_TEST

/* In a block of exactly that size, so that a sanitizer sees a read past its end. */
static int round_trip_exact(const struct tested_codec *codec, const uint8_t *bytes, size_t length,
	struct wire_buffer *buffer, struct err *err)
{
	struct wire_memory memory = {0};
	uint8_t *exact = must_calloc(length ? length : 1, 1);
	int r;

	memcpy(exact, bytes, length);
	r = codec->round_trip(exact, length, &memory, buffer, err);
	free(exact);
	wire_memory_done(&memory);
	return r;
}

START_TEST(truncation_at_every_byte_is_refused)
{
	for (size_t i = 0; i < vectors_count; i++) {
		const struct vector *vector = &vectors[i];

		if (!vector->is_good)
			continue;
		for (size_t length = 0; length < vector->length; length++) {
			struct wire_buffer buffer = {0};
			struct err err = {0};

			ck_assert_msg(round_trip_exact(vector->codec, vector->bytes, length,
					      &buffer, &err) == -1,
				"%s: its first %zu bytes were accepted", vector->name, length);
			ck_assert_str_eq(err.text, "it ends too early");
			wire_buffer_done(&buffer);
		}
	}
}
END_TEST

START_TEST(bytes_after_the_end_are_refused)
{
	static const uint8_t tails[] = {0x00, 0xc0, 0x80, 0xc1, 0xff};

	for (size_t i = 0; i < vectors_count; i++) {
		const struct vector *vector = &vectors[i];
		struct wire_buffer longer = {0};

		if (!vector->is_good)
			continue;
		for (size_t t = 0; t < sizeof tails; t++) {
			struct err err = {0};

			wire_buffer_clear(&longer);
			wire_buffer_append(&longer, vector->bytes, vector->length);
			wire_buffer_append(&longer, &tails[t], 1);
			ck_assert_int_eq(round_trip_exact(vector->codec, longer.bytes,
						 longer.length, NULL, &err),
				-1);
			ck_assert_str_eq(err.text, "1 bytes follow its end");
		}
		wire_buffer_done(&longer);
	}
}
END_TEST

/* ---- damage */

static uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* One to four changes: a bit, a byte that begins something interesting, a piece cut out or doubled. */
static size_t damage(uint64_t *state, uint8_t *bytes, size_t length)
{
	static const uint8_t heads[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc4, 0xc6,
		0xc7, 0xca, 0xcf, 0xd3, 0xd4, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xff, 0x7f, 0x00};

	for (uint64_t times = draw(state) % 4 + 1; times && length; times--) {
		size_t at = draw(state) % length;
		size_t piece = draw(state) % (length - at) % 16 + 1;

		switch (draw(state) % 4) {
		case 0:
			bytes[at] ^= (uint8_t)(1u << draw(state) % 8);
			break;
		case 1:
			bytes[at] = heads[draw(state) % sizeof heads];
			break;
		case 2:
			memmove(bytes + at, bytes + at + piece, length - at - piece);
			length -= piece;
			break;
		case 3:
			memmove(bytes + at + piece, bytes + at, length - at);
			length += piece;
			break;
		}
	}
	return length;
}

START_TEST(damaged_bytes_do_no_harm_and_what_is_accepted_can_be_sent_on)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
	uint64_t accepted = 0, refused = 0;

	for (size_t i = 0; i < vectors_count * MUTATIONS_A_VECTOR; i++) {
		const struct vector *vector = &vectors[i % vectors_count];
		struct wire_buffer first = {0}, second = {0};
		struct err err = {0};
		uint8_t *bytes;
		size_t length;

		if (!vector->is_good)
			continue;
		bytes = must_calloc(vector->length + 64, 1);
		memcpy(bytes, vector->bytes, vector->length);
		length = damage(&state, bytes, vector->length);
		if (round_trip_exact(vector->codec, bytes, length, &first, &err) == 0) {
			accepted++;
			ck_assert_msg(round_trip_exact(vector->codec, first.bytes, first.length,
					      &second, &err) == 0,
				"seed %" PRIu64 ", %s: %s", seed, vector->name, err.text);
			ck_assert_msg(first.length == second.length &&
					      memcmp(first.bytes, second.bytes, first.length) == 0,
				"seed %" PRIu64 ", %s: other bytes the second time", seed,
				vector->name);
		} else {
			refused++;
			ck_assert_msg(err.text[0], "seed %" PRIu64 ", %s", seed, vector->name);
		}
		free(bytes);
		wire_buffer_done(&first);
		wire_buffer_done(&second);
	}
	ck_assert_uint_gt(accepted, 1000);
	ck_assert_uint_gt(refused, accepted);
}
END_TEST

int main(int argc, char **argv)
{
	const TTest *const tests[] = {good_bytes_come_out_as_they_went_in,
		good_bytes_are_printed_as_json, bad_bytes_are_refused_in_words,
		truncation_at_every_byte_is_refused, bytes_after_the_end_are_refused,
		damaged_bytes_do_no_harm_and_what_is_accepted_can_be_sent_on};

	bug_if(argc < 2);
	if (argc > 2)
		seed = strtoull(argv[2], NULL, 10);
	read_vectors(argv[1]);
	return unit_run("vectors", tests, sizeof tests / sizeof tests[0]);
}
