/* SPDX-License-Identifier: Apache-2.0 */
/* Who refuses whom, by open file descriptions of one process.  (QEMU's own programs: tests/interop/file_locks.py.) */
#include <fcntl.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/ofd_lock.h"
#include "imaged/file_locks.h"
#include "schemas/errors.gen.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

static struct err err;

static int open_file(const struct folder *folder)
{
	int fd = open(folder_name(folder, "image"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static void expect_bytes(int observer, const uint64_t *bytes, size_t count)
{
	for (uint64_t byte = 0; byte < 300; byte++) {
		int wanted = 0;

		for (size_t i = 0; i < count; i++)
			wanted |= bytes[i] == byte;
		ck_assert_int_eq(ofd_lock_held_elsewhere(observer, byte, 1, NULL), wanted);
	}
}

START_TEST(writer_and_reader_hold_exactly_the_bytes_of_their_kind)
{
	static const uint64_t writer[] = {100, 101, 103, 201, 203}, reader[] = {100, 201, 203};
	CLEANUP(folder_remove) struct folder folder = folder_make();
	CLEANUP_CLOSE int observer = open_file(&folder);
	int fd = open_file(&folder);

	ck_assert_int_eq(file_lock_writer(fd, "image", &err), 0);
	expect_bytes(observer, writer, 5);
	close(fd);
	expect_bytes(observer, NULL, 0);

	fd = open_file(&folder);
	ck_assert_int_eq(file_lock_reader(fd, "image", &err), 0);
	expect_bytes(observer, reader, 3);
	close(fd);
}
END_TEST

START_TEST(refused_side_holds_nothing_and_names_the_file)
{
	static const uint64_t writer[] = {100, 101, 103, 201, 203};
	CLEANUP(folder_remove) struct folder folder = folder_make();
	CLEANUP_CLOSE int observer = open_file(&folder);
	CLEANUP_CLOSE int first = open_file(&folder), second = open_file(&folder);

	ck_assert_int_eq(file_lock_writer(first, "image", &err), 0);
	ck_assert_int_eq(file_lock_writer(second, "/some/image", &err), -1);
	ck_assert_uint_eq(err.kind, ERROR_CLASS_DEVICE_IN_USE);
	ck_assert_ptr_nonnull(strstr(err.text, "Failed to get \"write\" lock on /some/image"));
	ck_assert_int_eq(file_lock_reader(second, "/some/image", &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "Failed to get \"read\" lock"));

	close(first);
	first = -1;
	ck_assert_int_eq(file_lock_writer(second, "image", &err), 0);
	expect_bytes(observer, writer, 5);
}
END_TEST

START_TEST(readers_share_and_keep_a_writer_out)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	CLEANUP_CLOSE int one = open_file(&folder), other = open_file(&folder);
	CLEANUP_CLOSE int writer = open_file(&folder);

	ck_assert_int_eq(file_lock_reader(one, "image", &err), 0);
	ck_assert_int_eq(file_lock_reader(other, "image", &err), 0);
	ck_assert_int_eq(file_lock_writer(writer, "image", &err), -1);
	ck_assert_uint_eq(err.kind, ERROR_CLASS_DEVICE_IN_USE);
}
END_TEST

/* A stranger's byte, and whether a writer and a reader of ours stand it. */
START_TEST(each_byte_of_others_counts_for_whom_it_concerns)
{
	static const struct {
		uint64_t byte;
		int writer, reader;
	} others[] = {
		{100, 0, 0},   /* reads */
		{101, -1, -1}, /* writes */
		{102, 0, 0},   /* writes what is there already */
		{103, -1, -1}, /* resizes */
		{200, -1, -1}, /* nobody may read */
		{201, 0, 0},   /* nobody else may write: a worker */
		{203, -1, 0},  /* nobody may resize: a reader */
		{(UINT64_C(1) << 40) + 17, 0, 0},
	};
	CLEANUP(folder_remove) struct folder folder = folder_make();

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		CLEANUP_CLOSE int stranger = open_file(&folder);
		CLEANUP_CLOSE int writer = open_file(&folder);
		CLEANUP_CLOSE int reader = -1;

		ck_assert_int_eq(ofd_lock_byte(stranger, others[i].byte), 0);
		ck_assert_int_eq(file_lock_writer(writer, "image", &err), others[i].writer);
		close(writer);
		writer = -1;
		reader = open_file(&folder);
		ck_assert_int_eq(file_lock_reader(reader, "image", &err), others[i].reader);
	}
}
END_TEST

UNIT_MAIN("file_locks", writer_and_reader_hold_exactly_the_bytes_of_their_kind,
	refused_side_holds_nothing_and_names_the_file, readers_share_and_keep_a_writer_out,
	each_byte_of_others_counts_for_whom_it_concerns)
