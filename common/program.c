/* SPDX-License-Identifier: Apache-2.0 */
/* What every process does at its start, and what it asks about the machine it runs on. */
#include "common/program.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"

#define HOST_NAME_BYTES 64

/* SIGTERM from the kernel when the parent ends; at once where it has ended already.  The variable's
 * value is the parent's pid where that is known, else any other word. */
static void exit_with_parent(void)
{
	const char *value = getenv("SLUICE_EXIT_WITH_PARENT");
	if (!value || !value[0])
		return;

	pid_t parent = getppid();
	long expected = strtol(value, NULL, 10);
	prctl(PR_SET_PDEATHSIG, SIGTERM);

	bool is_gone = expected > 1 ? getppid() != expected : getppid() != parent;
	if (is_gone && getppid() != 0)
		kill(getpid(), SIGTERM);
}

void program_start(void)
{
	sigset_t signals;
	struct rlimit limit;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a write says EFBIG instead */

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	exit_with_parent();
}

/* The variable's value, NULL where it is unset or empty. */
static const char *environment(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] ? value : NULL;
}

static int MUST_CHECK PRINTF_LIKE(4, 5)
	put_path(char *buffer, size_t size, struct err *err, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	int length = vsnprintf(buffer, size, format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= size)
		return err_set(err, "%s...: the path is longer than %zu bytes", buffer, size - 1);
	return 0;
}

int program_run_dir(char *buffer, size_t size, struct err *err)
{
	const char *named = environment("SLUICE_RUN_DIR");
	if (named)
		return put_path(buffer, size, err, "%s", named);
	if (geteuid() == 0)
		return put_path(buffer, size, err, "/run/sluice");
	const char *runtime = environment("XDG_RUNTIME_DIR");
	if (runtime)
		return put_path(buffer, size, err, "%s/sluice", runtime);
	return err_set(err, "no run directory: neither SLUICE_RUN_DIR nor XDG_RUNTIME_DIR is set");
}

int program_state_dir(char *buffer, size_t size, struct err *err)
{
	const char *named = environment("SLUICE_STATE_DIR");
	if (named)
		return put_path(buffer, size, err, "%s", named);
	if (geteuid() == 0)
		return put_path(buffer, size, err, "/var/lib/sluice");
	const char *state = environment("XDG_STATE_HOME");
	if (state)
		return put_path(buffer, size, err, "%s/sluice", state);
	const char *home = environment("HOME");
	if (home)
		return put_path(buffer, size, err, "%s/.local/state/sluice", home);
	return err_set(err,
		"no state directory: none of SLUICE_STATE_DIR, XDG_STATE_HOME and HOME is set");
}

int program_endpoint(char *buffer, size_t size, const char *name, struct err *err)
{
	char folder[PATH_MAX];

	if (program_run_dir(folder, sizeof folder, err) < 0)
		return -1;
	return put_path(buffer, size, err, "ipc://%s/%s", folder, name);
}

static bool is_folder(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* Makes one folder; one that is there is fine. */
static int make_one_dir(const char *path, mode_t mode, struct err *err)
{
	if (mkdir(path, mode) == 0) {
		if (chmod(path, mode) < 0)
			return err_set_errno(err, errno, "cannot set the mode of %s", path);
		return 0;
	}
	if (is_folder(path))
		return 0;
	return err_set_errno(
		err, errno == EEXIST ? ENOTDIR : errno, "cannot make the folder %s", path);
}

int program_make_dir(const char *folder, struct err *err)
{
	CLEANUP_FREE char *path = must_strdup(folder);
	size_t length = strlen(path);

	if (is_folder(folder))
		return 0;
	while (length > 1 && path[length - 1] == '/')
		path[--length] = '\0';
	for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
		*slash = '\0';
		if (!is_folder(path) && make_one_dir(path, 0755, err) < 0)
			return -1;
		*slash = '/';
	}
	return make_one_dir(path, 0750, err);
}

/* The descriptor is left open on purpose: the lock lives as long as the process. */
int program_lock_dir(const char *folder, const char *name, struct err *err)
{
	char path[PATH_MAX];

	if (put_path(path, sizeof path, err, "%s/%s.lock", folder, name) < 0)
		return -1;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0640);
	if (fd < 0)
		return err_set_errno(err, errno, "cannot open the lock file %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;

	int number = errno;
	close(fd);
	if (number == EWOULDBLOCK)
		return 1;
	return err_set_errno(err, number, "cannot lock %s", path);
}

/* Whether "HOST:PORT" names this machine.  A name that only begins like a loopback address does
 * not, and neither does what libzmq also takes, "SOURCE:PORT;HOST:PORT". */
static bool host_is_loopback(const char *address)
{
	const char *colon = strrchr(address, ':');
	char host[64];
	struct in_addr v4;

	if (!colon || colon == address || (size_t)(colon - address) >= sizeof host)
		return false;
	memcpy(host, address, (size_t)(colon - address));
	host[colon - address] = '\0';
	if (strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
		return true;
	return inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

int program_endpoint_is_local(const char *endpoint)
{
	if (strncmp(endpoint, "ipc://", 6) == 0 || strncmp(endpoint, "inproc://", 9) == 0)
		return 1;
	if (strncmp(endpoint, "tcp://", 6) != 0)
		return 0;
	return host_is_loopback(endpoint + 6) ? 1 : 0;
}

void program_say_ready(void)
{
	static const char ready[] = "READY=1";
	const char *path = environment("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (!path)
		return;
	size_t length = strlen(path);
	if ((path[0] != '/' && path[0] != '@') || length < 2 || length >= sizeof address.sun_path) {
		log_warn("NOTIFY_SOCKET=%s is no socket address; nobody was told that we are ready",
			path);
		return;
	}
	memcpy(address.sun_path, path, length);
	if (path[0] == '@')
		address.sun_path[0] = '\0';

	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	if (fd < 0 || sendto(fd, ready, strlen(ready), MSG_NOSIGNAL, (struct sockaddr *)&address,
			      address_length) < 0)
		log_warn("cannot tell %s that we are ready: %s", path, strerrordesc_np(errno));
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_name_character(char c)
{
	return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

int program_host_name(char *buffer, size_t size, struct err *err)
{
	char host[256] = "";
	char name[HOST_NAME_BYTES + 1];

	if (gethostname(host, sizeof host - 1) < 0)
		return err_set_errno(err, errno, "cannot read this machine's name");
	const char *prefix = is_letter(host[0]) ? "" : "host-";
	int room = HOST_NAME_BYTES - (int)strlen(prefix);
	snprintf(name, sizeof name, "%s%.*s", prefix, room, host);
	for (char *c = name; *c; c++) {
		if (!is_name_character(*c))
			*c = '-';
	}
	return put_path(buffer, size, err, "%s", name);
}

int program_boot_id(char *buffer, size_t size, struct err *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	char id[64] = "";

	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set_errno(err, errno, "cannot open %s", path);
	if (pread_up_to(fd, id, sizeof id - 1, 0) <= 0)
		return err_set(err, "cannot read %s", path);
	id[strcspn(id, "\n")] = '\0';
	return put_path(buffer, size, err, "%s", id);
}
