/* SPDX-License-Identifier: Apache-2.0 */
/* poll(2) over a ZeroMQ socket, a signalfd and pidfds. */
#include "clients/watch.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/check.h"
#include "common/clock.h"

struct watch {
	int signal_fd;
	bool has_signal;
	int children[WATCH_CHILDREN_MAX];
	size_t children_count;
};

struct watch *watch_new(struct err *err)
{
	struct watch *watch = must_calloc(1, sizeof *watch);
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	watch->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (watch->signal_fd >= 0)
		return watch;
	err_set_errno(err, errno, "cannot wait for signals");
	free(watch);
	return NULL;
}

void watch_free(struct watch *watch)
{
	if (!watch)
		return;
	close(watch->signal_fd);
	free(watch);
}

void watch_add_child(struct watch *watch, int pidfd)
{
	bug_if(watch->children_count == WATCH_CHILDREN_MAX);
	watch->children[watch->children_count++] = pidfd;
}

void watch_forget_child(struct watch *watch, int pidfd)
{
	for (size_t i = 0; i < watch->children_count; i++) {
		if (watch->children[i] == pidfd) {
			watch->children[i] = watch->children[--watch->children_count];
			return;
		}
	}
}

static int timeout_until(uint64_t deadline_ms)
{
	uint64_t now_ms = clock_monotonic_ms();

	if (deadline_ms <= now_ms)
		return 0;
	return deadline_ms - now_ms < INT_MAX ? (int)(deadline_ms - now_ms) : INT_MAX;
}

static bool has_signal(struct watch *watch)
{
	struct signalfd_siginfo signal;

	if (!watch)
		return false;
	if (read(watch->signal_fd, &signal, sizeof signal) == (ssize_t)sizeof signal)
		watch->has_signal = true;
	return watch->has_signal;
}

int watch_descriptor(const struct watch *watch)
{
	return watch->signal_fd;
}

void watch_forget_signal(struct watch *watch)
{
	watch->has_signal = false;
}

/* Fills in what to poll; the socket, if any, is first. */
static size_t gather(const struct watch *watch, struct mq_socket *socket, struct pollfd *polled)
{
	size_t count = 0;

	polled[count++] = (struct pollfd){.fd = socket ? mq_fd(socket) : -1, .events = POLLIN};
	if (!watch)
		return count;
	polled[count++] = (struct pollfd){.fd = watch->signal_fd, .events = POLLIN};
	for (size_t i = 0; i < watch->children_count; i++)
		polled[count++] = (struct pollfd){.fd = watch->children[i], .events = POLLIN};
	return count;
}

/* Whether a watched process ended, given what poll found. */
static bool has_ended_child(const struct pollfd *polled, size_t count)
{
	for (size_t i = 2; i < count; i++) {
		if (polled[i].revents)
			return true;
	}
	return false;
}

/* The descriptor moves once, and asking for any state of the socket takes that back: `is_ready` must be the
 * last to ask before poll. */
static enum watch_result wait_until(struct watch *watch, struct mq_socket *socket,
	bool (*is_ready)(struct mq_socket *socket), uint64_t deadline_ms)
{
	struct pollfd polled[2 + WATCH_CHILDREN_MAX];
	size_t count = gather(watch, socket, polled);

	for (;;) {
		if (has_signal(watch))
			return WATCH_SIGNAL;
		if (socket && is_ready(socket))
			return WATCH_MESSAGE;
		int timeout_ms = timeout_until(deadline_ms);
		int ready = poll(polled, count, timeout_ms);
		bug_if(ready < 0 && errno != EINTR);
		if (ready > 0 && polled[0].revents)
			return WATCH_MESSAGE;
		if (ready > 0 && has_ended_child(polled, count))
			return WATCH_CHILD;
		if (timeout_ms == 0)
			return WATCH_DEADLINE;
	}
}

enum watch_result watch_wait(struct watch *watch, struct mq_socket *socket, uint64_t deadline_ms)
{
	return wait_until(watch, socket, mq_readable, deadline_ms);
}

enum watch_result watch_wait_writable(
	struct watch *watch, struct mq_socket *socket, uint64_t deadline_ms)
{
	return wait_until(watch, socket, mq_writable, deadline_ms);
}
