/* SPDX-License-Identifier: Apache-2.0 */
/* Listening, and living on when descriptors run out.
 *
 * libzmq ends the process when accept(2) says EMFILE.  Two things stand against that:
 *
 *   - the guard counts now and then; above half of RLIMIT_NOFILE it unbinds every listener of its thread, below 3/8 it binds
 *     them again.  Connections that exist are not touched;
 *   - between two counts the definition of accept4(2) below takes the place of libc's in every program that links this
 *     file.  Where there is no descriptor left it gives up the one kept back, takes the new connection with it,
 *     closes that at once, and says "none there".  So a burst is turned away instead of ending us. */
#include "common/mq.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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

#define COUNT_INTERVAL_MS 100
#define RETRY_INTERVAL_MS 1000
#define ENDPOINT_BYTES	  512

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static int spare_fd = -1; /* kept back for turning away; -1 while there is none */

static int open_spare(void)
{
	return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void mq_listen_start(void)
{
	pthread_mutex_lock(&spare_lock);
	if (spare_fd < 0)
		spare_fd = open_spare();
	pthread_mutex_unlock(&spare_lock);
}

static void turn_away(int listener)
{
	pthread_mutex_lock(&spare_lock);
	if (spare_fd >= 0)
		close(spare_fd);
	int fd = (int)syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	spare_fd = open_spare();
	pthread_mutex_unlock(&spare_lock);
}

/* Instead of libc's: see the top of the file. */
int accept4(int listener, __SOCKADDR_ARG address, socklen_t *restrict length, int flags)
{
	int fd = (int)syscall(SYS_accept4, listener, address.__sockaddr__, length, flags);

	if (fd >= 0 || (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM))
		return fd;
	turn_away(listener);
	errno = EAGAIN;
	return -1;
}

const char *mq_ipc_path(const char *endpoint)
{
	const char *path = endpoint + strlen("ipc://");

	if (strncmp(endpoint, "ipc://", strlen("ipc://")) != 0 || path[0] == '*' || path[0] == '@')
		return NULL;
	return path;
}

void mq_forget_listeners(struct mq_socket *socket)
{
	for (size_t i = 0; i < socket->listeners_count; i++)
		free(socket->listeners[i].endpoint);
	socket->listeners_count = 0;
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

static int bind_now(struct mq_socket *socket, const char *endpoint, struct err *err)
{
	const char *path = mq_ipc_path(endpoint);

	if (mq_prepare_endpoint(socket, endpoint, err) < 0)
		return -1;
	if (path && check_path_is_free(path, err) < 0)
		return err_wrap(err, "cannot listen");
	if (zmq_bind(socket->handle, endpoint) < 0) {
		int number = errno;
		err_set(err, "cannot listen: %s: %s", endpoint, zmq_strerror(number));
		if (err)
			err->number = number;
		return -1;
	}
	if (path && chmod(path, 0660) < 0) {
		err_set_errno(err, errno, "cannot set the mode of %s", path);
		zmq_unbind(socket->handle, endpoint);
		return -1;
	}
	return 0;
}

int mq_bind(struct mq_socket *socket, const char *endpoint, struct err *err)
{
	char bound[ENDPOINT_BYTES];
	size_t size = sizeof bound;

	if (socket->listeners_count == MQ_LISTENERS_MAX)
		return err_set(err, "cannot listen: %s: more than %d endpoints of one socket",
			endpoint, MQ_LISTENERS_MAX);
	if (bind_now(socket, endpoint, err) < 0)
		return -1;

	int rc = zmq_getsockopt(socket->handle, ZMQ_LAST_ENDPOINT, bound, &size);
	bug_if(rc < 0);
	socket->listeners[socket->listeners_count++] =
		(struct mq_listener){.endpoint = must_strdup(bound), .is_bound = true};
	return 0;
}

const char *mq_bound_endpoint(const struct mq_socket *socket, size_t index)
{
	return index < socket->listeners_count ? socket->listeners[index].endpoint : NULL;
}

/* Open descriptors of this process; SIZE_MAX where there is not even one left to count with. */
static size_t count_descriptors(void)
{
	struct stat status;
	size_t count = 0;

	if (stat("/proc/self/fd", &status) == 0 && status.st_size > 0)
		return (size_t)status.st_size; /* Linux 6.2 and later say it here */

	DIR *folder = opendir("/proc/self/fd");
	if (!folder)
		return SIZE_MAX;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

static void unbind_all(struct mq_socket *socket)
{
	for (size_t i = 0; i < socket->listeners_count; i++) {
		struct mq_listener *listener = &socket->listeners[i];
		if (listener->is_bound && zmq_unbind(socket->handle, listener->endpoint) == 0)
			listener->is_bound = false;
	}
}

/* Whether all are bound again. */
static bool bind_all(struct mq_socket *socket)
{
	bool are_bound = true;

	for (size_t i = 0; i < socket->listeners_count; i++) {
		struct mq_listener *listener = &socket->listeners[i];
		struct err err;

		if (listener->is_bound)
			continue;
		listener->is_bound = bind_now(socket, listener->endpoint, &err) == 0;
		if (!listener->is_bound) {
			log_warn("%s; trying again", err.text);
			are_bound = false;
		}
	}
	return are_bound;
}

static void refuse_new_connections(struct mq *mq)
{
	for (struct mq_socket *socket = mq->sockets; socket; socket = socket->next) {
		if (pthread_equal(socket->thread, pthread_self()))
			unbind_all(socket);
	}
	mq->is_refusing = true;
}

static void accept_new_connections(struct mq *mq)
{
	bool are_bound = true;

	for (struct mq_socket *socket = mq->sockets; socket; socket = socket->next) {
		if (pthread_equal(socket->thread, pthread_self()) && !bind_all(socket))
			are_bound = false;
	}
	mq->is_refusing = !are_bound;
}

void mq_guard_descriptors(struct mq *mq, uint64_t now_ms)
{
	struct rlimit limit;

	if (now_ms < mq->next_count_ms || getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	mq->next_count_ms = now_ms + COUNT_INTERVAL_MS;

	size_t count = count_descriptors();
	pthread_mutex_lock(&mq->lock);
	if (!mq->is_refusing && count > limit.rlim_cur / 2) {
		refuse_new_connections(mq);
		log_warn(
			"descriptors=%zu limit=%llu: no new connections are taken until some have ended",
			count, (unsigned long long)limit.rlim_cur);
	} else if (mq->is_refusing && count < limit.rlim_cur / 8 * 3) {
		accept_new_connections(mq);
		if (!mq->is_refusing)
			log_info("descriptors=%zu limit=%llu: new connections are taken again",
				count, (unsigned long long)limit.rlim_cur);
	}
	pthread_mutex_unlock(&mq->lock);
}
