/* SPDX-License-Identifier: Apache-2.0 */
/* Which copy orders are sound: each way of being unsound by hand, then many by chance, judged by a slow second opinion. */
#include <stdio.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "workers/copy_order.h"

#define CLUSTER 65536u
#define FILES	2

struct draft {
	struct msg_copy_order message;
	struct source_extent sources[4];
	struct destination_extent destinations[3];
};

static const struct copy_order_frame frame = {.cluster_bytes = CLUSTER, .files_count = FILES};

/* Three clusters: half plain, half zero, a deflated one, a plain one; into two places. */
static struct draft sound(void)
{
	struct draft draft = {
		.message = {.lease = 9,
			.join = 3,
			.offset = 1 << 20,
			.sources_count = 4,
			.destinations_count = 2},
		.sources =
			{
				{.codec = CODEC_PLAIN,
					.length = 32768,
					.has_file = true,
					.has_offset = true},
				{.codec = CODEC_ZERO, .length = 32768},
				{.codec = CODEC_DEFLATE,
					.length = CLUSTER,
					.has_file = true,
					.file = 1,
					.has_offset = true,
					.offset = 777,
					.has_stored = true,
					.stored = 1024,
					.has_cluster = true,
					.cluster = 2 * CLUSTER,
					.has_skip = true,
					.skip = CLUSTER},
				{.codec = CODEC_PLAIN,
					.length = CLUSTER,
					.has_file = true,
					.has_offset = true,
					.offset = 4096},
			},
		.destinations =
			{
				{.offset = 10 * CLUSTER, .length = 2 * CLUSTER},
				{.offset = 5 * CLUSTER, .length = CLUSTER},
			},
	};
	return draft;
}

static int accept(struct draft *draft, struct err *err)
{
	CLEANUP(copy_order_cleanup) struct copy_order *order = NULL;

	draft->message.sources = draft->sources;
	draft->message.destinations = draft->destinations;
	return copy_order_new(&draft->message, &frame, &order, err);
}

static void assert_refused(struct draft *draft, const char *words)
{
	struct err err = {0};

	ck_assert_int_eq(accept(draft, &err), -1);
	ck_assert_msg(strstr(err.text, words), "'%s' lacks '%s'", err.text, words);
}

START_TEST(a_sound_order_is_copied)
{
	struct draft draft = sound();
	CLEANUP(copy_order_cleanup) struct copy_order *order = NULL;
	struct err err;

	draft.message.sources = draft.sources;
	draft.message.destinations = draft.destinations;
	ck_assert_int_eq(copy_order_new(&draft.message, &frame, &order, &err), 0);
	memset(&draft, 0xff, sizeof draft);

	ck_assert_uint_eq(order->lease, 9);
	ck_assert_uint_eq(order->length, 3 * CLUSTER);
	ck_assert_uint_eq(order->sources[2].stored, 1024);
	ck_assert_uint_eq(order->destinations[1].offset, 5 * CLUSTER);
}
END_TEST

#define REFUSES(change, words)                 \
	do {                                   \
		struct draft draft = sound();  \
		change;                        \
		assert_refused(&draft, words); \
	} while (0)

START_TEST(lists_that_yield_different_sizes_are_refused)
{
	REFUSES(draft.sources[0].length++, "the sources yield");
	REFUSES(draft.message.sources_count = 3, "the sources yield");
	REFUSES(draft.message.sources_count = draft.message.destinations_count = 0, "0 bytes");
	REFUSES(draft.sources[1].length = 0, "yields 0 bytes");
	REFUSES(draft.sources[1].length = COPY_ORDER_BYTES_MAX + 1, "yields 4294967297 bytes");
	REFUSES((draft.sources[1].length = COPY_ORDER_BYTES_MAX - 32768,
			draft.destinations[0].length = COPY_ORDER_BYTES_MAX,
			draft.destinations[1].length = 2 * CLUSTER),
		"an order of 4295098368 bytes");
}
END_TEST

START_TEST(sources_outside_their_files_are_refused)
{
	REFUSES(draft.sources[0].file = FILES, "file 2 of 2");
	REFUSES(draft.sources[0].has_file = false, "names no file");
	REFUSES(draft.sources[0].has_offset = false, "names no file");
	REFUSES(draft.sources[0].offset = INT64_MAX - 32767, "are no range");
	REFUSES(draft.sources[2].has_stored = false, "stored or cluster is missing");
	REFUSES(draft.sources[2].has_cluster = false, "stored or cluster is missing");
	REFUSES(draft.sources[2].stored = 0, "are no range");
	REFUSES(draft.sources[2].offset = INT64_MAX, "are no range");
	REFUSES(draft.sources[2].skip++, "do not lie in a cluster");
	REFUSES(draft.sources[2].skip = 2 * CLUSTER + 1, "do not lie in a cluster");
	REFUSES(draft.sources[2].cluster = CLUSTER, "do not lie in a cluster");
}
END_TEST

START_TEST(destinations_that_could_do_harm_are_refused)
{
	REFUSES(draft.destinations[0].offset = 0, "header");
	REFUSES(draft.destinations[0].offset++, "whole clusters");
	REFUSES(draft.destinations[0].length++, "whole clusters");
	REFUSES(draft.destinations[0].length = 0, "are no range");
	REFUSES(draft.destinations[0].offset = (UINT64_C(1) << 63) - CLUSTER, "are no range");
	REFUSES(draft.destinations[0].offset = UINT64_C(1) << 63, "are no range");
	REFUSES(draft.destinations[1].offset = 10 * CLUSTER, "overlap");
	REFUSES(draft.destinations[1].offset = 11 * CLUSTER, "overlap");
	REFUSES(draft.destinations[0].offset = 4 * CLUSTER, "overlap");
	REFUSES(draft.message.offset = INT64_MAX, "past every disk");
}
END_TEST

/* ---- by chance */

static uint32_t state = 1;

static uint32_t chance(uint32_t below)
{
	state = state * 1664525u + 1013904223u;
	return (uint32_t)(((uint64_t)state * below) >> 32);
}

static uint64_t strange_number(void)
{
	static const uint64_t numbers[] = {0, 1, 511, CLUSTER - 1, CLUSTER, CLUSTER + 1,
		5 * CLUSTER, UINT32_MAX, (uint64_t)1 << 62, INT64_MAX - CLUSTER,
		INT64_MAX - CLUSTER + 1, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX - CLUSTER + 1,
		UINT64_MAX};

	return numbers[chance(sizeof numbers / sizeof numbers[0])];
}

static void mutate(struct draft *draft)
{
	struct source_extent *source = &draft->sources[chance(4)];
	struct destination_extent *destination = &draft->destinations[chance(3)];
	uint64_t number = strange_number();

	switch (chance(12)) {
	case 0:
		source->length = number;
		break;
	case 1:
		source->offset = number;
		break;
	case 2:
		source->file = number;
		break;
	case 3:
		source->codec = (enum codec)chance(4);
		break;
	case 4:
		source->stored = number;
		break;
	case 5:
		source->cluster = number;
		break;
	case 6:
		source->skip = number;
		break;
	case 7:
		source->has_offset = source->has_skip = chance(2);
		break;
	case 8:
		destination->length = number;
		break;
	case 9:
		destination->offset = number;
		break;
	case 10:
		draft->message.sources_count = chance(5);
		break;
	default:
		draft->message.destinations_count = chance(4);
		break;
	}
}

__extension__ typedef unsigned __int128 wide;

/* What an accepted order must be, said once more in another way, with sums that can't overflow. */
static void assert_harmless(const struct draft *draft)
{
	wide from = 0, into = 0;
	const struct msg_copy_order *message = &draft->message;

	for (size_t i = 0; i < message->sources_count; i++) {
		const struct source_extent *s = &draft->sources[i];
		from += s->length;
		if (s->codec == CODEC_ZERO)
			continue;
		ck_assert(s->has_file && s->has_offset && s->file < FILES);
		bool is_plain = s->codec == CODEC_PLAIN;
		ck_assert((wide)s->offset + (is_plain ? s->length : s->stored) <= INT64_MAX);
		if (!is_plain)
			ck_assert((wide)s->length + (s->has_skip ? s->skip : 0) <= s->cluster);
	}
	for (size_t i = 0; i < message->destinations_count; i++) {
		const struct destination_extent *d = &draft->destinations[i];
		into += d->length;
		ck_assert(d->offset >= CLUSTER && d->offset % CLUSTER == 0 &&
			  d->length % CLUSTER == 0);
		ck_assert((wide)d->offset + d->length <= INT64_MAX);
		for (size_t k = 0; k < i; k++) {
			const struct destination_extent *o = &draft->destinations[k];
			ck_assert(d->offset >= o->offset + o->length ||
				  o->offset >= d->offset + d->length);
		}
	}
	ck_assert(from == into && from > 0);
}

START_TEST(what_is_accepted_is_harmless_whatever_the_numbers)
{
	size_t accepted = 0;

	for (unsigned round = 0; round < 60000; round++) {
		struct draft draft = sound();
		struct err err;

		for (unsigned i = chance(4); i-- > 0;)
			mutate(&draft);
		if (accept(&draft, &err) < 0)
			continue;
		accepted++;
		assert_harmless(&draft);
	}
	ck_assert_uint_gt(accepted, 500);
}
END_TEST

UNIT_MAIN("copy_order", a_sound_order_is_copied, lists_that_yield_different_sizes_are_refused,
	sources_outside_their_files_are_refused, destinations_that_could_do_harm_are_refused,
	what_is_accepted_is_harmless_whatever_the_numbers)
