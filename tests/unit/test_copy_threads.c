/* SPDX-License-Identifier: Apache-2.0 */
/* What goes to the threads comes back, once; by itself, stopped or taken back. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "common/attributes.h"
#include "common/check.h"
#include "common/io.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"
#include "workers/copy_threads.h"

#define CLUSTER 512u

/* Stands before the C library's: a hundred flushes, one after another, may take a slow disk longer than a test has. */
int fdatasync(int fd UNUSED)
{
	return 0;
}

struct stage {
	struct folder folder;
	struct copy_file source;
	struct copy_files files;
	struct copy_threads *threads;
};

static struct stage stage_make(size_t slots)
{
	struct stage stage = {.folder = folder_make()};
	struct err err;
	unsigned char bytes[4 * CLUSTER];

	memset(bytes, 1, sizeof bytes);
	stage.source = (struct copy_file){
		open(folder_name(&stage.folder, "base"), O_RDWR | O_CREAT, 0600), "base"};
	ck_assert_int_eq(pwrite_full(stage.source.fd, bytes, sizeof bytes, 0), 0);
	stage.files.leaf = (struct copy_file){
		open(folder_name(&stage.folder, "leaf"), O_RDWR | O_CREAT, 0600), "leaf"};
	stage.threads = copy_threads_new(slots, &err);
	ck_assert_ptr_nonnull(stage.threads);
	return stage;
}

static void stage_done(struct stage *stage)
{
	copy_threads_free(stage->threads);
	close(stage->source.fd);
	close(stage->files.leaf.fd);
	folder_remove(&stage->folder);
}

static struct copy_task *make_task(const struct copy_files *files, uint64_t lease)
{
	struct source_extent source = {
		.codec = CODEC_PLAIN, .length = CLUSTER, .has_file = true, .has_offset = true};
	struct destination_extent destination = {.offset = lease * CLUSTER, .length = CLUSTER};
	const struct msg_copy_order message = {
		.lease = lease,
		.sources = &source,
		.sources_count = 1,
		.destinations = &destination,
		.destinations_count = 1,
	};
	const struct copy_order_frame frame = {.cluster_bytes = CLUSTER, .files_count = 1};
	struct copy_order *order;
	struct err err;

	ck_assert_int_eq(copy_order_new(&message, &frame, &order, &err), 0);
	return copy_task_new(order, files);
}

static struct copy_task *wait_for_finished(struct copy_threads *threads)
{
	struct copy_task *task;

	while (!(task = copy_threads_finished(threads))) {
		struct pollfd polled = {.fd = copy_threads_descriptor(threads), .events = POLLIN};
		ck_assert_int_eq(poll(&polled, 1, 20000), 1);
	}
	return task;
}

START_TEST(each_task_comes_back_once)
{
	struct stage stage = stage_make(3);
	bool is_back[101] = {false};

	stage.files.sources = &stage.source;
	for (uint64_t lease = 1; lease <= 100; lease++)
		copy_threads_submit(stage.threads, make_task(&stage.files, lease));
	for (size_t i = 0; i < 100; i++) {
		struct copy_task *task = wait_for_finished(stage.threads);
		ck_assert_int_eq(task->outcome.end, COPY_END_COPIED);
		ck_assert(!is_back[task->order->lease]);
		is_back[task->order->lease] = true;
		copy_task_free(task);
	}
	ck_assert_ptr_null(copy_threads_finished(stage.threads));
	stage_done(&stage);
}
END_TEST

/* Minutes of zero tests for the thread, and nothing to write. */
static struct copy_task *make_long_task(const struct copy_files *files, uint64_t lease)
{
	struct copy_task *task = make_task(files, lease);

	task->order->detect_zeroes = true;
	task->order->length = (uint64_t)1 << 42;
	task->order->sources[0] =
		(struct source_extent){.codec = CODEC_ZERO, .length = task->order->length};
	task->order->destinations[0].length = task->order->length;
	return task;
}

START_TEST(a_task_in_the_middle_stops_and_one_behind_it_is_taken_back)
{
	struct stage stage = stage_make(1);
	struct copy_task *first = make_long_task(&stage.files, 1);
	struct copy_task *second = make_task(&stage.files, 2);
	struct copy_task *third = make_long_task(&stage.files, 3);

	stage.files.sources = &stage.source;
	copy_threads_submit(stage.threads, first);
	while (atomic_load(&first->control.bytes_done) == 0)
		sched_yield();
	copy_threads_submit(stage.threads, second);
	copy_threads_submit(stage.threads, third);

	ck_assert(!copy_threads_withdraw(stage.threads, first));
	ck_assert(copy_threads_withdraw(stage.threads, third));
	ck_assert(copy_threads_withdraw(stage.threads, second));
	ck_assert(!copy_threads_withdraw(stage.threads, second));
	ck_assert_ptr_null(copy_threads_finished(stage.threads));
	atomic_store(&first->control.stop, true);

	ck_assert_ptr_eq(wait_for_finished(stage.threads), first);
	ck_assert_int_eq(first->outcome.end, COPY_END_STOPPED);
	copy_task_free(first);
	copy_task_free(second);
	copy_task_free(third);
	stage_done(&stage);
}
END_TEST

UNIT_MAIN("copy_threads", each_task_comes_back_once,
	a_task_in_the_middle_stops_and_one_behind_it_is_taken_back)
