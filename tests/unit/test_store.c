/* SPDX-License-Identifier: Apache-2.0 */
/* The store on LMDB: what was committed is there, whoever dies; it grows; it says when there is no room. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/store.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/unit.h"

START_TEST(what_was_put_is_there_after_the_store_is_opened_again)
{
	make_folder();
	struct store *store = open_store();
	apply_put(store, STORE_JOBS, "a", "first");
	apply_put(store, STORE_JOBS, "b", "second");
	apply_put(store, STORE_DEVICES, "a", "other table");
	apply_put(store, STORE_JOBS, "a", "changed");
	store_close(store);

	store = open_store();

	ck_assert_uint_eq(count_records(store, STORE_JOBS), 2);
	ck_assert(has_record(store, STORE_JOBS, "a", "changed"));
	ck_assert(has_record(store, STORE_JOBS, "b", "second"));
	ck_assert(has_record(store, STORE_DEVICES, "a", "other table"));
	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(a_prefix_deletes_its_records_and_no_others)
{
	make_folder();
	struct store *store = open_store();
	apply_put(store, STORE_MAP_PAGES, "job0", "kept");
	apply_put(store, STORE_MAP_PAGES, "job1", "gone");
	apply_put(store, STORE_MAP_PAGES, "job1page1", "gone");
	apply_put(store, STORE_MAP_PAGES, "job1page2", "gone");
	apply_put(store, STORE_MAP_PAGES, "job2", "kept");
	apply_put(store, STORE_JOBS, "job1", "kept");
	struct store_batch *batch = store_batch_new();
	add_change(batch, EFFECT_STORE_DELETE_PREFIX, STORE_MAP_PAGES, "job1", "");
	add_change(batch, EFFECT_STORE_DELETE, STORE_MAP_PAGES, "never was", "");

	apply_and_free(store, batch);

	ck_assert_uint_eq(count_records(store, STORE_MAP_PAGES), 2);
	ck_assert(has_record(store, STORE_MAP_PAGES, "job0", "kept"));
	ck_assert(has_record(store, STORE_MAP_PAGES, "job2", "kept"));
	ck_assert(has_record(store, STORE_JOBS, "job1", "kept"));
	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(a_view_walks_in_the_order_of_keys_and_does_not_see_later_changes)
{
	make_folder();
	struct store *store = open_store();
	apply_put(store, STORE_EVENTS, "2", "b");
	apply_put(store, STORE_EVENTS, "1", "a");
	struct store_view *view;
	struct store_record record;
	struct err err;
	ck_assert_int_eq(store_view_open(store, STORE_EVENTS, &view, &err), 0);

	apply_put(store, STORE_EVENTS, "3", "c");

	ck_assert_int_eq(store_view_last(view, &record, &err), 1);
	ck_assert_mem_eq(record.key, "2", 1);
	ck_assert_int_eq(store_view_seek(view, "", 0, &record, &err), 1);
	ck_assert_mem_eq(record.key, "1", 1);
	ck_assert_int_eq(store_view_next(view, &record, &err), 1);
	ck_assert_mem_eq(record.bytes, "b", 1);
	ck_assert_int_eq(store_view_next(view, &record, &err), 0);
	ck_assert_int_eq(store_view_seek(view, "15", 2, &record, &err), 1);
	ck_assert_mem_eq(record.key, "2", 1);
	ck_assert_int_eq(store_view_seek(view, "25", 2, &record, &err), 0);
	store_view_close(view);
	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(a_second_opening_is_refused)
{
	make_folder();
	struct store *store = open_store();
	struct store *second = NULL;
	struct err err;

	int r = store_open(&(struct store_options){.folder = folder}, &second, &err);

	ck_assert_int_eq(r, -1);
	ck_assert_ptr_nonnull(strstr(err.text, "is open already"));
	store_close(store);
	store = open_store();
	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(a_foreign_file_is_refused)
{
	make_folder();
	char path[300];
	char rubbish[8192];
	struct store *store = NULL;
	struct err err;
	snprintf(path, sizeof(path), "%s/data.mdb", folder);
	memset(rubbish, 'x', sizeof(rubbish));
	FILE *file = fopen(path, "w");
	ck_assert_uint_eq(fwrite(rubbish, 1, sizeof(rubbish), file), sizeof(rubbish));
	fclose(file);

	int r = store_open(&(struct store_options){.folder = folder}, &store, &err);

	ck_assert_int_eq(r, -1);
	ck_assert_ptr_nonnull(strstr(err.text, folder));
	remove_folder();
}
END_TEST

START_TEST(no_descriptor_of_the_store_survives_an_exec)
{
	make_folder();
	struct store *store = open_store();

	for (int fd = 3; fd < 64; fd++) {
		char path[64];
		char target[400];
		ssize_t length;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		length = readlink(path, target, sizeof(target) - 1);
		if (length < 0)
			continue;
		target[length] = 0;
		if (strstr(target, folder))
			ck_assert_msg(fcntl(fd, F_GETFD) & FD_CLOEXEC, "%s", target);
	}
	store_close(store);
	remove_folder();
}
END_TEST

/* ---- growth and room */

#define RECORD_BYTES 4000

static int put_large_ones(struct store *store, unsigned first, unsigned count, struct err *err)
{
	struct store_batch *batch = store_batch_new();
	int r;

	for (unsigned number = first; number < first + count; number++) {
		char key[32];
		char text[RECORD_BYTES];

		memset(text, 'r', sizeof(text));
		text[sizeof(text) - 1] = 0;
		snprintf(key, sizeof(key), "%08u", number);
		add_change(batch, EFFECT_STORE_PUT, STORE_JOBS, key, text);
	}
	r = store_apply(store, batch, err);
	store_batch_free(batch);
	return r;
}

static int put_large(struct store *store, unsigned number, struct err *err)
{
	return put_large_ones(store, number, 1, err);
}

START_TEST(the_map_grows_while_it_is_written)
{
	make_folder();
	struct store *store = open_store_sized(1 << 20, 256 << 20);
	struct err err;

	for (unsigned i = 0; i < 3000; i += 30)
		ck_assert_int_eq(put_large_ones(store, i, 30, &err), STORE_DONE);

	ck_assert_uint_gt(store_map_bytes(store), 3000 * RECORD_BYTES);
	ck_assert_uint_eq(count_records(store, STORE_JOBS), 3000);
	store_close(store);
	store = open_store();
	ck_assert_uint_eq(count_records(store, STORE_JOBS), 3000);
	store_close(store);
	remove_folder();
}
END_TEST

static void *read_again_and_again(void *argument)
{
	struct store *store = argument;

	for (int i = 0; i < 400; i++) {
		struct store_view *view;
		struct store_record record;
		struct err err;

		ck_assert_int_eq(store_view_open(store, STORE_JOBS, &view, &err), 0);
		for (int r = store_view_seek(view, "", 0, &record, &err); r == 1;
			r = store_view_next(view, &record, &err))
			ck_assert_int_eq(record.bytes[RECORD_BYTES - 2], 'r');
		store_view_close(view);
	}
	return NULL;
}

START_TEST(a_reader_and_a_growing_map_do_not_meet)
{
	make_folder();
	struct store *store = open_store_sized(1 << 20, 256 << 20);
	pthread_t reader;
	struct err err;
	ck_assert_int_eq(pthread_create(&reader, NULL, read_again_and_again, store), 0);

	for (unsigned i = 0; i < 2000; i += 10)
		ck_assert_int_eq(put_large_ones(store, i, 10, &err), STORE_DONE);

	pthread_join(reader, NULL);
	ck_assert_uint_eq(count_records(store, STORE_JOBS), 2000);
	store_close(store);
	remove_folder();
}
END_TEST

START_TEST(a_full_map_changes_nothing_and_the_reserve_lets_deletes_through)
{
	make_folder();
	struct store *store = open_store_sized(1 << 20, 2 << 20);
	struct err err;
	unsigned count = 0;

	while (put_large(store, count, &err) == STORE_DONE)
		count++;
	ck_assert_uint_gt(count, 50);
	ck_assert_int_eq(put_large(store, count, &err), STORE_FULL);
	ck_assert_ptr_nonnull(strstr(err.text, "greatest size"));
	ck_assert_uint_eq(count_records(store, STORE_JOBS), count);
	ck_assert(store_release_reserve(store));
	ck_assert(!store_release_reserve(store));
	struct store_batch *batch = store_batch_new();
	add_change(batch, EFFECT_STORE_DELETE_PREFIX, STORE_JOBS, "0000", "");
	apply_and_free(store, batch);

	ck_assert_uint_eq(count_records(store, STORE_JOBS), 0);
	ck_assert_int_eq(put_large(store, 0, &err), STORE_DONE);
	store_close(store);
	remove_folder();
}
END_TEST

/* A small file system of its own.  False where this is not allowed. */
static bool mount_small_disk(void)
{
	return !unshare(CLONE_NEWNS) && !mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("small", folder, "tmpfs", 0, "size=12m");
}

static void fill_disk(const char *path)
{
	static char bytes[65536];
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	ck_assert_int_ge(fd, 0);
	while (write(fd, bytes, sizeof(bytes)) > 0)
		;
	ck_assert_int_eq(errno, ENOSPC);
	close(fd);
}

START_TEST(a_full_disk_changes_nothing_and_the_reserve_lets_deletes_through)
{
	char filler[300];
	struct err err;
	unsigned count = 0;
	int r;
	make_folder();
	if (!mount_small_disk()) {
		fprintf(stderr, "not allowed to mount a small disk: skipped\n");
		remove_folder();
		return;
	}
	struct store *store;
	ck_assert_int_eq(
		store_open(&(struct store_options){.folder = folder, .reserve_bytes = 2 << 20},
			&store, &err),
		0);
	for (; count < 100; count++)
		ck_assert_int_eq(put_large(store, count, &err), STORE_DONE);
	snprintf(filler, sizeof(filler), "%s/filler", folder);
	fill_disk(filler);

	while ((r = put_large(store, count, &err)) == STORE_DONE)
		count++;

	ck_assert_int_eq(r, STORE_FULL);
	ck_assert_int_eq(err.number, ENOSPC);
	ck_assert_uint_eq(count_records(store, STORE_JOBS), count);
	ck_assert(!store_restore_reserve(store) || store_release_reserve(store));
	store_release_reserve(store);
	struct store_batch *batch = store_batch_new();
	add_change(batch, EFFECT_STORE_DELETE, STORE_JOBS, "00000000", "");
	apply_and_free(store, batch);
	ck_assert_uint_eq(count_records(store, STORE_JOBS), count - 1);
	unlink(filler);
	ck_assert(store_restore_reserve(store));
	store_close(store);
	store = open_store();
	ck_assert_uint_eq(count_records(store, STORE_JOBS), count - 1);
	store_close(store);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
}
END_TEST

/* ---- crashes */

#define RECORDS_A_BATCH 5

/* Commits numbered batches for ever, and says each number once it is durable. */
static void write_until_killed(int pipe_fd, unsigned first)
{
	is_child = true;
	struct store *store = open_store();

	for (unsigned number = first;; number++) {
		struct store_batch *batch = store_batch_new();

		for (int i = 0; i < RECORDS_A_BATCH; i++) {
			char key[32];

			snprintf(key, sizeof(key), "%08u-%d", number, i);
			add_change(batch, EFFECT_STORE_PUT, STORE_EVENTS, key, "durable");
		}
		apply_and_free(store, batch);
		if (write(pipe_fd, &number, sizeof(number)) != sizeof(number))
			_exit(1);
	}
}

static unsigned run_and_kill(unsigned first, useconds_t after_us)
{
	int pipe_fds[2];
	unsigned said, last = first;
	pid_t child;

	ck_assert_int_eq(pipe(pipe_fds), 0);
	child = fork();
	if (child == 0)
		write_until_killed(pipe_fds[1], first);
	close(pipe_fds[1]);
	ck_assert_int_eq(read(pipe_fds[0], &said, sizeof(said)), sizeof(said));
	last = said + 1;
	usleep(after_us);
	kill(child, SIGKILL);
	while (read(pipe_fds[0], &said, sizeof(said)) == sizeof(said))
		last = said + 1;
	waitpid(child, NULL, 0);
	close(pipe_fds[0]);
	return last;
}

START_TEST(what_was_said_to_be_durable_survives_a_kill_and_no_batch_is_half_there)
{
	unsigned next = 0;
	make_folder();

	for (unsigned round = 0; round < 15; round++) {
		unsigned said = run_and_kill(next, round * 1700);
		struct store *store = open_store();
		unsigned count = count_records(store, STORE_EVENTS);

		ck_assert_uint_eq(count % RECORDS_A_BATCH, 0);
		ck_assert_uint_ge(count / RECORDS_A_BATCH, said);
		ck_assert_uint_le(count / RECORDS_A_BATCH, said + 1);
		next = count / RECORDS_A_BATCH;
		store_close(store);
	}
	remove_folder();
}
END_TEST

UNIT_MAIN("store", what_was_put_is_there_after_the_store_is_opened_again,
	a_prefix_deletes_its_records_and_no_others,
	a_view_walks_in_the_order_of_keys_and_does_not_see_later_changes,
	a_second_opening_is_refused, a_foreign_file_is_refused,
	no_descriptor_of_the_store_survives_an_exec, the_map_grows_while_it_is_written,
	a_reader_and_a_growing_map_do_not_meet,
	a_full_map_changes_nothing_and_the_reserve_lets_deletes_through,
	a_full_disk_changes_nothing_and_the_reserve_lets_deletes_through,
	what_was_said_to_be_durable_survives_a_kill_and_no_batch_is_half_there)
