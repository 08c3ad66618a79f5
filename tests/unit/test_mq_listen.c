/* SPDX-License-Identifier: Apache-2.0 */
/* A server in a process of its own that may have few descriptors, and a crowd that wants
 * connections to it. */
#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
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
#include "common/mq_socket.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define PATIENCE_MS	   20000
#define SERVER_DESCRIPTORS 256
#define CROWD		   600

enum descriptors { FREE, USED_UP };

/* Stands before the C library's: the next one fails, as if somebody else had just taken the last descriptor. */
static bool is_last_taken;

int open(const char *path, int flags, ...)
{
	if (!is_last_taken)
		return openat(AT_FDCWD, path, flags, 0600);
	is_last_taken = false;
	errno = EMFILE;
	return -1;
}

struct server {
	struct mq *mq;
	struct mq_socket *router;
	struct mq_message *message;
	enum descriptors descriptors; /* whether to use them up at the first message */
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
	while (server->descriptors == USED_UP) {
		if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0)
			server->descriptors = FREE; /* once is enough */
	}
}

static uint64_t guard(void *owner, uint64_t now_ms)
{
	struct server *server = owner;

	mq_guard_descriptors(server->mq, now_ms);
	return now_ms + 20;
}

static NORETURN void serve(const char *endpoint, enum descriptors descriptors)
{
	struct rlimit limit = {.rlim_cur = SERVER_DESCRIPTORS, .rlim_max = SERVER_DESCRIPTORS};
	struct err err;
	struct server server = {
		.mq = mq_new(&err), .message = mq_message_new(), .descriptors = descriptors};
	struct loop *loop = loop_new(&err);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_NOFILE, &limit);
	server.router = mq_socket_new(server.mq, MQ_ROUTER, NULL, &err);
	if (mq_bind(server.router, endpoint, &err) < 0 ||
		loop_add_socket(loop, server.router, echo, &server, &err) < 0 ||
		loop_stop_on_signals(loop, &err) < 0)
		_exit(1);
	if (loop_add_tick(loop, guard, &server, &err) < 0)
		_exit(1);
	if (loop_run(loop, &err) < 0)
		_exit(2);
	mq_socket_free(server.router);
	mq_message_free(server.message);
	loop_free(loop);
	mq_free(server.mq);
	_exit(0);
}

static pid_t start_server(const char *endpoint, enum descriptors descriptors)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		serve(endpoint, descriptors);
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

static void name_socket(const struct folder *folder, struct sockaddr_un *ret_address)
{
	*ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(ret_address->sun_path, sizeof ret_address->sun_path, "%s/s", folder->path);
}

/* A descriptor, or -1 with errno. */
static int connect_raw(const struct folder *folder)
{
	struct sockaddr_un address;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	name_socket(folder, &address);
	ck_assert_int_ge(fd, 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	int number = errno;
	close(fd);
	errno = number;
	return -1;
}

static void crowd_gathers(const struct folder *folder, int *crowd)
{
	for (int i = 0; i < CROWD; i++) {
		crowd[i] = connect_raw(folder);
		ck_assert_int_ge(crowd[i], 0);
	}
}

static void crowd_leaves(const int *crowd)
{
	for (int i = 0; i < CROWD; i++)
		close(crowd[i]);
}

/* A taken connection is greeted, one that was turned away is closed without a word. */
static bool was_turned_away(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	char byte;

	ck_assert_msg(poll(&poll_fd, 1, PATIENCE_MS) == 1, "neither greeted nor turned away");
	return recv(fd, &byte, 1, 0) <= 0;
}

static unsigned count_turned_away(const int *crowd)
{
	unsigned count = 0;

	for (int i = 0; i < CROWD; i++)
		count += was_turned_away(crowd[i]);
	return count;
}

static unsigned count_descriptors(pid_t pid)
{
	char path[64];
	unsigned count = 0;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	DIR *folder = opendir(path);
	ck_assert_ptr_nonnull(folder);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count - 2; /* . and .. */
}

START_TEST(above_half_of_the_descriptors_new_connections_are_turned_away_and_later_taken_again)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	const char *endpoint = folder_endpoint(&folder, "s");
	pid_t server = start_server(endpoint, FREE);
	struct err err;
	struct mq *mq = mq_new(&err);
	struct mq_socket *early = make_client(mq, endpoint);
	int crowd[CROWD];
	assert_served(early);

	crowd_gathers(&folder, crowd);
	ck_assert_uint_ge(count_turned_away(crowd), CROWD - SERVER_DESCRIPTORS / 2);
	ck_assert_uint_le(count_descriptors(server), SERVER_DESCRIPTORS / 2 + 1);
	assert_served(early);
	crowd_leaves(crowd);
	struct mq_socket *late = make_client(mq, endpoint);
	assert_served(late);

	assert_served(early);
	assert_ends_well(server);
	mq_socket_free(early);
	mq_socket_free(late);
	mq_free(mq);
}
END_TEST

START_TEST(where_no_descriptor_is_left_connections_are_turned_away_too)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	const char *endpoint = folder_endpoint(&folder, "s");
	pid_t server = start_server(endpoint, USED_UP);
	struct err err;
	struct mq *mq = mq_new(&err);
	struct mq_socket *early = make_client(mq, endpoint);
	int crowd[CROWD];
	assert_served(early);

	assert_served(early);
	ck_assert_uint_eq(count_descriptors(server), SERVER_DESCRIPTORS);
	crowd_gathers(&folder, crowd);
	ck_assert_uint_eq(count_turned_away(crowd), CROWD);
	assert_served(early);

	crowd_leaves(crowd);
	assert_ends_well(server);
	mq_socket_free(early);
	mq_free(mq);
}
END_TEST

/* The C library opens a file now and then.  What is kept back for turning away comes before any connection: without it no other one
 * would be turned away, and the queue of the listener would fill. */
START_TEST(a_place_that_somebody_else_had_for_a_moment_is_no_connections)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct rlimit before, limit;
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), clients[3];
	struct sockaddr_un address;

	name_socket(&folder, &address);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
	ck_assert_int_eq(listen(listener, 3), 0);
	for (int i = 0; i < 3; i++)
		clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	mq_listen_start();
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	limit = (struct rlimit){.rlim_cur = SERVER_DESCRIPTORS, .rlim_max = before.rlim_max};
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
		;
	for (int i = 0; i < 3; i++) {
		is_last_taken = i == 0; /* and given back by the time of the next */
		ck_assert_int_eq(
			connect(clients[i], (struct sockaddr *)&address, sizeof address), 0);
		ck_assert_int_eq(accept4(listener, NULL, NULL, SOCK_CLOEXEC), -1);
		ck_assert_int_eq(errno, EAGAIN);
		ck_assert(!is_last_taken);
		ck_assert(was_turned_away(clients[i]));
	}
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0); /* removing the folder needs some */
}
END_TEST

UNIT_MAIN("mq_listen",
	above_half_of_the_descriptors_new_connections_are_turned_away_and_later_taken_again,
	where_no_descriptor_is_left_connections_are_turned_away_too,
	a_place_that_somebody_else_had_for_a_moment_is_no_connections)
