/* SPDX-License-Identifier: Apache-2.0 */
/* Locks between open file descriptions of one file, as between processes. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/ofd_lock.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

/* One file, opened twice. */
struct pair {
	struct folder folder;
	int ours, theirs;
};

static struct pair pair_open(void)
{
	struct pair pair = {.folder = folder_make()};
	const char *path = folder_name(&pair.folder, "file");

	pair.ours = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	pair.theirs = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(pair.ours, 0);
	ck_assert_int_ge(pair.theirs, 0);
	return pair;
}

static void pair_close(struct pair *pair)
{
	if (pair->ours >= 0)
		close(pair->ours);
	if (pair->theirs >= 0)
		close(pair->theirs);
	folder_remove(&pair->folder);
}

static void lock_exclusively(int fd, uint64_t byte)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};

	ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
}

START_TEST(both_may_share_a_byte_and_each_sees_the_other)
{
	CLEANUP(pair_close) struct pair pair = pair_open();

	ck_assert_int_eq(ofd_lock_byte(pair.ours, 201), 0);
	ck_assert_int_eq(ofd_lock_byte(pair.theirs, 201), 0);

	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 201, 1, NULL), 1);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.theirs, 201, 1, NULL), 1);
}
END_TEST

START_TEST(our_own_lock_is_not_elsewhere)
{
	CLEANUP(pair_close) struct pair pair = pair_open();

	ck_assert_int_eq(ofd_lock_byte(pair.ours, 100), 0);

	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 0, 1000, NULL), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.theirs, 0, 1000, NULL), 1);
}
END_TEST

START_TEST(the_first_byte_held_is_named_whatever_the_order_of_locking)
{
	CLEANUP(pair_close) struct pair pair = pair_open();
	int third = open(folder_name(&pair.folder, "file"), O_RDWR | O_CLOEXEC);
	uint64_t byte = 0;

	ck_assert_int_eq(ofd_lock_byte(pair.theirs, 203), 0);
	ck_assert_int_eq(ofd_lock_byte(third, 101), 0);
	ck_assert_int_eq(ofd_lock_byte(pair.theirs, 150), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 100, 200, &byte), 1);
	ck_assert_uint_eq(byte, 101);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 102, 200, &byte), 1);
	ck_assert_uint_eq(byte, 150);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 151, 200, &byte), 1);
	ck_assert_uint_eq(byte, 203);

	byte = 7;
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 204, 1000, &byte), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 102, 48, &byte), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 101, 0, &byte), 0);
	ck_assert_uint_eq(byte, 7);
	close(third);
}
END_TEST

START_TEST(a_lock_that_begins_before_the_range_is_held_from_its_first_byte)
{
	CLEANUP(pair_close) struct pair pair = pair_open();
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 100};
	uint64_t byte = 0;

	ck_assert_int_eq(fcntl(pair.theirs, F_OFD_SETLK, &lock), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 150, 10, &byte), 1);

	ck_assert_uint_eq(byte, 150);
}
END_TEST

START_TEST(an_exclusive_lock_elsewhere_is_eagain)
{
	CLEANUP(pair_close) struct pair pair = pair_open();

	lock_exclusively(pair.theirs, 101);

	ck_assert_int_eq(ofd_lock_byte(pair.ours, 101), -1);
	ck_assert_int_eq(errno, EAGAIN);
	ck_assert_int_eq(ofd_lock_byte(pair.ours, 100), 0);
}
END_TEST

START_TEST(a_lock_ends_when_it_is_given_up_and_when_its_description_is_closed)
{
	CLEANUP(pair_close) struct pair pair = pair_open();

	ck_assert_int_eq(ofd_lock_byte(pair.theirs, 1), 0);
	ck_assert_int_eq(ofd_lock_byte(pair.theirs, 2), 0);
	ck_assert_int_eq(ofd_unlock_byte(pair.theirs, 1), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 1, 1, NULL), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 2, 1, NULL), 1);

	int copy = dup(pair.theirs);
	close(pair.theirs);
	pair.theirs = -1;
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 2, 1, NULL), 1);
	close(copy);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 2, 1, NULL), 0);
}
END_TEST

START_TEST(bytes_above_2_to_the_40_are_fine_and_beyond_any_file_refused)
{
	CLEANUP(pair_close) struct pair pair = pair_open();
	uint64_t high = (UINT64_C(1) << 40) + 12345;

	ck_assert_int_eq(ofd_lock_byte(pair.ours, high), 0);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.theirs, high, 1, NULL), 1);

	ck_assert_int_eq(ofd_lock_byte(pair.ours, UINT64_MAX), -1);
	ck_assert_int_eq(errno, EOVERFLOW);
	ck_assert_int_eq(ofd_lock_held_elsewhere(pair.ours, 1, UINT64_MAX, NULL), -1);
	ck_assert_int_eq(errno, EOVERFLOW);
}
END_TEST

UNIT_MAIN("ofd_lock", both_may_share_a_byte_and_each_sees_the_other, our_own_lock_is_not_elsewhere,
	the_first_byte_held_is_named_whatever_the_order_of_locking,
	a_lock_that_begins_before_the_range_is_held_from_its_first_byte,
	an_exclusive_lock_elsewhere_is_eagain,
	a_lock_ends_when_it_is_given_up_and_when_its_description_is_closed,
	bytes_above_2_to_the_40_are_fine_and_beyond_any_file_refused)
