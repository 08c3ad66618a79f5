/* SPDX-License-Identifier: Apache-2.0 */
/* Headers made by hand, each wrong in one way, and many more that are wrong in random ways. */
#include <stdlib.h>
#include <string.h>

#include "imaged/qcow2_format.h"
#include "imaged/qcow2_header.h"
#include "schemas/errors.gen.h"
#include "tests/unit/unit.h"

#define CLUSTER	  65536u
#define FILE_SIZE (UINT64_C(16) << 20)

static unsigned char bytes[CLUSTER];
static struct qcow2_header header;
static struct err err;

/* A header that nobody could find fault with: 1 GiB, 64 KiB clusters, L1 at cluster 3. */
static void make_header(uint32_t version)
{
	memset(bytes, 0, sizeof(bytes));
	memset(&header, 0xff, sizeof(header));
	memset(&err, 0, sizeof(err));
	qcow2_store32(bytes + QCOW2_AT_MAGIC, QCOW2_MAGIC);
	qcow2_store32(bytes + QCOW2_AT_VERSION, version);
	qcow2_store32(bytes + QCOW2_AT_CLUSTER_BITS, 16);
	qcow2_store64(bytes + QCOW2_AT_DISK_SIZE, UINT64_C(1) << 30);
	qcow2_store32(bytes + QCOW2_AT_L1_ENTRIES, 2);
	qcow2_store64(bytes + QCOW2_AT_L1_OFFSET, 3 * CLUSTER);
	qcow2_store64(bytes + QCOW2_AT_REFCOUNT_TABLE_OFFSET, CLUSTER);
	qcow2_store32(bytes + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 1);
	if (version == 3) {
		qcow2_store32(bytes + QCOW2_AT_REFCOUNT_ORDER, 4);
		qcow2_store32(bytes + QCOW2_AT_HEADER_LENGTH, 112);
	}
}

/* Appends an extension at `offset`; the offset of the next. */
static size_t add_extension(size_t offset, uint32_t magic, const void *content, uint32_t length)
{
	qcow2_store32(bytes + offset, magic);
	qcow2_store32(bytes + offset + 4, length);
	memcpy(bytes + offset + 8, content, length);
	return offset + 8 + (length + 7) / 8 * 8;
}

static void set_backing_name(size_t offset, const char *name)
{
	qcow2_store64(bytes + QCOW2_AT_BACKING_NAME_OFFSET, offset);
	qcow2_store32(bytes + QCOW2_AT_BACKING_NAME_LENGTH, (uint32_t)strlen(name));
	memcpy(bytes + offset, name, strlen(name));
}

static int parse(void)
{
	return qcow2_header_parse(bytes, sizeof(bytes), FILE_SIZE, &header, &err);
}

static void accepts(void)
{
	ck_assert_msg(parse() == 0, "%s", err.text);
}

/* The header is refused with these words and this kind, and nothing was put out. */
static void refuses(const char *words, unsigned kind)
{
	struct qcow2_header untouched;

	memset(&untouched, 0xff, sizeof(untouched));
	memset(&header, 0xff, sizeof(header));
	ck_assert_int_eq(parse(), -1);
	ck_assert_msg(strstr(err.text, words), "\"%s\" is not in \"%s\"", words, err.text);
	ck_assert_uint_eq(err.kind, kind);
	ck_assert_int_eq(memcmp(&header, &untouched, sizeof(header)), 0);
}

START_TEST(plain_version_3_header_is_read)
{
	make_header(3);

	accepts();

	ck_assert_uint_eq(header.version, 3);
	ck_assert_uint_eq(header.cluster_size, CLUSTER);
	ck_assert_uint_eq(header.disk_size, UINT64_C(1) << 30);
	ck_assert_uint_eq(header.l1_entries, 2);
	ck_assert_uint_eq(header.header_length, 112);
	ck_assert_uint_eq(header.extensions_end, 112);
	ck_assert_str_eq(header.backing_name, "");
	ck_assert_str_eq(header.backing_format, "");
}
END_TEST

START_TEST(version_2_header_has_the_defaults_of_its_time)
{
	make_header(2);
	bytes[QCOW2_AT_INCOMPATIBLE] =
		0; /* where version 3 has features, version 2 has extensions */
	add_extension(QCOW2_V2_LENGTH, QCOW2_EXTENSION_BACKING_FORMAT, "raw", 3);

	accepts();

	ck_assert_uint_eq(header.refcount_order, 4);
	ck_assert_uint_eq(header.header_length, QCOW2_V2_LENGTH);
	ck_assert_str_eq(header.backing_format, "raw");
	ck_assert_uint_eq(header.incompatible, 0);
}
END_TEST

START_TEST(extensions_are_found_with_their_places)
{
	size_t next;
	const unsigned char hint[32] = {0};

	make_header(3);
	next = add_extension(112, QCOW2_EXTENSION_BACKING_FORMAT, "qcow2", 5);
	next = add_extension(next, QCOW2_EXTENSION_FEATURE_NAMES, hint, 32);
	next = add_extension(next, QCOW2_EXTENSION_ZONE_HINT, hint, 32);
	next = add_extension(next, QCOW2_EXTENSION_BITMAPS, hint, 24);
	next = add_extension(next, 0x12345678, "odd", 3);
	set_backing_name(next + 8, "base.qcow2");

	accepts();

	ck_assert_uint_eq(header.backing_format_offset, 112);
	ck_assert_str_eq(header.backing_format, "qcow2");
	ck_assert_uint_eq(header.zone_hint_offset, 112 + 16 + 40);
	ck_assert_uint_eq(header.zone_hint_length, 32);
	ck_assert_uint_eq(header.bitmaps_offset, 112 + 16 + 40 + 40);
	ck_assert(header.has_bitmaps);
	ck_assert(header.has_unknown_extensions);
	ck_assert(!header.has_encryption_header);
	ck_assert_uint_eq(header.extensions_end, next);
	ck_assert_uint_eq(header.backing_name_offset, next + 8);
	ck_assert_str_eq(header.backing_name, "base.qcow2");
}
END_TEST

START_TEST(extensions_without_end_marker_are_read_up_to_the_name)
{
	make_header(3);
	set_backing_name(add_extension(112, QCOW2_EXTENSION_BACKING_FORMAT, "raw", 3), "base");

	accepts();

	ck_assert_uint_eq(header.extensions_end, 0);
	ck_assert_str_eq(header.backing_format, "raw");
}
END_TEST

START_TEST(features_are_refused_by_name)
{
	static const struct {
		uint64_t bits;
		const char *words;
	} features[] = {
		{1 << 1, "marked corrupt"},
		{1 << 2, "external data file"},
		{1 << 4, "extended L2"},
		{UINT64_C(1) << 5 | UINT64_C(1) << 63, "bits 5, 63"},
	};

	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		make_header(3);
		qcow2_store64(bytes + QCOW2_AT_INCOMPATIBLE, features[i].bits);
		refuses(features[i].words, ERROR_CLASS_NOT_SUPPORTED);
	}
	make_header(2);
	qcow2_store32(bytes + QCOW2_AT_ENCRYPTION, 1);
	refuses("AES", ERROR_CLASS_NOT_SUPPORTED);
	qcow2_store32(bytes + QCOW2_AT_ENCRYPTION, 2);
	refuses("LUKS", ERROR_CLASS_NOT_SUPPORTED);
	qcow2_store32(bytes + QCOW2_AT_VERSION, 4);
	refuses("version 4", ERROR_CLASS_NOT_SUPPORTED);
}
END_TEST

START_TEST(dirty_bit_is_no_error)
{
	make_header(3);
	qcow2_store64(bytes + QCOW2_AT_INCOMPATIBLE, QCOW2_INCOMPATIBLE_DIRTY);

	accepts();

	ck_assert_uint_eq(header.incompatible, QCOW2_INCOMPATIBLE_DIRTY);
}
END_TEST

START_TEST(compression_type_and_its_bit_must_agree)
{
	make_header(3);
	bytes[QCOW2_AT_COMPRESSION_TYPE] = 1;
	refuses("contradicts", ERROR_CLASS_GENERIC_ERROR);

	qcow2_store64(bytes + QCOW2_AT_INCOMPATIBLE, 1 << 3);
	accepts();
	ck_assert(header.zstd);

	bytes[QCOW2_AT_COMPRESSION_TYPE] = 2;
	refuses("unknown compression type", ERROR_CLASS_NOT_SUPPORTED);

	bytes[QCOW2_AT_COMPRESSION_TYPE] = 1; /* but the header ends before it */
	qcow2_store32(bytes + QCOW2_AT_HEADER_LENGTH, 104);
	refuses("contradicts", ERROR_CLASS_GENERIC_ERROR);
}
END_TEST

/* One field of `width` bytes set to `value` makes the header refused with `words`. */
static const struct {
	size_t at;
	unsigned width;
	uint64_t value;
	const char *words;
	unsigned kind;
} wrong_fields[] = {
	{QCOW2_AT_MAGIC, 4, 0x514649fa, "not in qcow2 format", 0},
	{QCOW2_AT_CLUSTER_BITS, 4, 8, "clusters", ERROR_CLASS_NOT_SUPPORTED},
	{QCOW2_AT_CLUSTER_BITS, 4, 22, "clusters", ERROR_CLASS_NOT_SUPPORTED},
	{QCOW2_AT_CLUSTER_BITS, 4, 0xffffffff, "clusters", ERROR_CLASS_NOT_SUPPORTED},
	{QCOW2_AT_DISK_SIZE, 8, (UINT64_C(1) << 30) + 1, "too small", 0},
	{QCOW2_AT_DISK_SIZE, 8, UINT64_MAX, "too small", 0},
	{QCOW2_AT_L1_ENTRIES, 4, 1, "too small", 0},
	{QCOW2_AT_L1_ENTRIES, 4, 0xffffffff, "too large", 0},
	{QCOW2_AT_L1_ENTRIES, 4, (32 << 20) / 8, "outside the file", 0},
	{QCOW2_AT_L1_OFFSET, 8, 0, "header's cluster", 0},
	{QCOW2_AT_L1_OFFSET, 8, CLUSTER, "overlap", 0},
	{QCOW2_AT_L1_OFFSET, 8, 3 * CLUSTER + 512, "start of a cluster", 0},
	{QCOW2_AT_L1_OFFSET, 8, FILE_SIZE, "outside the file", 0},
	{QCOW2_AT_L1_OFFSET, 8, UINT64_MAX - CLUSTER + 1, "outside the file", 0},
	{QCOW2_AT_REFCOUNT_TABLE_OFFSET, 8, 0, "header's cluster", 0},
	{QCOW2_AT_REFCOUNT_TABLE_OFFSET, 8, FILE_SIZE, "outside the file", 0},
	{QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 4, 0, "no refcount table", 0},
	{QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 4, 129, "too large", 0},
	{QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 4, 3, "overlap", 0},
	{QCOW2_AT_SNAPSHOTS, 4, 1, "header's cluster", 0},
	{QCOW2_AT_SNAPSHOTS, 4, 65537, "too many", 0},
	{QCOW2_AT_REFCOUNT_ORDER, 4, 7, "refcount order", 0},
	{QCOW2_AT_HEADER_LENGTH, 4, 96, "length", 0},
	{QCOW2_AT_HEADER_LENGTH, 4, 108, "length", 0},
	{QCOW2_AT_HEADER_LENGTH, 4, CLUSTER + 8, "length", 0},
};

START_TEST(one_wrong_field_is_named)
{
	for (size_t i = 0; i < sizeof(wrong_fields) / sizeof(wrong_fields[0]); i++) {
		make_header(3);
		if (wrong_fields[i].width == 4)
			qcow2_store32(bytes + wrong_fields[i].at, (uint32_t)wrong_fields[i].value);
		else
			qcow2_store64(bytes + wrong_fields[i].at, wrong_fields[i].value);
		refuses(wrong_fields[i].words, wrong_fields[i].kind);
	}
}
END_TEST

START_TEST(backing_name_must_be_text_in_the_first_cluster)
{
	make_header(3);
	set_backing_name(64, "base");
	refuses("not in the first cluster", 0);
	make_header(3);
	set_backing_name(CLUSTER - 4, "base");
	accepts();
	qcow2_store32(bytes + QCOW2_AT_BACKING_NAME_LENGTH, 5);
	refuses("not in the first cluster", 0);
	qcow2_store64(bytes + QCOW2_AT_BACKING_NAME_OFFSET, UINT64_MAX);
	refuses("not in the first cluster", 0);
	qcow2_store64(bytes + QCOW2_AT_BACKING_NAME_OFFSET, 1024);
	qcow2_store32(bytes + QCOW2_AT_BACKING_NAME_LENGTH, 1024);
	refuses("too long", 0);
	qcow2_store32(bytes + QCOW2_AT_BACKING_NAME_LENGTH, 7);
	refuses("control characters", ERROR_CLASS_NOT_SUPPORTED);
}
END_TEST

START_TEST(names_are_text_that_can_be_shown)
{
	static const char *const wrong[] = {"b\nase", "b\033[2Jase", "b\x7f", "\xff", "b\xc3",
		"\xc0\x80",
		("\xc2\x9b"
		 "2J")};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		make_header(3);
		set_backing_name(512, wrong[i]);
		refuses("UTF-8", ERROR_CLASS_NOT_SUPPORTED);
		make_header(3);
		add_extension(
			112, QCOW2_EXTENSION_BACKING_FORMAT, wrong[i], (uint32_t)strlen(wrong[i]));
		refuses("UTF-8", ERROR_CLASS_NOT_SUPPORTED);
	}
	make_header(3);
	set_backing_name(512, "b\xc3\xa4se \xe2\x82\xac");
	accepts();
	ck_assert_str_eq(header.backing_name, "b\xc3\xa4se \xe2\x82\xac");
}
END_TEST

START_TEST(broken_extensions_are_refused)
{
	char long_format[64];

	make_header(3);
	add_extension(112, 0x12345678, "", 0);
	qcow2_store32(bytes + 116, CLUSTER);
	refuses("too long", 0);

	make_header(3);
	memset(long_format, 'x', sizeof(long_format));
	add_extension(112, QCOW2_EXTENSION_BACKING_FORMAT, long_format, QCOW2_FORMAT_MAX + 1);
	refuses("too long", 0);

	make_header(3);
	add_extension(112, QCOW2_EXTENSION_ZONE_HINT, long_format, 17);
	refuses("zone hint", 0);

	make_header(3);
	add_extension(add_extension(112, QCOW2_EXTENSION_BACKING_FORMAT, "raw", 3),
		QCOW2_EXTENSION_BACKING_FORMAT, "raw", 3);
	refuses("twice", 0);
}
END_TEST

START_TEST(every_truncation_is_refused_or_read)
{
	size_t next;

	make_header(3);
	next = add_extension(112, QCOW2_EXTENSION_BACKING_FORMAT, "qcow2", 5);
	set_backing_name(next + 8, "base.qcow2");

	for (size_t length = 0; length <= 512; length++) {
		unsigned char *exact =
			malloc(length ? length : 1); /* so that ASan sees each overrun */
		bool whole = length >= next + 8 + strlen("base.qcow2");

		memcpy(exact, bytes, length);
		ck_assert_int_eq(
			qcow2_header_parse(exact, length, FILE_SIZE, &header, &err) == 0, whole);
		free(exact);
	}
}
END_TEST

START_TEST(random_damage_never_crashes_the_parser)
{
	unsigned seed =
		getenv("SLUICE_SEED") ? (unsigned)strtoul(getenv("SLUICE_SEED"), NULL, 0) : 1;
	unsigned accepted = 0;
	unsigned char *exact = malloc(512);

	for (unsigned round = 0; round < 200000; round++) {
		make_header(rand_r(&seed) % 4 ? 3 : 2);
		qcow2_store32(bytes + QCOW2_AT_CLUSTER_BITS, 9);
		qcow2_store32(bytes + QCOW2_AT_L1_ENTRIES, 1 << 15);
		set_backing_name(add_extension(add_extension(bytes[7] == 3 ? 112 : 72,
						       QCOW2_EXTENSION_BACKING_FORMAT, "qcow2", 5),
					 QCOW2_EXTENSION_ZONE_HINT, "0123456789abcdef", 16) +
					 8,
			"base.qcow2");
		for (int flips = rand_r(&seed) % 8; flips >= 0; flips--)
			bytes[rand_r(&seed) % 200] ^= (unsigned char)(1 << rand_r(&seed) % 8);
		memcpy(exact, bytes, 512);
		if (qcow2_header_parse(exact, 512, FILE_SIZE, &header, &err) == 0) {
			accepted++;
			ck_assert_uint_le(
				header.l1_offset + header.l1_entries * UINT64_C(8), FILE_SIZE);
			ck_assert_uint_le(strlen(header.backing_name), 512);
		}
	}
	free(exact);
	ck_assert_uint_gt(accepted, 1000);
	ck_assert_uint_lt(accepted, 190000);
}
END_TEST

UNIT_MAIN("qcow2_header", plain_version_3_header_is_read,
	version_2_header_has_the_defaults_of_its_time, extensions_are_found_with_their_places,
	extensions_without_end_marker_are_read_up_to_the_name, features_are_refused_by_name,
	dirty_bit_is_no_error, compression_type_and_its_bit_must_agree, one_wrong_field_is_named,
	backing_name_must_be_text_in_the_first_cluster, names_are_text_that_can_be_shown,
	broken_extensions_are_refused, every_truncation_is_refused_or_read,
	random_damage_never_crashes_the_parser)
