/* SPDX-License-Identifier: Apache-2.0 */
/* The threads, and two lists between them and the main thread: what is to be done, and what is done. */
#include "workers/copy_threads.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"

struct task_list {
	struct copy_task *first;
	struct copy_task **end;
};

struct copy_threads {
	pthread_mutex_t mutex; /* guards the lists and is_ending */
	pthread_cond_t work;
	struct task_list queue;
	struct task_list finished;
	bool is_ending;
	int descriptor;
	pthread_t *threads;
	size_t count;
};

static void list_init(struct task_list *list)
{
	list->first = NULL;
	list->end = &list->first;
}

static void list_append(struct task_list *list, struct copy_task *task)
{
	task->next = NULL;
	*list->end = task;
	list->end = &task->next;
}

static void list_unlink(struct task_list *list, struct copy_task **place)
{
	struct copy_task *task = *place;

	*place = task->next;
	if (list->end == &task->next)
		list->end = place;
	task->next = NULL;
}

static struct copy_task *list_take(struct task_list *list)
{
	struct copy_task *task = list->first;

	if (task)
		list_unlink(list, &list->first);
	return task;
}

struct copy_task *copy_task_new(struct copy_order *order, const struct copy_files *files)
{
	struct copy_task *task = must_calloc(1, sizeof *task);

	task->order = order;
	task->files = *files;
	atomic_init(&task->control.stop, false);
	atomic_init(&task->control.bytes_done, 0);
	return task;
}

void copy_task_free(struct copy_task *task)
{
	if (!task)
		return;
	copy_order_free(task->order);
	free(task);
}

/* The next task, or NULL when it is time to end. */
static struct copy_task *wait_for_task(struct copy_threads *threads)
{
	struct copy_task *task;

	pthread_mutex_lock(&threads->mutex);
	while (!(task = list_take(&threads->queue)) && !threads->is_ending)
		pthread_cond_wait(&threads->work, &threads->mutex);
	pthread_mutex_unlock(&threads->mutex);
	return task;
}

static void hand_back(struct copy_threads *threads, struct copy_task *task)
{
	uint64_t one = 1;

	pthread_mutex_lock(&threads->mutex);
	list_append(&threads->finished, task);
	pthread_mutex_unlock(&threads->mutex);
	bug_if(write(threads->descriptor, &one, sizeof one) != sizeof one);
}

static void *copy_until_the_end(void *argument)
{
	struct copy_threads *threads = argument;
	struct copy_machine *machine = copy_machine_new(COPY_BUFFER_BYTES_DEFAULT);
	struct copy_task *task;

	while ((task = wait_for_task(threads))) {
		uint64_t start = clock_monotonic_us();

		copy_run(machine, task->order, &task->files, &task->control, &task->outcome);
		task->microseconds = clock_monotonic_us() - start;
		hand_back(threads, task);
	}
	copy_machine_free(machine);
	return NULL;
}

static int start_threads(struct copy_threads *threads, size_t slots, struct err *err)
{
	threads->threads = must_calloc(slots, sizeof *threads->threads);
	for (; threads->count < slots; threads->count++) {
		int number = pthread_create(
			&threads->threads[threads->count], NULL, copy_until_the_end, threads);
		if (number)
			return err_set_errno(
				err, number, "cannot start copy thread %zu", threads->count + 1);
		pthread_setname_np(threads->threads[threads->count], "copy"); /* for ps and gdb */
	}
	return 0;
}

struct copy_threads *copy_threads_new(size_t slots, struct err *err)
{
	struct copy_threads *threads = must_calloc(1, sizeof *threads);

	pthread_mutex_init(&threads->mutex, NULL);
	pthread_cond_init(&threads->work, NULL);
	list_init(&threads->queue);
	list_init(&threads->finished);
	threads->descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (threads->descriptor < 0) {
		err_set_errno(err, errno, "cannot make an eventfd");
		copy_threads_free(threads);
		return NULL;
	}
	if (start_threads(threads, slots, err) < 0) {
		copy_threads_free(threads);
		return NULL;
	}
	return threads;
}

void copy_threads_free(struct copy_threads *threads)
{
	if (!threads)
		return;
	pthread_mutex_lock(&threads->mutex);
	threads->is_ending = true;
	pthread_cond_broadcast(&threads->work);
	pthread_mutex_unlock(&threads->mutex);
	for (size_t i = 0; i < threads->count; i++)
		pthread_join(threads->threads[i], NULL);

	bug_if(threads->queue.first || threads->finished.first);
	if (threads->descriptor >= 0)
		close(threads->descriptor);
	pthread_cond_destroy(&threads->work);
	pthread_mutex_destroy(&threads->mutex);
	free(threads->threads);
	free(threads);
}

void copy_threads_submit(struct copy_threads *threads, struct copy_task *task)
{
	pthread_mutex_lock(&threads->mutex);
	list_append(&threads->queue, task);
	pthread_cond_signal(&threads->work);
	pthread_mutex_unlock(&threads->mutex);
}

bool copy_threads_withdraw(struct copy_threads *threads, struct copy_task *task)
{
	bool is_found = false;

	pthread_mutex_lock(&threads->mutex);
	for (struct copy_task **place = &threads->queue.first; *place; place = &(*place)->next) {
		if (*place == task) {
			list_unlink(&threads->queue, place);
			is_found = true;
			break;
		}
	}
	pthread_mutex_unlock(&threads->mutex);
	return is_found;
}

struct copy_task *copy_threads_finished(struct copy_threads *threads)
{
	uint64_t count;

	/* The descriptor is made quiet before the list is read, so that what is appended in between is signalled anew. */
	if (read(threads->descriptor, &count, sizeof count) < 0)
		bug_if(errno != EAGAIN && errno != EINTR);
	pthread_mutex_lock(&threads->mutex);
	struct copy_task *task = list_take(&threads->finished);
	pthread_mutex_unlock(&threads->mutex);
	return task;
}

int copy_threads_descriptor(const struct copy_threads *threads)
{
	return threads->descriptor;
}
