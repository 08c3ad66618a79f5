/* SPDX-License-Identifier: Apache-2.0 */
/* What can be opened beneath a root, and every way out of it that is refused. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/roots.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

DEFINE_CLEANUP(roots, roots_free)

/*
 * FOLDER/inside/            the root
 *               file        "in"
 *               deep/file   "deep"
 * FOLDER/outside/file       "out"
 * FOLDER/inside2/file       "out": begins like the root
 */
struct tree {
	struct folder folder;
	struct roots *roots;
};

static void put_file(const struct folder *folder, const char *name, const char *text)
{
	int fd = open(folder_name(folder, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static struct tree tree_make(void)
{
	struct tree tree = {.folder = folder_make(), .roots = roots_new()};
	struct err err;

	mkdir(folder_name(&tree.folder, "inside"), 0700);
	mkdir(folder_name(&tree.folder, "inside/deep"), 0700);
	mkdir(folder_name(&tree.folder, "inside2"), 0700);
	mkdir(folder_name(&tree.folder, "outside"), 0700);
	put_file(&tree.folder, "inside/file", "in");
	put_file(&tree.folder, "inside/deep/file", "deep");
	put_file(&tree.folder, "inside2/file", "out");
	put_file(&tree.folder, "outside/file", "out");
	ck_assert_msg(roots_add(tree.roots, folder_name(&tree.folder, "inside"), &err) == 0, "%s",
		err.text);
	return tree;
}

static void tree_remove(struct tree *tree)
{
	roots_free(tree->roots);
	folder_remove(&tree->folder);
}

static void put_link(const struct tree *tree, const char *target, const char *name)
{
	ck_assert_int_eq(symlink(target, folder_name(&tree->folder, name)), 0);
}

static void assert_reads(const struct tree *tree, const char *path, const char *text)
{
	struct err err;
	char bytes[16] = "";
	CLEANUP_CLOSE int fd = roots_open(tree->roots, path, O_RDONLY, &err);

	ck_assert_msg(fd >= 0, "%s", err.text);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	ck_assert_int_ge(read(fd, bytes, sizeof bytes - 1), 0);
	ck_assert_str_eq(bytes, text);
}

static void assert_refused(const struct tree *tree, const char *path, const char *words)
{
	struct err err = {.text = ""};
	int fd = roots_open(tree->roots, path, O_RDONLY, &err);

	ck_assert_msg(fd == -1, "%s was opened", path);
	ck_assert_msg(strstr(err.text, words) != NULL, "%s", err.text);
	ck_assert_msg(strncmp(err.text, path, strlen(path)) == 0, "%s", err.text);
}

START_TEST(a_file_beneath_the_root_is_opened)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();

	assert_reads(&tree, folder_name(&tree.folder, "inside/file"), "in");
	assert_reads(&tree, folder_name(&tree.folder, "inside/deep/file"), "deep");
	assert_reads(&tree, folder_name(&tree.folder, "inside//deep/../deep/./file"), "deep");
	assert_reads(&tree, folder_name(&tree.folder, "outside/../inside/file"), "in");
}
END_TEST

START_TEST(the_callers_flags_are_used)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	struct err err;
	CLEANUP_CLOSE int fd =
		roots_open(tree.roots, folder_name(&tree.folder, "inside/file"), O_RDWR, &err);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
	ck_assert_int_eq(pwrite(fd, "IN", 2, 0), 2);
	assert_reads(&tree, folder_name(&tree.folder, "inside/file"), "IN");
}
END_TEST

START_TEST(a_file_outside_is_refused_and_the_option_named)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	char words[200];

	snprintf(words, sizeof words, " is outside every --root (--root %s/outside would allow it)",
		tree.folder.path);
	assert_refused(&tree, folder_name(&tree.folder, "outside/file"), words);
	assert_refused(&tree, folder_name(&tree.folder, "inside/../outside/file"), words);
	assert_refused(&tree, folder_name(&tree.folder, "inside2/file"), "is outside every --root");
	assert_refused(&tree, "/etc/passwd", "is outside every --root");
}
END_TEST

START_TEST(a_file_that_is_not_there_is_told_apart_only_inside)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();

	assert_refused(
		&tree, folder_name(&tree.folder, "inside/none"), "No such file or directory");
	assert_refused(
		&tree, folder_name(&tree.folder, "inside/none/none"), "No such file or directory");
	assert_refused(&tree, folder_name(&tree.folder, "inside/file/none"), "Not a directory");
	assert_refused(&tree, folder_name(&tree.folder, "outside/none"), "is outside every --root");
	assert_refused(
		&tree, folder_name(&tree.folder, "outside/none/none"), "is outside every --root");
	assert_refused(&tree, "", "is outside every --root");
}
END_TEST

START_TEST(links_that_stay_beneath_work)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	char absolute[200];

	snprintf(absolute, sizeof absolute, "%s", folder_name(&tree.folder, "inside/deep/file"));
	put_link(&tree, "deep/file", "inside/relative");
	put_link(&tree, "../file", "inside/deep/up");
	put_link(&tree, "deep", "inside/folder");
	put_link(&tree, absolute, "inside/absolute");
	put_link(&tree, "absolute", "inside/link-to-link");

	assert_reads(&tree, folder_name(&tree.folder, "inside/relative"), "deep");
	assert_reads(&tree, folder_name(&tree.folder, "inside/deep/up"), "in");
	assert_reads(&tree, folder_name(&tree.folder, "inside/folder/file"), "deep");
	assert_reads(&tree, folder_name(&tree.folder, "inside/absolute"), "deep");
	assert_reads(&tree, folder_name(&tree.folder, "inside/link-to-link"), "deep");
}
END_TEST

START_TEST(links_that_lead_out_are_refused)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();

	put_link(&tree, "../outside/file", "inside/relative");
	put_link(&tree, "/etc/passwd", "inside/absolute");
	put_link(&tree, "../outside", "inside/folder");
	put_link(&tree, "/proc/self/root/etc/passwd", "inside/magic");
	put_link(&tree, "relative", "inside/link-to-link");
	put_link(&tree, "loop", "inside/loop");

	assert_refused(
		&tree, folder_name(&tree.folder, "inside/relative"), "is outside every --root");
	assert_refused(
		&tree, folder_name(&tree.folder, "inside/absolute"), "is outside every --root");
	assert_refused(
		&tree, folder_name(&tree.folder, "inside/folder/file"), "is outside every --root");
	assert_refused(&tree, folder_name(&tree.folder, "inside/magic"), "is outside every --root");
	assert_refused(
		&tree, folder_name(&tree.folder, "inside/link-to-link"), "is outside every --root");
	assert_refused(&tree, folder_name(&tree.folder, "inside/loop"),
		"Too many levels of symbolic links");
}
END_TEST

START_TEST(a_link_from_outside_to_inside_is_fine)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();

	put_link(&tree, "../inside/file", "outside/link");

	assert_reads(&tree, folder_name(&tree.folder, "outside/link"), "in");
}
END_TEST

START_TEST(only_files_and_block_devices_are_opened_and_nothing_is_waited_for)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	ck_assert_int_eq(mkfifo(folder_name(&tree.folder, "inside/fifo"), 0600), 0);
	snprintf(address.sun_path, sizeof address.sun_path, "%s/inside/socket", tree.folder.path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);

	assert_refused(&tree, folder_name(&tree.folder, "inside/fifo"),
		"is neither a file nor a block device");
	assert_refused(&tree, folder_name(&tree.folder, "inside/socket"),
		"is neither a file nor a block device");
	assert_refused(&tree, folder_name(&tree.folder, "inside/deep"), "is a folder");
	assert_refused(&tree, folder_name(&tree.folder, "inside"), "is a folder");
	close(fd);
}
END_TEST

START_TEST(a_device_node_is_not_opened)
{
	CLEANUP(roots_cleanup) struct roots *roots = roots_new();
	struct err err;

	ck_assert_int_eq(roots_add(roots, "/dev", &err), 0);
	ck_assert_int_eq(roots_open(roots, "/dev/null", O_RDONLY, &err), -1);

	ck_assert_ptr_nonnull(strstr(err.text, "is neither a file nor a block device"));
}
END_TEST

START_TEST(several_roots_and_the_root_of_all_work)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	struct err err;

	ck_assert_int_eq(roots_add(tree.roots, folder_name(&tree.folder, "outside/"), &err), 0);
	assert_reads(&tree, folder_name(&tree.folder, "outside/file"), "out");
	assert_refused(&tree, folder_name(&tree.folder, "inside2/file"), "is outside every --root");
	ck_assert_int_eq(roots_add(tree.roots, "/", &err), 0);
	assert_reads(&tree, folder_name(&tree.folder, "inside2/file"), "out");
}
END_TEST

START_TEST(a_root_must_be_a_folder_and_there_is_a_limit)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	struct err err;

	ck_assert_int_eq(roots_add(tree.roots, folder_name(&tree.folder, "inside/file"), &err), -1);
	ck_assert_int_eq(err.number, ENOTDIR);
	ck_assert_int_eq(roots_add(tree.roots, folder_name(&tree.folder, "none"), &err), -1);
	ck_assert_int_eq(err.number, ENOENT);
	for (int i = 1; i < ROOTS_MAX; i++)
		ck_assert_int_eq(
			roots_add(tree.roots, folder_name(&tree.folder, "inside"), &err), 0);
	ck_assert_int_eq(roots_add(tree.roots, folder_name(&tree.folder, "inside"), &err), -1);
}
END_TEST

START_TEST(no_root_allows_nothing)
{
	CLEANUP(roots_cleanup) struct roots *roots = roots_new();
	struct err err;

	ck_assert_int_eq(roots_open(roots, "/etc/passwd", O_RDONLY, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "is outside every --root"));
}
END_TEST

struct race {
	const struct tree *tree;
	atomic_uint turns; /* that are over */
	atomic_bool is_over;
};

/* Makes inside/swap a folder with a good file and a link to the outside, in turns. */
static void *swap_folders(void *argument)
{
	struct race *race = argument;
	char folder[200], swap[200], link[200];

	snprintf(folder, sizeof folder, "%s/inside/real", race->tree->folder.path);
	snprintf(swap, sizeof swap, "%s/inside/swap", race->tree->folder.path);
	snprintf(link, sizeof link, "%s/inside/link", race->tree->folder.path);
	while (!atomic_load(&race->is_over)) {
		rename(folder, swap);
		rename(swap, folder);
		rename(link, swap);
		rename(swap, link);
		atomic_fetch_add(&race->turns, 1);
	}
	return NULL;
}

START_TEST(a_link_put_there_between_looking_and_opening_leads_nowhere)
{
	CLEANUP(tree_remove) struct tree tree = tree_make();
	struct race race = {.tree = &tree};
	pthread_t thread;
	unsigned opened = 0;

	mkdir(folder_name(&tree.folder, "inside/real"), 0700);
	put_file(&tree.folder, "inside/real/file", "in");
	put_link(&tree, "../outside", "inside/link");
	const char *path = folder_name(&tree.folder, "inside/swap/file");
	ck_assert_int_eq(pthread_create(&thread, NULL, swap_folders, &race), 0);

	/* Until both were there: the other thread may come late, and a rename wait for the disk. */
	for (int i = 0; i < 30000 || opened == 0 || atomic_load(&race.turns) < 2; i++) {
		char bytes[16] = "";
		CLEANUP_CLOSE int fd = roots_open(tree.roots, path, O_RDONLY, NULL);
		if (fd < 0)
			continue;
		ck_assert_int_ge(read(fd, bytes, sizeof bytes - 1), 0);
		ck_assert_str_eq(bytes, "in");
		opened++;
	}
	atomic_store(&race.is_over, true);
	pthread_join(thread, NULL);
}
END_TEST

UNIT_MAIN("roots", a_file_beneath_the_root_is_opened, the_callers_flags_are_used,
	a_file_outside_is_refused_and_the_option_named,
	a_file_that_is_not_there_is_told_apart_only_inside, links_that_stay_beneath_work,
	links_that_lead_out_are_refused, a_link_from_outside_to_inside_is_fine,
	only_files_and_block_devices_are_opened_and_nothing_is_waited_for,
	a_device_node_is_not_opened, several_roots_and_the_root_of_all_work,
	a_root_must_be_a_folder_and_there_is_a_limit, no_root_allows_nothing,
	a_link_put_there_between_looking_and_opening_leads_nowhere)
