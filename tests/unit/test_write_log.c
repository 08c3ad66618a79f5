/* SPDX-License-Identifier: Apache-2.0 */
/* The file that outlives the process: whose it is, and that nobody else's is taken for it. */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "imaged/write_log.h"
#include "tests/unit/folder.h"
#include "tests/unit/tiny_image.h"
#include "tests/unit/unit.h"

static struct folder folder;
static struct err err;

static struct qcow2 *open_image(const char *name, uint64_t disk_size)
{
	const struct tiny_image tiny = {
		.version = 3, .cluster_bits = 12, .disk_size = disk_size, .tables = 1};
	struct qcow2 *image;

	close(tiny_image_make(folder_name(&folder, name), &tiny));
	ck_assert_msg(qcow2_open(open(folder_name(&folder, name), O_RDWR | O_CLOEXEC), name, &image,
			      &err) == 0,
		"%s", err.text);
	return image;
}

static struct qcow2 *begin(void)
{
	folder = folder_make();
	return open_image("leaf", 16 << 20);
}

static void end(struct qcow2 *image)
{
	qcow2_free(image);
	folder_remove(&folder);
}

static struct write_log *open_log(const struct qcow2 *image, const char *boot_id, bool makes)
{
	struct write_log *log;

	ck_assert_msg(write_log_open(folder.path, image, boot_id, makes, &log, &err) == 0, "%s",
		err.text);
	return log;
}

/* Leaves a log with one slot. */
static void leave_a_slot(const struct qcow2 *image, const char *boot_id)
{
	struct write_log *log = open_log(image, boot_id, true);

	write_log_slots(log)[7] = (struct pending_slot){.cluster = 8, .entry = 1};
	write_log_free(log);
}

/* The number of the first slot's cluster in the log of this image, 0 where all are free. */
static uint64_t found(const struct qcow2 *image, const char *boot_id)
{
	struct write_log *log = open_log(image, boot_id, true);
	uint64_t cluster = 0;

	for (uint32_t i = 0; i < PENDING_SLOTS && cluster == 0; i++)
		cluster = write_log_slots(log)[i].cluster;
	write_log_free(log);
	return cluster;
}

/* "writes-DEVICE-INODE" of this image. */
static const char *name_of_log(const struct qcow2 *image)
{
	char name[64];
	struct stat status;

	ck_assert_int_eq(fstat(image->fd, &status), 0);
	snprintf(name, sizeof name, "writes-%llx-%llx", (unsigned long long)status.st_dev,
		(unsigned long long)status.st_ino);
	return folder_name(&folder, name);
}

static int refuse(const struct qcow2 *image)
{
	struct write_log *log = NULL;

	err = (struct err){0};
	ck_assert_int_eq(write_log_open(folder.path, image, "boot", true, &log, &err), -1);
	ck_assert_ptr_null(log);
	ck_assert_str_ne(err.text, "");
	return err.number;
}

START_TEST(what_is_kept_is_found_by_the_next_process_of_the_boot)
{
	struct qcow2 *image = begin();
	struct write_log *log;

	leave_a_slot(image, "boot");
	ck_assert_uint_eq(found(image, "boot"), 8);
	log = open_log(image, "boot", true);
	write_log_remove(log);
	write_log_free(log);
	ck_assert_int_eq(access(name_of_log(image), F_OK), -1);
	ck_assert_uint_eq(found(image, "boot"), 0);
	end(image);
}
END_TEST

START_TEST(a_log_that_was_made_void_holds_nothing)
{
	struct qcow2 *image = begin();
	struct write_log *log;

	leave_a_slot(image, "boot");
	log = open_log(image, "boot", true);
	write_log_void(log);
	write_log_free(log);
	ck_assert_uint_eq(found(image, "boot"), 0);
	end(image);
}
END_TEST

START_TEST(without_a_need_none_is_made)
{
	struct qcow2 *image = begin();

	ck_assert_ptr_null(open_log(image, "boot", false));
	ck_assert_int_eq(access(name_of_log(image), F_OK), -1);
	leave_a_slot(image, "boot");
	write_log_free(open_log(image, "boot", false));
	end(image);
}
END_TEST

START_TEST(a_log_of_another_boot_is_begun_anew)
{
	struct qcow2 *image = begin();

	leave_a_slot(image, "boot");
	ck_assert_uint_eq(found(image, "boot2"), 0);
	ck_assert_uint_eq(found(image, "boot"), 0);
	end(image);
}
END_TEST

START_TEST(a_log_of_another_leaf_with_the_same_number_is_begun_anew)
{
	struct qcow2 *image = begin(), *other;
	char old[128];

	leave_a_slot(image, "boot");
	snprintf(old, sizeof old, "%s", name_of_log(image));
	other = open_image("other", 16 << 20); /* born later */
	ck_assert_int_eq(rename(old, name_of_log(other)), 0);
	ck_assert_uint_eq(found(other, "boot"), 0);
	qcow2_free(other);
	end(image);
}
END_TEST

START_TEST(a_log_of_a_leaf_that_was_made_anew_in_place_is_begun_anew)
{
	struct qcow2 *image = begin();
	const struct tiny_image tiny = {
		.version = 3, .cluster_bits = 12, .disk_size = 8 << 20, .tables = 1};

	leave_a_slot(image, "boot");
	close(tiny_image_make(folder_name(&folder, "smaller"), &tiny));
	image->header.disk_size = tiny.disk_size;
	ck_assert_uint_eq(found(image, "boot"), 0);
	end(image);
}
END_TEST

START_TEST(a_log_that_was_being_begun_holds_nothing)
{
	struct qcow2 *image = begin();
	uint64_t nothing = 0;
	int fd;

	leave_a_slot(image, "boot");
	fd = open(name_of_log(image), O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite_full(fd, &nothing, 8, 0), 0);
	close(fd);
	ck_assert_uint_eq(found(image, "boot"), 0);
	end(image);
}
END_TEST

START_TEST(a_log_that_is_short_is_made_whole)
{
	struct qcow2 *image = begin();

	leave_a_slot(image, "boot");
	ck_assert_int_eq(truncate(name_of_log(image), 100), 0);
	ck_assert_uint_eq(found(image, "boot"), 0);
	ck_assert_int_eq(truncate(name_of_log(image), 0), 0);
	leave_a_slot(image, "boot");
	ck_assert_uint_eq(found(image, "boot"), 8);
	end(image);
}
END_TEST

START_TEST(without_room_it_is_refused_when_it_is_opened)
{
	const struct rlimit small = {.rlim_cur = 65536, .rlim_max = RLIM_INFINITY};
	struct qcow2 *image = begin();

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	ck_assert_int_eq(refuse(image), EFBIG);
	end(image);
}
END_TEST

START_TEST(a_symbolic_link_is_not_followed)
{
	struct qcow2 *image = begin();
	struct stat status;

	close(open(folder_name(&folder, "precious"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	ck_assert_int_eq(symlink(folder_name(&folder, "precious"), name_of_log(image)), 0);
	ck_assert_int_eq(refuse(image), ELOOP);
	ck_assert_int_eq(stat(folder_name(&folder, "precious"), &status), 0);
	ck_assert_int_eq(status.st_size, 0);
	end(image);
}
END_TEST

START_TEST(what_is_no_file_is_refused)
{
	struct qcow2 *image = begin();

	ck_assert_int_eq(mkfifo(name_of_log(image), 0600), 0);
	refuse(image);
	end(image);
}
END_TEST

START_TEST(a_file_of_another_user_is_refused)
{
	struct qcow2 *image = begin();

	if (geteuid() == 0) { /* only root can give files away */
		leave_a_slot(image, "boot");
		ck_assert_int_eq(chown(name_of_log(image), 65534, 65534), 0);
		refuse(image);
	}
	end(image);
}
END_TEST

UNIT_MAIN("write_log", what_is_kept_is_found_by_the_next_process_of_the_boot,
	a_log_that_was_made_void_holds_nothing, without_a_need_none_is_made,
	a_log_of_another_boot_is_begun_anew,
	a_log_of_another_leaf_with_the_same_number_is_begun_anew,
	a_log_of_a_leaf_that_was_made_anew_in_place_is_begun_anew,
	a_log_that_was_being_begun_holds_nothing, a_log_that_is_short_is_made_whole,
	without_room_it_is_refused_when_it_is_opened, a_symbolic_link_is_not_followed,
	what_is_no_file_is_refused, a_file_of_another_user_is_refused)
