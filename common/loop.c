/* SPDX-License-Identifier: Apache-2.0 */
/* poll(2) over descriptors and ZeroMQ sockets.
 *
 *   ticks ──▶ any socket readable? ──▶ poll unless so ──▶ descriptors ──▶ sockets, in rounds ──▶
 *
 * A ZeroMQ descriptor is edge-triggered and says only "ask me": so each socket is asked
 * (mq_readable) after the last thing that could have used it, which is the ticks, and right before
 * every wait.  A message that comes after the question makes the descriptor readable, and poll
 * returns.
 *
 * Callbacks may add and remove: what is removed is marked and swept between turns, and what is
 * added is not looked at before the next turn.  So a descriptor number that is closed and used anew
 * never gets the other's callback. */
#include "common/loop.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"

#define TICKS_MAX	8
#define ROUNDS_PER_TURN 64 /* messages of one socket before others have their turn */

/* One of `socket` and `fd` is set. */
struct source {
	struct mq_socket *socket;
	int fd; /* of a socket: what to poll */
	loop_callback *callback;
	void *owner;
	bool is_removed;
};

struct tick {
	loop_tick *tick; /* NULL: removed */
	void *owner;
};

struct loop {
	struct source *sources;
	struct pollfd *polled; /* as many as sources when the turn began */
	size_t count, capacity;
	struct tick ticks[TICKS_MAX];
	int signal_fd;
	bool has_removed, is_stopping;
};

struct loop *loop_new(struct err *err)
{
	struct loop *loop = calloc(1, sizeof *loop);

	if (!loop) {
		err_set(err, "out of memory");
		return NULL;
	}
	loop->signal_fd = -1;
	return loop;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	if (loop->signal_fd >= 0)
		close(loop->signal_fd);
	free(loop->sources);
	free(loop->polled);
	free(loop);
}

static int add_source(struct loop *loop, const struct source *source, struct err *err)
{
	if (loop->count == loop->capacity) {
		if (loop->capacity == LOOP_SOURCES_MAX)
			return err_set(err, "more than %d sockets and descriptors to wait for",
				LOOP_SOURCES_MAX);
		loop->capacity = loop->capacity ? 2 * loop->capacity : 16;
		loop->sources = must_realloc(loop->sources, loop->capacity, sizeof *loop->sources);
		loop->polled = must_realloc(loop->polled, loop->capacity, sizeof *loop->polled);
	}
	loop->sources[loop->count++] = *source;
	return 0;
}

int loop_add_socket(struct loop *loop, struct mq_socket *socket, loop_callback *callback,
	void *owner, struct err *err)
{
	struct source source = {
		.socket = socket, .fd = mq_fd(socket), .callback = callback, .owner = owner};

	return add_source(loop, &source, err);
}

int loop_add_fd(struct loop *loop, int fd, loop_callback *callback, void *owner, struct err *err)
{
	struct source source = {.fd = fd, .callback = callback, .owner = owner};

	bug_if(fd < 0);
	return add_source(loop, &source, err);
}

static void mark_removed(struct loop *loop, const struct mq_socket *socket, int fd)
{
	for (size_t i = 0; i < loop->count; i++) {
		struct source *source = &loop->sources[i];
		if (source->is_removed || source->socket != socket || (!socket && source->fd != fd))
			continue;
		source->is_removed = true;
		loop->has_removed = true;
	}
}

void loop_remove_socket(struct loop *loop, struct mq_socket *socket)
{
	mark_removed(loop, socket, -1);
}

void loop_remove_fd(struct loop *loop, int fd)
{
	mark_removed(loop, NULL, fd);
}

static void sweep_removed(struct loop *loop)
{
	size_t kept = 0;

	if (!loop->has_removed)
		return;
	for (size_t i = 0; i < loop->count; i++) {
		if (!loop->sources[i].is_removed)
			loop->sources[kept++] = loop->sources[i];
	}
	loop->count = kept;
	loop->has_removed = false;
}

int loop_add_tick(struct loop *loop, loop_tick *tick, void *owner, struct err *err)
{
	for (size_t i = 0; i < TICKS_MAX; i++) {
		if (loop->ticks[i].tick)
			continue;
		loop->ticks[i] = (struct tick){.tick = tick, .owner = owner};
		return 0;
	}
	return err_set(err, "more than %d ticks in one loop", TICKS_MAX);
}

void loop_remove_tick(struct loop *loop, loop_tick *tick, void *owner)
{
	for (size_t i = 0; i < TICKS_MAX; i++) {
		if (loop->ticks[i].tick == tick && loop->ticks[i].owner == owner)
			loop->ticks[i].tick = NULL;
	}
}

static void read_signal(void *owner)
{
	struct loop *loop = owner;
	struct signalfd_siginfo signal;

	if (read(loop->signal_fd, &signal, sizeof signal) != (ssize_t)sizeof signal)
		return;
	log_debug("%s: stopping", signal.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
	loop_stop(loop);
}

int loop_stop_on_signals(struct loop *loop, struct err *err)
{
	sigset_t signals;

	bug_if(loop->signal_fd >= 0);
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	loop->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (loop->signal_fd < 0)
		return err_set_errno(err, errno, "cannot wait for signals");
	return loop_add_fd(loop, loop->signal_fd, read_signal, loop, err);
}

/* Runs all ticks; returns when the first of them wants to be called again. */
static uint64_t run_ticks(struct loop *loop)
{
	uint64_t now_ms = clock_monotonic_ms();
	uint64_t earliest_ms = UINT64_MAX;

	for (size_t i = 0; i < TICKS_MAX; i++) {
		if (!loop->ticks[i].tick)
			continue;
		uint64_t wanted_ms = loop->ticks[i].tick(loop->ticks[i].owner, now_ms);
		if (wanted_ms < earliest_ms)
			earliest_ms = wanted_ms;
	}
	return earliest_ms;
}

static bool has_waiting_message(const struct loop *loop)
{
	for (size_t i = 0; i < loop->count; i++) {
		const struct source *source = &loop->sources[i];
		if (!source->is_removed && source->socket && mq_readable(source->socket))
			return true;
	}
	return false;
}

static int timeout_until(uint64_t deadline_ms)
{
	uint64_t now_ms = clock_monotonic_ms();

	if (deadline_ms == UINT64_MAX)
		return -1;
	if (deadline_ms <= now_ms)
		return 0;
	return deadline_ms - now_ms < INT_MAX ? (int)(deadline_ms - now_ms) : INT_MAX;
}

static int wait_for_sources(struct loop *loop, uint64_t deadline_ms, struct err *err)
{
	sweep_removed(loop);
	for (size_t i = 0; i < loop->count; i++)
		loop->polled[i] = (struct pollfd){.fd = loop->sources[i].fd, .events = POLLIN};

	int timeout_ms = has_waiting_message(loop) ? 0 : timeout_until(deadline_ms);
	if (poll(loop->polled, loop->count, timeout_ms) >= 0)
		return 0;
	for (size_t i = 0; i < loop->count; i++)
		loop->polled[i].revents = 0;
	return errno == EINTR ? 0 : err_set_errno(err, errno, "cannot wait for sockets");
}

static void run_fds(struct loop *loop, size_t count)
{
	for (size_t i = 0; i < count && !loop->is_stopping; i++) {
		struct source source = loop->sources[i];
		if (source.socket || source.is_removed || loop->polled[i].revents == 0)
			continue;
		bug_if(loop->polled[i].revents & POLLNVAL);
		source.callback(source.owner);
	}
}

/* One message of every socket that has one; whether there was any. */
static bool run_sockets_once(struct loop *loop, size_t count)
{
	bool was_any = false;

	for (size_t i = 0; i < count && !loop->is_stopping; i++) {
		struct source source = loop->sources[i];
		if (!source.socket || source.is_removed || !mq_readable(source.socket))
			continue;
		source.callback(source.owner);
		was_any = true;
	}
	return was_any;
}

int loop_run(struct loop *loop, struct err *err)
{
	loop->is_stopping = false;
	while (!loop->is_stopping) {
		uint64_t deadline_ms = run_ticks(loop);
		if (loop->is_stopping)
			break;
		if (wait_for_sources(loop, deadline_ms, err) < 0)
			return -1;

		size_t count = loop->count;
		run_fds(loop, count);
		for (int i = 0; i < ROUNDS_PER_TURN; i++) {
			if (!run_sockets_once(loop, count))
				break;
		}
	}
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->is_stopping = true;
}
