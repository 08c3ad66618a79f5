/* SPDX-License-Identifier: Apache-2.0 */
/* Headers with another backing file: only the first sector and the new name differ, whatever the header looks like. */
#include <stdlib.h>
#include <string.h>

#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "tests/unit/unit.h"

#define CLUSTER 4096u

static unsigned char bytes[CLUSTER];
static struct qcow2_header header;
static struct err err;

static size_t add_extension(size_t at, uint32_t magic, const char *content, uint32_t length)
{
	qcow2_store32(bytes + at, magic);
	qcow2_store32(bytes + at + 4, length);
	memcpy(bytes + at + 8, content, length);
	return at + 8 + (length + 7) / 8 * 8;
}

/* A header over "base" of `format` (none if empty), with `names` bytes of feature names. */
static void make(const char *format, uint32_t names)
{
	static const char zeroes[CLUSTER];
	size_t at = 112;

	memset(bytes, 0, sizeof(bytes));
	qcow2_store32(bytes + QCOW2_AT_MAGIC, QCOW2_MAGIC);
	qcow2_store32(bytes + QCOW2_AT_VERSION, 3);
	qcow2_store32(bytes + QCOW2_AT_CLUSTER_BITS, 12);
	qcow2_store64(bytes + QCOW2_AT_DISK_SIZE, 1 << 20);
	qcow2_store32(bytes + QCOW2_AT_L1_ENTRIES, 1);
	qcow2_store64(bytes + QCOW2_AT_L1_OFFSET, 3 * CLUSTER);
	qcow2_store64(bytes + QCOW2_AT_REFCOUNT_TABLE_OFFSET, CLUSTER);
	qcow2_store32(bytes + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, 1);
	qcow2_store32(bytes + QCOW2_AT_REFCOUNT_ORDER, 4);
	qcow2_store32(bytes + QCOW2_AT_HEADER_LENGTH, 112);
	if (format[0])
		at = add_extension(
			at, QCOW2_EXTENSION_BACKING_FORMAT, format, (uint32_t)strlen(format));
	if (names)
		at = add_extension(at, QCOW2_EXTENSION_FEATURE_NAMES, zeroes, names);
	qcow2_store64(bytes + QCOW2_AT_BACKING_NAME_OFFSET, at + 8);
	qcow2_store32(bytes + QCOW2_AT_BACKING_NAME_LENGTH, 4);
	memcpy(bytes + at + 8, "base", 4);
	ck_assert_int_eq(qcow2_header_parse(bytes, CLUSTER, 1 << 20, &header, &err), 0);
}

/* Switches and checks what must hold always; takes the result over. */
static int change(const char *name, const char *format)
{
	unsigned char *planned;
	struct qcow2_header after;
	size_t at, length = strlen(name), others = 0;

	if (head_plan_backing(bytes, CLUSTER, &header, name, format, &planned, &at, &err) < 0)
		return -1;
	for (size_t i = HEAD_SECTOR; i < CLUSTER; i++)
		others += planned[i] != bytes[i] && (i < at || i >= at + length);
	ck_assert_uint_eq(others, 0);
	ck_assert_int_eq(qcow2_header_parse(planned, CLUSTER, 1 << 20, &after, &err), 0);
	ck_assert_str_eq(after.backing_name, name);
	ck_assert_str_eq(after.backing_format, name[0] ? format : "");
	ck_assert_int_eq(after.has_unknown_extensions, header.has_unknown_extensions);
	if (header.backing_name_offset && length && strcmp(name, header.backing_name) != 0) {
		size_t old = header.backing_name_offset, old_length = strlen(header.backing_name);

		ck_assert(at >= old + old_length || at + length <= old);
	}
	memcpy(bytes, planned, CLUSTER);
	header = after;
	free(planned);
	return 0;
}

START_TEST(a_name_goes_beside_the_old_one)
{
	make("qcow2", 384);
	ck_assert_int_eq(change("another", "qcow2"), 0);
	ck_assert_int_eq(change("a much longer name than any of these was before", "raw"), 0);
	ck_assert_int_eq(change("base", "qcow2"), 0);
}
END_TEST

START_TEST(no_backing_file_leaves_no_format)
{
	make("qcow2", 384);
	ck_assert_int_eq(change("", ""), 0);
	ck_assert_uint_eq(header.backing_format_offset, 0);
	ck_assert_int_eq(change("base", "raw"), 0);
	ck_assert_int_eq(change("", ""), 0);
	make("qcow2", 0);
	ck_assert_int_eq(change("", ""), 0);
	ck_assert_uint_eq(header.extensions_end, 112);
}
END_TEST

START_TEST(a_format_that_was_missing_fits_only_where_all_extensions_are_in_the_first_sector)
{
	make("", 336);
	ck_assert_int_eq(change("base", "qcow2"), 0);
	make("", 384);
	ck_assert_int_eq(change("base", "qcow2"), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "no room"));
}
END_TEST

START_TEST(a_name_without_room_is_refused)
{
	static char name[QCOW2_NAME_MAX + 1];

	make("raw", 0);
	memset(name, 'x', QCOW2_NAME_MAX);
	ck_assert_int_eq(change(name, "raw"), 0);
	memset(name, 'y', QCOW2_NAME_MAX);
	ck_assert_int_eq(change(name, "raw"), 0);
	memset(name, 'z', QCOW2_NAME_MAX);
	ck_assert_int_eq(change(name, "raw"), 0);
	make("raw", 3600);
	ck_assert_int_eq(change(name, "raw"), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "no room"));
}
END_TEST

START_TEST(random_changes_to_random_headers_keep_the_rules)
{
	static const char *const formats[] = {"raw", "qcow2", "a-longer-format"};
	uint64_t random = 3;
	int done = 0;

	for (int round = 0; round < 2000; round++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		make(random >> 40 & 1 ? formats[(random >> 41) % 3] : "",
			(uint32_t)((random >> 50) % 12 * 48));
		for (int i = 0; i < 8; i++) {
			char name[200];
			size_t length;

			random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
			length = (random >> 33) % sizeof(name);
			memset(name, 'a' + i, sizeof(name));
			name[length] = '\0';
			done += change(name, formats[(random >> 45) % 3]) == 0;
		}
	}
	ck_assert_int_gt(done, 2000);
}
END_TEST

START_TEST(damaged_headers_end_nothing)
{
	uint64_t random = 5;

	for (int round = 0; round < 100000; round++) {
		unsigned char *planned;
		size_t at;

		make(round & 1 ? "raw" : "", 384);
		for (int i = 0; i < 4; i++) {
			random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
			bytes[(random >> 33) % 640] = (unsigned char)(random >> 20);
		}
		if (qcow2_header_parse(bytes, CLUSTER, 1 << 20, &header, &err) < 0)
			continue;
		if (head_plan_backing(
			    bytes, CLUSTER, &header, "other", "qcow2", &planned, &at, &err) == 0)
			free(planned);
	}
}
END_TEST

START_TEST(windows_are_joined_closest_first)
{
	struct zone_window windows[] = {
		{900, 10}, {100, 50}, {150, 50}, {220, 10}, {500, 100}, {520, 10}};

	ck_assert_uint_eq(zone_windows_join(windows, 6, 3), 3);
	ck_assert_uint_eq(windows[0].offset, 100);
	ck_assert_uint_eq(windows[0].length, 130);
	ck_assert_uint_eq(windows[1].offset, 500);
	ck_assert_uint_eq(windows[1].length, 100);
	ck_assert_uint_eq(windows[2].offset, 900);
}
END_TEST

UNIT_MAIN("qcow2_switch", a_name_goes_beside_the_old_one, no_backing_file_leaves_no_format,
	a_format_that_was_missing_fits_only_where_all_extensions_are_in_the_first_sector,
	a_name_without_room_is_refused, random_changes_to_random_headers_keep_the_rules,
	damaged_headers_end_nothing, windows_are_joined_closest_first)
