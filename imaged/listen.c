/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/program.h"

#define FIRST_FD 3 /* where passed descriptors begin */
#define BACKLOG	 128
#define GONE_S \
	60 /* a client's host that is silent so long is asked; one that has gone holds its device no longer */

/* ---- URIs */

/* A path as the value of a URI's query. */
static char *escaped(const char *path)
{
	static const char plain[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
	char *text = must_calloc(3 * strlen(path) + 1, 1);
	char *at = text;

	for (; *path; path++) {
		if (strchr(plain, *path))
			*at++ = *path;
		else
			at += snprintf(at, 4, "%%%02X", (unsigned char)*path);
	}
	return text;
}

static void put_unix_uri(
	struct listeners *listeners, const struct settings *settings, const char *path)
{
	CLEANUP_FREE char *socket = escaped(path);

	if (listeners->uri_before)
		return;
	listeners->uri_before =
		must_strdup(settings_use_tls(settings) ? "nbds+unix:///" : "nbd+unix:///");
	bug_if(asprintf(&listeners->uri_after, "?socket=%s", socket) < 0);
}

/* `host` as it was given, or numeric; one that stands for all addresses is told by this machine's name. */
static void put_tcp_uri(struct listeners *listeners, const struct settings *settings,
	const char *host, unsigned port)
{
	bool is_any = host[0] == '\0' || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
	bool is_v6 = !is_any && strchr(host, ':');

	if (listeners->uri_before)
		return;
	bug_if(asprintf(&listeners->uri_before, "%s://%s%s%s:%u/",
		       settings_use_tls(settings) ? "nbds" : "nbd", is_v6 ? "[" : "",
		       is_any ? settings->host_name : host, is_v6 ? "]" : "", port) < 0);
	listeners->uri_after = must_strdup("");
}

/* ---- UNIX sockets */

/* 0 if the name is free, or was a socket's to which nobody listens any more: then it is removed. */
static int make_way(const char *path, const struct sockaddr_un *address, struct err *err)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return errno == ENOENT ? 0 : err_set_errno(err, errno, "%s", path);
	if (!S_ISSOCK(status.st_mode))
		return err_set(err, "%s is there and is no socket", path);

	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set_errno(err, errno, "%s", path);
	if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN)
		return err_set(err, "%s: somebody listens there already", path);
	if (errno != ECONNREFUSED && errno != ENOENT)
		return err_set_errno(err, errno, "%s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set_errno(err, errno, "%s", path);
	return 0;
}

static int lock_folder(const char *path, struct err *err)
{
	CLEANUP_FREE char *folder = must_strdup(path);
	char *slash = strrchr(folder, '/');

	slash[slash == folder] = '\0';
	CLEANUP_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX) < 0)
		return err_set_errno(err, errno, "%s", folder);
	int taken = fd;
	fd = -1;
	return taken;
}

/* Only now, with owner and mode as they are to be, may anybody connect. */
static int give_to_group(const char *path, const char *group, struct err *err)
{
	const struct group *entry = group ? getgrnam(group) : NULL;

	if (group && !entry)
		return err_set(err, "--nbd-group: there is no group '%s'", group);
	if (entry && chown(path, (uid_t)-1, entry->gr_gid) < 0)
		return err_set_errno(err, errno, "cannot give %s to the group '%s'", path, group);
	if (chmod(path, 0660) < 0)
		return err_set_errno(err, errno, "cannot set the mode of %s", path);
	return 0;
}

static int bind_unix(const char *path, const char *group, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int r;

	if (strlen(path) >= sizeof address.sun_path)
		return err_set(err, "%s: longer than %zu bytes, which no socket's path can be",
			path, sizeof address.sun_path - 1);
	memcpy(address.sun_path, path, strlen(path));
	CLEANUP_CLOSE int lock = lock_folder(path, err);
	if (lock < 0 || make_way(path, &address, err) < 0)
		return -1;
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(err, errno, "%s", path);
	mask = umask(0777);
	r = bind(fd, (struct sockaddr *)&address, sizeof address);
	umask(mask);
	if (r < 0)
		return err_set_errno(err, errno, "%s", path);
	r = give_to_group(path, group, err);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = err_set_errno(err, errno, "%s", path);
	if (r < 0) {
		(void)unlink(path);
		return -1;
	}
	int bound = fd;
	fd = -1;
	return bound;
}

static char *absolute(const char *path)
{
	CLEANUP_FREE char *folder = path[0] == '/' ? NULL : getcwd(NULL, 0);
	char *whole = NULL;

	if (!folder)
		return must_strdup(path);
	bug_if(asprintf(&whole, "%s/%s", folder, path) < 0);
	return whole;
}

static int open_unix(struct listeners *listeners, const struct settings *settings,
	const char *given, struct err *err)
{
	CLEANUP_FREE char *path = absolute(given);
	int fd;

	if (path[0] != '/')
		return err_set(err, "%s: the working folder is not known", given);
	fd = bind_unix(path, settings->group, err);
	if (fd < 0)
		return err_wrap(err, "cannot listen");
	put_unix_uri(listeners, settings, path);
	listeners->fds[listeners->count++] = fd;
	listeners->files[listeners->files_count++] = steal(&path);
	return 0;
}

static int open_default(
	struct listeners *listeners, const struct settings *settings, struct err *err)
{
	char folder[PATH_MAX], path[PATH_MAX + 8];

	if (program_run_dir(folder, sizeof folder, err) < 0 || program_make_dir(folder, err) < 0)
		return -1;
	snprintf(path, sizeof path, "%s/nbd", folder);
	return open_unix(listeners, settings, path, err);
}

/* ---- TCP */

/* Of HOST:PORT, [HOST]:PORT; false: it is neither. */
static bool split(const char *text, char *ret_host, size_t size, char *ret_port, size_t port_size)
{
	const char *colon = strrchr(text, ':');
	size_t length;

	if (!colon || colon[1] == '\0' || strlen(colon + 1) >= port_size ||
		strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
		strtoul(colon + 1, NULL, 10) > 65535)
		return false;
	length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && colon[-1] == ']') {
		text++;
		length -= 2;
	} else if (memchr(text, ':', length)) {
		return false;
	}
	if (length >= size)
		return false;
	memcpy(ret_host, text, length);
	ret_host[length] = '\0';
	snprintf(ret_port, port_size, "%s", colon + 1);
	return true;
}

static unsigned port_of(int fd)
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof address;

	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		return 0;
	return ntohs(address.ss_family == AF_INET6
			     ? ((const struct sockaddr_in6 *)&address)->sin6_port
			     : ((const struct sockaddr_in *)&address)->sin_port);
}

static void set_option(int fd, int level, int option, int value)
{
	(void)setsockopt(fd, level, option, &value, sizeof value);
}

/* What a listener has, its connections inherit. */
static void notice_the_gone(int fd)
{
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, GONE_S);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, GONE_S / 6);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
		2 * GONE_S * 1000); /* with an answer on its way */
}

/* -1 with errno. */
static int bind_tcp(const struct addrinfo *info)
{
	CLEANUP_CLOSE int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (info->ai_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	notice_the_gone(fd);
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -1;
	int bound = fd;
	fd = -1;
	return bound;
}

static void check_reach(const struct settings *settings, const char *host, const char *port)
{
	char endpoint[300];

	snprintf(endpoint, sizeof endpoint, strchr(host, ':') ? "tcp://[%s]:%s" : "tcp://%s:%s",
		host, port);
	if (!program_endpoint_is_local(endpoint) && !settings_allow_remote_guests(settings))
		settings_refuse("guests at %s:%s are not on loopback; --nbd-tls require makes that "
				"safe, --insecure allows it",
			host, port);
}

static int open_tcp(struct listeners *listeners, const struct settings *settings,
	const char *address, struct err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *infos = NULL;
	char host[256], port[8];
	size_t before = listeners->count;
	int r, number = 0;

	bug_if(!split(address, host, sizeof host, port, sizeof port));
	r = getaddrinfo(host[0] ? host : NULL, port, &hints, &infos);
	if (r != 0)
		return err_set(err, "cannot listen: %s: %s", address, gai_strerror(r));
	/* A name may stand for addresses that this machine has not. */
	for (const struct addrinfo *info = infos; info && listeners->count < LISTENERS_MAX;
		info = info->ai_next) {
		int fd = bind_tcp(info);

		if (fd >= 0)
			listeners->fds[listeners->count++] = fd;
		else if (number == 0 || errno == EADDRINUSE)
			number = errno;
	}
	freeaddrinfo(infos);
	if (listeners->count == before || number == EADDRINUSE)
		return err_set_errno(
			err, number ? number : EADDRNOTAVAIL, "cannot listen: %s", address);
	put_tcp_uri(listeners, settings, host, port_of(listeners->fds[before]));
	return 0;
}

/* ---- passed by systemd */

/* How many; 0: none, or for another process. */
static size_t count_passed(void)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");

	if (!pid || !count || strtol(pid, NULL, 10) != getpid())
		return 0;
	return strtoul(count, NULL, 10);
}

static int take_passed(
	struct listeners *listeners, const struct settings *settings, int fd, struct err *err)
{
	struct sockaddr_storage address = {0};
	socklen_t length = sizeof address;
	const struct sockaddr_un *local = (const struct sockaddr_un *)&address;
	char host[256], port[8];

	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		return err_set_errno(err, errno, "descriptor %d that was passed is no socket", fd);
	listeners->fds[listeners->count++] = fd;
	if (address.ss_family == AF_UNIX) {
		if (local->sun_path[0] == '/')
			put_unix_uri(listeners, settings, local->sun_path);
		return 0;
	}
	if (getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
		    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return err_set(err, "descriptor %d that was passed has an unknown address", fd);
	check_reach(settings, host, port);
	notice_the_gone(fd);
	put_tcp_uri(listeners, settings, host, (unsigned)strtoul(port, NULL, 10));
	return 0;
}

static int take_all_passed(
	struct listeners *listeners, const struct settings *settings, size_t count, struct err *err)
{
	if (settings->nbd.count > 0)
		settings_refuse("--nbd cannot be given where sockets are passed");
	if (count > LISTENERS_MAX)
		return err_set(
			err, "%zu sockets are passed, at most %d are taken", count, LISTENERS_MAX);
	for (size_t i = 0; i < count; i++) {
		if (take_passed(listeners, settings, FIRST_FD + (int)i, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- all */

/* Before anything is made. */
static void check_all(const struct settings *settings)
{
	char host[256], port[8];

	for (size_t i = 0; i < settings->nbd.count; i++) {
		const char *address = settings->nbd.values[i];

		if (strncmp(address, "unix:", 5) == 0 && address[5] != '\0')
			continue;
		if (strncmp(address, "tcp:", 4) != 0 ||
			!split(address + 4, host, sizeof host, port, sizeof port))
			settings_refuse("--nbd %s is neither unix:PATH nor tcp:HOST:PORT", address);
		check_reach(settings, host, port);
	}
}

static int open_one(struct listeners *listeners, const struct settings *settings,
	const char *address, struct err *err)
{
	if (listeners->count == LISTENERS_MAX)
		return err_set(err, "cannot listen at more than %d addresses", LISTENERS_MAX);
	if (strncmp(address, "unix:", 5) == 0)
		return open_unix(listeners, settings, address + 5, err);
	return open_tcp(listeners, settings, address + 4, err);
}

int listeners_open(struct listeners *listeners, const struct settings *settings, struct err *err)
{
	size_t passed = count_passed();

	*listeners = (struct listeners){0};
	if (passed > 0)
		return take_all_passed(listeners, settings, passed, err);
	if (settings->nbd.count == 0)
		return open_default(listeners, settings, err);
	check_all(settings);
	for (size_t i = 0; i < settings->nbd.count; i++) {
		if (open_one(listeners, settings, settings->nbd.values[i], err) < 0)
			return -1;
	}
	return 0;
}

void listeners_done(struct listeners *listeners)
{
	for (size_t i = 0; i < listeners->count; i++)
		close(listeners->fds[i]);
	for (size_t i = 0; i < listeners->files_count; i++) {
		(void)unlink(listeners->files[i]);
		free(listeners->files[i]);
	}
	free(listeners->uri_before);
	free(listeners->uri_after);
	*listeners = (struct listeners){0};
}

/* First out of the way, so that no descriptor is overwritten that is still to be moved. */
static int move_up(struct listeners *listeners, struct err *err)
{
	int above = FIRST_FD + LISTENERS_MAX;

	for (size_t i = 0; i < listeners->count; i++) {
		int fd = fcntl(listeners->fds[i], F_DUPFD_CLOEXEC, above);

		if (fd < 0)
			return err_set_errno(err, errno, "cannot move a descriptor");
		close(listeners->fds[i]);
		listeners->fds[i] = fd;
	}
	return 0;
}

int listeners_hand_over(struct listeners *listeners, struct err *err)
{
	char pid[24], count[24];

	if (move_up(listeners, err) < 0)
		return -1;
	for (size_t i = 0; i < listeners->count; i++) {
		int place = FIRST_FD + (int)i;

		if (dup2(listeners->fds[i], place) < 0)
			return err_set_errno(err, errno, "cannot move a descriptor");
		close(listeners->fds[i]);
		listeners->fds[i] = place;
	}
	snprintf(pid, sizeof pid, "%d", (int)getpid());
	snprintf(count, sizeof count, "%zu", listeners->count);
	if (setenv("LISTEN_PID", pid, 1) < 0 || setenv("LISTEN_FDS", count, 1) < 0)
		return err_set_errno(err, errno, "cannot set the environment");
	unsetenv("LISTEN_FDNAMES");
	return 0;
}
