/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes, and the file's end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/io.h"
#include "tests/unit/unit.h"

static int make_file(const char *text)
{
	int fd = memfd_create("io", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite_full(fd, text, strlen(text), 0), 0);
	return fd;
}

START_TEST(what_was_written_is_read)
{
	int fd = make_file("0123456789");
	char bytes[4];

	ck_assert_int_eq(pwrite_full(fd, "xy", 2, 5), 0);
	ck_assert_int_eq(pread_full(fd, bytes, 4, 4), 0);

	ck_assert_mem_eq(bytes, "4xy7", 4);
	close(fd);
}
END_TEST

START_TEST(a_file_that_ends_too_early_is_no_data)
{
	int fd = make_file("0123456789");
	char bytes[4];

	ck_assert_int_eq(pread_full(fd, bytes, 4, 7), -1);

	ck_assert_int_eq(errno, ENODATA);
	close(fd);
}
END_TEST

START_TEST(reading_up_to_the_end_tells_how_much)
{
	int fd = make_file("0123456789");
	char bytes[4];

	ck_assert_int_eq(pread_up_to(fd, bytes, 4, 7), 3);
	ck_assert_mem_eq(bytes, "789", 3);
	ck_assert_int_eq(pread_up_to(fd, bytes, 4, 10), 0);
	ck_assert_int_eq(pread_up_to(fd, bytes, 4, 1000), 0);
	ck_assert_int_eq(pread_up_to(fd, bytes, 4, 0), 4);
	close(fd);
}
END_TEST

START_TEST(what_no_offset_can_name_is_refused)
{
	int fd = make_file("0123456789");
	char bytes[4];

	ck_assert_int_eq(pread_full(fd, bytes, 4, UINT64_MAX), -1);
	ck_assert_int_eq(errno, EOVERFLOW);
	ck_assert_int_eq(pread_up_to(fd, bytes, 4, (uint64_t)INT64_MAX - 3), -1);
	ck_assert_int_eq(errno, EOVERFLOW);
	ck_assert_int_eq(pwrite_full(fd, bytes, 4, UINT64_MAX - 1), -1);
	ck_assert_int_eq(errno, EOVERFLOW);
	close(fd);
}
END_TEST

START_TEST(a_short_write_is_gone_on_with_until_the_system_says_why)
{
	char path[] = "/tmp/sluice-unit-XXXXXX";
	int fd = mkstemp(path);
	struct rlimit limit = {.rlim_cur = 6000, .rlim_max = RLIM_INFINITY};
	static const char bytes[10000];

	ck_assert_int_ge(fd, 0);
	unlink(path);
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	int rc = pwrite_full(fd, bytes, sizeof bytes, 0);
	int number = errno;

	ck_assert_int_eq(rc, -1);
	ck_assert_int_eq(number, EFBIG);
	ck_assert_int_eq(lseek(fd, 0, SEEK_END), 6000);
	close(fd);
}
END_TEST

START_TEST(a_bad_descriptor_is_an_error)
{
	char bytes[4] = "";

	ck_assert_int_eq(pread_full(-1, bytes, 4, 0), -1);
	ck_assert_int_eq(errno, EBADF);
	ck_assert_int_eq(pwrite_full(-1, bytes, 4, 0), -1);
	ck_assert_int_eq(errno, EBADF);
}
END_TEST

UNIT_MAIN("io", what_was_written_is_read, a_file_that_ends_too_early_is_no_data,
	reading_up_to_the_end_tells_how_much, what_no_offset_can_name_is_refused,
	a_short_write_is_gone_on_with_until_the_system_says_why, a_bad_descriptor_is_an_error)
