/* SPDX-License-Identifier: Apache-2.0 */
/* A server in a process of its own that may have few descriptors, and a crowd that holds connections to it. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/loop.h"
#include "common/mq.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS	   20000
#define SERVER_DESCRIPTORS 256
#define CROWD		   600

enum guard { GUARDED, UNGUARDED };

struct server {
	struct mq *mq;
	struct mq_socket *router;
	struct mq_message *message;
};

/* Every message goes back to where it came from. */
static void echo(void *owner)
{
	struct server *server = owner;
	struct err err;

	if (mq_receive(server->router, server->message, &err) != 1)
		return;
	struct mq_frame frames[] = {
		mq_message_frame(server->message, 0), mq_message_frame(server->message, 1)};
	if (mq_send(server->router, frames, 2, &err) < 0)
		_exit(3);
}

static uint64_t guard(void *owner, uint64_t now_ms)
{
	struct server *server = owner;

	mq_guard_descriptors(server->mq, now_ms);
	return now_ms + 20;
}

static NORETURN void serve(const char *endpoint, enum guard guarding)
{
	struct rlimit limit = {.rlim_cur = SERVER_DESCRIPTORS, .rlim_max = SERVER_DESCRIPTORS};
	struct err err;
	struct server server = {.mq = mq_new(&err), .message = mq_message_new()};
	struct loop *loop = loop_new(&err);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_NOFILE, &limit);
	server.router = mq_socket_new(server.mq, MQ_ROUTER, NULL, &err);
	if (mq_bind(server.router, endpoint, &err) < 0 ||
		loop_add_socket(loop, server.router, echo, &server, &err) < 0 ||
		loop_stop_on_signals(loop, &err) < 0)
		_exit(1);
	if (guarding == GUARDED && loop_add_tick(loop, guard, &server, &err) < 0)
		_exit(1);
	if (loop_run(loop, &err) < 0)
		_exit(2);
	mq_socket_free(server.router);
	mq_message_free(server.message);
	loop_free(loop);
	mq_free(server.mq);
	_exit(0);
}

static pid_t start_server(const char *endpoint, enum guard guarding)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		serve(endpoint, guarding);
	return pid;
}

static void assert_ends_well(pid_t pid)
{
	int status;

	ck_assert_int_eq(kill(pid, SIGTERM), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
}

static struct mq_socket *make_client(struct mq *mq, const char *endpoint)
{
	struct err err;
	struct mq_socket *dealer = mq_socket_new(mq, MQ_DEALER, NULL, &err);

	ck_assert_int_eq(mq_connect(dealer, endpoint, &err), 0);
	return dealer;
}

static void assert_served(struct mq_socket *client)
{
	struct mq_message *message = mq_message_new();
	struct mq_frame frame = {"ping", 4};
	uint64_t deadline_ms = clock_monotonic_ms() + PATIENCE_MS;
	struct err err;
	int rc = 0;

	ck_assert_int_eq(mq_send(client, &frame, 1, &err), MQ_SENT);
	while ((rc = mq_receive(client, message, &err)) == 0 &&
		clock_monotonic_ms() < deadline_ms) {
		struct pollfd poll_fd = {.fd = mq_fd(client), .events = POLLIN};
		if (!mq_readable(client))
			poll(&poll_fd, 1, 10);
	}
	ck_assert_int_eq(rc, 1);
	mq_message_free(message);
}

/* A descriptor, or -1 with errno. */
static int connect_raw(const struct folder *folder)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%s/s", folder->path);
	ck_assert_int_ge(fd, 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	int number = errno;
	close(fd);
	errno = number;
	return -1;
}

static size_t crowd_gathers(const struct folder *folder, int *crowd)
{
	size_t count = 0;

	for (int i = 0; i < CROWD; i++) {
		int fd = connect_raw(folder);
		if (fd >= 0)
			crowd[count++] = fd;
	}
	return count;
}

static void crowd_leaves(const int *crowd, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(crowd[i]);
}

static void wait_until_refused(const struct folder *folder)
{
	uint64_t deadline_ms = clock_monotonic_ms() + PATIENCE_MS;
	int fd;

	while ((fd = connect_raw(folder)) >= 0) {
		close(fd);
		ck_assert_msg(clock_monotonic_ms() < deadline_ms, "the listener is still there");
		poll(NULL, 0, 10);
	}
	ck_assert_int_eq(errno, ECONNREFUSED);
}

START_TEST(above_half_of_the_descriptors_new_connections_are_refused_and_later_taken_again)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	const char *endpoint = folder_endpoint(&folder, "s");
	pid_t server = start_server(endpoint, GUARDED);
	struct err err;
	struct mq *mq = mq_new(&err);
	struct mq_socket *early = make_client(mq, endpoint);
	int crowd[CROWD];
	assert_served(early);

	size_t count = crowd_gathers(&folder, crowd);
	wait_until_refused(&folder);
	assert_served(early);
	crowd_leaves(crowd, count);
	struct mq_socket *late = make_client(mq, endpoint);
	assert_served(late);

	assert_served(early);
	assert_ends_well(server);
	mq_socket_free(early);
	mq_socket_free(late);
	mq_free(mq);
}
END_TEST

START_TEST(a_burst_faster_than_the_guard_is_turned_away)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	const char *endpoint = folder_endpoint(&folder, "s");
	pid_t server = start_server(endpoint, UNGUARDED);
	struct err err;
	struct mq *mq = mq_new(&err);
	struct mq_socket *early = make_client(mq, endpoint);
	int crowd[CROWD];
	assert_served(early);

	size_t count = crowd_gathers(&folder, crowd);
	ck_assert_uint_gt(count, SERVER_DESCRIPTORS);
	assert_served(early);
	crowd_leaves(crowd, count);
	struct mq_socket *late = make_client(mq, endpoint);
	assert_served(late);

	assert_ends_well(server);
	mq_socket_free(early);
	mq_socket_free(late);
	mq_free(mq);
}
END_TEST

UNIT_MAIN("mq_listen",
	above_half_of_the_descriptors_new_connections_are_refused_and_later_taken_again,
	a_burst_faster_than_the_guard_is_turned_away)
