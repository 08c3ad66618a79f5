/* SPDX-License-Identifier: Apache-2.0 */
/* Listening, and living on when descriptors run out.
 *
 * libzmq ends the process when accept(2) says EMFILE on an ipc listener, and unbinding in time is
 * no way out: it ends the connections that were accepted there too.  So connections are turned away
 * one by one, where they come in: the definition of accept4(2) below takes the place of libc's in
 * every program that links this file.
 *
 * A new descriptor gets the lowest free number.  One at half of RLIMIT_NOFILE or above thus means
 * that half of all are in use: the connection is closed at once, and the caller hears that none is
 * there.  The other half is for everything else.  Where even that is used up, a descriptor kept
 * back is given up for a moment to take the connection and close it; otherwise it would wait in the
 * listener's queue and keep ZeroMQ's thread spinning.
 *
 * A client that was turned away tries again by itself, and later; one that is connected notices
 * nothing. */
#include "common/mq.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <zmq.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "common/mq_socket.h"

#define QUIET_MS	      5000 /* without turning anybody away, until that is said to be over */
#define ENDPOINT_BYTES	      512
#define NOTHING_LEFT_PAUSE_MS 10

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static int spare_fd = -1; /* kept back for turning away; -1 while there is none */
static _Atomic uint64_t turned_away;

static int open_spare(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Whether there is one; makes it where that can be done. */
static bool has_spare(void)
{
	bool is_there;

	pthread_mutex_lock(&spare_lock);
	if (spare_fd < 0)
		spare_fd = open_spare();
	is_there = spare_fd >= 0;
	pthread_mutex_unlock(&spare_lock);
	return is_there;
}

void mq_listen_start(void)
{
	(void)has_spare();
}

static int real_accept(int listener, struct sockaddr *address, socklen_t *length, int flags)
{
	return (int)syscall(SYS_accept4, listener, address, length, flags);
}

/* Takes a connection with the spare descriptor, and closes it.  Another thread may have taken the
 * spare one's place: then the connection stays in the queue, and the pause keeps ZeroMQ's thread
 * from spinning on it. */
static void turn_away_without_descriptors(int listener)
{
	pthread_mutex_lock(&spare_lock);
	if (spare_fd >= 0)
		close(spare_fd);
	int fd = real_accept(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	spare_fd = open_spare();
	pthread_mutex_unlock(&spare_lock);
	if (fd < 0)
		poll(NULL, 0, NOTHING_LEFT_PAUSE_MS);
}

static bool is_in_upper_half(int fd)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t)fd >= limit.rlim_cur / 2;
}

/* Instead of libc's: see the top of the file. */
int accept4(int listener, __SOCKADDR_ARG address, socklen_t *restrict length, int flags)
{
	int fd = real_accept(listener, address.__sockaddr__, length, flags);

	/* Where somebody took the spare one's place for a while, it comes before any connection: without it none is turned away. */
	if (fd >= 0 && !is_in_upper_half(fd) && has_spare())
		return fd;
	if (fd >= 0) {
		close(fd);
		mq_listen_start();
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		turn_away_without_descriptors(listener);
	} else {
		return -1;
	}
	atomic_fetch_add(&turned_away, 1);
	errno = EAGAIN;
	return -1;
}

void mq_guard_descriptors(struct mq *mq, uint64_t now_ms)
{
	uint64_t count = atomic_load(&turned_away);

	if (count != mq->turned_away) {
		if (!mq->is_turning_away)
			log_warn(
				"half of all descriptors are in use: turning new connections away");
		mq->turned_away = count;
		mq->turned_away_ms = now_ms;
		mq->is_turning_away = true;
	} else if (mq->is_turning_away && now_ms >= mq->turned_away_ms + QUIET_MS) {
		log_info("connections_turned_away=%llu, and none of late",
			(unsigned long long)count);
		mq->is_turning_away = false;
	}
}

const char *mq_ipc_path(const char *endpoint)
{
	const char *path = endpoint + strlen("ipc://");

	if (strncmp(endpoint, "ipc://", strlen("ipc://")) != 0 || path[0] == '*' || path[0] == '@')
		return NULL;
	return path;
}

/* libzmq would remove whatever has that name: only a socket to which nobody listens may go. */
static int check_path_is_free(const char *path, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat status;

	if (lstat(path, &status) < 0)
		return errno == ENOENT ? 0 : err_set_errno(err, errno, "%s", path);
	if (!S_ISSOCK(status.st_mode))
		return err_set(err, "%s is there and is no socket", path);

	memcpy(address.sun_path, path, strlen(path));
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set_errno(err, errno, "%s", path);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN)
		return err_set(err, "%s: somebody listens there already", path);
	if (errno == ECONNREFUSED || errno == ENOENT)
		return 0;
	return err_set_errno(err, errno, "%s", path);
}

int mq_bind(struct mq_socket *socket, const char *endpoint, struct err *err)
{
	const char *path = mq_ipc_path(endpoint);
	char bound[ENDPOINT_BYTES];
	size_t size = sizeof bound;

	if (socket->bound_count == MQ_LISTENERS_MAX)
		return err_set(err, "cannot listen: %s: more than %d endpoints of one socket",
			endpoint, MQ_LISTENERS_MAX);
	if (mq_prepare_endpoint(socket, endpoint, err) < 0)
		return -1;
	if (path && check_path_is_free(path, err) < 0)
		return err_wrap(err, "cannot listen");
	if (zmq_bind(socket->handle, endpoint) < 0) {
		mq_fail(err, endpoint);
		return err_wrap(err, "cannot listen");
	}
	if (path && chmod(path, 0660) < 0) {
		err_set_errno(err, errno, "cannot set the mode of %s", path);
		zmq_unbind(socket->handle, endpoint);
		return -1;
	}

	int rc = zmq_getsockopt(socket->handle, ZMQ_LAST_ENDPOINT, bound, &size);
	bug_if(rc < 0);
	socket->bound[socket->bound_count++] = must_strdup(bound);
	return 0;
}

const char *mq_bound_endpoint(const struct mq_socket *socket, size_t index)
{
	return index < socket->bound_count ? socket->bound[index] : NULL;
}
