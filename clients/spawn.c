/* SPDX-License-Identifier: Apache-2.0 */
/* posix_spawn, readiness by sd_notify datagrams, ends by pidfd. */
#include "clients/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/random.h"

#define WORKER_PROGRAM	 "sluice-worker"
#define ARGUMENTS_MAX	 (2 * OPTION_LIST_MAX * 2 + 16)
#define CHILDREN_MAX	 (SPAWN_WORKERS_MAX + 2)
#define READY_MS	 20000
#define REPLACEMENTS_MAX 16 /* workers in the life of a system; one that ends more often is ill */
#define END_MS		 11000 /* imaged may take ten seconds to close its files */
#define FOLDER_MAX	 64    /* sockets lie in it, and their paths are short */

extern char **environ;

struct child {
	const char *program;
	pid_t pid;
	int pidfd;
	int notify_fd; /* its datagrams come here */
	int status;    /* of waitpid, once it is reaped */
	bool is_reaped;
};

struct spawn {
	struct spawn_options options;
	struct watch *watch;
	char bin[PATH_MAX];    /* where the programs are */
	char folder[PATH_MAX]; /* "" unless private */
	char run_dir[PATH_MAX + 16], state_dir[PATH_MAX + 16], log_path[PATH_MAX + 16];
	struct child children[CHILDREN_MAX]; /* in the order of their start */
	size_t children_count;
	size_t replacements;
};

/* ---- folders */

static int find_programs(struct spawn *spawn, struct err *err)
{
	ssize_t length = readlink("/proc/self/exe", spawn->bin, sizeof spawn->bin - 1);
	if (length < 0)
		return err_set_errno(err, errno, "cannot find the own program");

	spawn->bin[length] = '\0';
	char *slash = strrchr(spawn->bin, '/');
	if (slash)
		*slash = '\0';
	return 0;
}

static int make_folder(struct spawn *spawn, struct err *err)
{
	const char *parent = getenv("TMPDIR");

	if (!parent || parent[0] != '/' || strlen(parent) > FOLDER_MAX)
		parent = "/tmp";
	snprintf(spawn->folder, sizeof spawn->folder, "%s/sluice-XXXXXX", parent);
	if (!mkdtemp(spawn->folder)) {
		int number = errno;
		spawn->folder[0] = '\0';
		return err_set_errno(err, number, "cannot make a temporary folder in %s", parent);
	}
	snprintf(spawn->run_dir, sizeof spawn->run_dir, "%s/run", spawn->folder);
	snprintf(spawn->state_dir, sizeof spawn->state_dir, "%s/state", spawn->folder);
	snprintf(spawn->log_path, sizeof spawn->log_path, "%s/log", spawn->folder);
	if (mkdir(spawn->run_dir, 0750) < 0 || mkdir(spawn->state_dir, 0750) < 0)
		return err_set_errno(err, errno, "cannot make a folder in %s", spawn->folder);
	return 0;
}

static int remove_entry(const char *path, const struct stat *status UNUSED, int type UNUSED,
	struct FTW *place UNUSED)
{
	return remove(path);
}

/* ---- one child */

/* A socket at an abstract address that the child will write to. */
static int open_notify(char *ret_address, size_t size, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(ret_address, size, "@sluice-%016" PRIx64, random_id());
	memcpy(address.sun_path, ret_address, strlen(ret_address));
	address.sun_path[0] = '\0';
	socklen_t length =
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(ret_address));
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0)
		return err_set_errno(err, errno, "cannot make a socket");
	int opened = fd;
	fd = -1;
	return opened;
}

/* Our environment with some variables set anew. */
struct environment {
	char **variables;
	char *own[4]; /* to be freed */
	size_t own_count;
};

static bool is_variable(const char *entry, const char *name)
{
	size_t length = strlen(name);

	return strncmp(entry, name, length) == 0 && entry[length] == '=';
}

static void environment_set(
	struct environment *environment, size_t *count, const char *name, const char *value)
{
	char *entry = NULL;
	size_t kept = 0;

	for (size_t i = 0; i < *count; i++) {
		if (!is_variable(environment->variables[i], name))
			environment->variables[kept++] = environment->variables[i];
	}
	bug_if(asprintf(&entry, "%s=%s", name, value) < 0);
	environment->own[environment->own_count++] = entry;
	environment->variables[kept++] = entry;
	*count = kept;
}

static void environment_init(
	struct environment *environment, const struct spawn *spawn, const char *notify)
{
	char parent[24];
	size_t count = 0;

	*environment = (struct environment){0};
	while (environ[count])
		count++;
	environment->variables = must_calloc(count + 5, sizeof(char *));
	memcpy(environment->variables, environ, count * sizeof(char *));
	snprintf(parent, sizeof parent, "%d", (int)getpid());
	environment_set(environment, &count, "SLUICE_EXIT_WITH_PARENT", parent);
	environment_set(environment, &count, "NOTIFY_SOCKET", notify);
	if (spawn->folder[0]) {
		environment_set(environment, &count, "SLUICE_RUN_DIR", spawn->run_dir);
		environment_set(environment, &count, "SLUICE_STATE_DIR", spawn->state_dir);
	}
	environment->variables[count] = NULL;
}

static void environment_done(struct environment *environment)
{
	for (size_t i = 0; i < environment->own_count; i++)
		free(environment->own[i]);
	free(environment->variables);
}

/* No signal blocked or ignored, and a process group of its own, so that Ctrl-C on the terminal reaches only us. */
static void prepare_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, defaults;

	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	sigaddset(&defaults, SIGXFSZ);
	posix_spawnattr_init(attributes);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &defaults);
	posix_spawnattr_setpgroup(attributes, 0);
	posix_spawnattr_setflags(
		attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

static void prepare_files(posix_spawn_file_actions_t *files, const struct spawn *spawn)
{
	posix_spawn_file_actions_init(files);
	posix_spawn_file_actions_addopen(files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	if (!spawn->folder[0])
		return;
	posix_spawn_file_actions_addopen(
		files, STDERR_FILENO, spawn->log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(files, STDERR_FILENO, STDOUT_FILENO);
}

static int run_program(const struct spawn *spawn, const char *program, const char *const *arguments,
	char *const *variables, pid_t *ret_pid, struct err *err)
{
	char path[PATH_MAX + 64];
	posix_spawnattr_t attributes;
	posix_spawn_file_actions_t files;

	snprintf(path, sizeof path, "%s/%s", spawn->bin, program);
	prepare_attributes(&attributes);
	prepare_files(&files, spawn);
	int number = posix_spawn(
		ret_pid, path, &files, &attributes, (char *const *)(uintptr_t)arguments, variables);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attributes);
	return number ? err_set_errno(err, number, "cannot start %s", path) : 0;
}

/* `arguments` begins with the program's name and ends with NULL.  On failure the child is as it was before. */
static int start_child(
	struct spawn *spawn, struct child *ret_child, const char *const *arguments, struct err *err)
{
	struct child child = {.program = arguments[0], .pidfd = -1};
	struct environment environment;
	char notify[64];

	child.notify_fd = open_notify(notify, sizeof notify, err);
	if (child.notify_fd < 0)
		return -1;
	environment_init(&environment, spawn, notify);
	int rc =
		run_program(spawn, arguments[0], arguments, environment.variables, &child.pid, err);
	environment_done(&environment);
	if (rc < 0) {
		close(child.notify_fd);
		return -1;
	}
	child.pidfd = (int)syscall(SYS_pidfd_open, child.pid, 0);
	bug_if(child.pidfd < 0); /* our own child, not waited for: it can't be gone */
	watch_add_child(spawn->watch, child.pidfd);
	*ret_child = child;
	return 0;
}

static int add_child(struct spawn *spawn, const char *const *arguments, struct err *err)
{
	bug_if(spawn->children_count == CHILDREN_MAX);
	if (start_child(spawn, &spawn->children[spawn->children_count], arguments, err) < 0)
		return -1;
	spawn->children_count++;
	return 0;
}

static bool has_said_ready(struct child *child)
{
	char text[256];
	ssize_t length = recv(child->notify_fd, text, sizeof text - 1, 0);

	if (length <= 0)
		return false;
	text[length] = '\0';
	return strstr(text, "READY=1") != NULL;
}

static int wait_until_ready(struct spawn *spawn, struct child *child, struct err *err)
{
	uint64_t deadline_ms = clock_monotonic_ms() + READY_MS;

	for (;;) {
		struct pollfd polled[] = {
			{.fd = child->notify_fd, .events = POLLIN},
			{.fd = child->pidfd, .events = POLLIN},
			{.fd = watch_descriptor(spawn->watch), .events = POLLIN},
		};
		uint64_t now_ms = clock_monotonic_ms();

		if (now_ms >= deadline_ms)
			return err_set(err, "%s did not become ready within %d seconds",
				child->program, READY_MS / 1000);
		if (poll(polled, 3, (int)(deadline_ms - now_ms)) < 0 && errno != EINTR)
			return err_set_errno(err, errno, "cannot wait for %s", child->program);
		if (has_said_ready(child))
			return 0;
		if (polled[1].revents)
			return spawn_describe_end(spawn, err);
		if (polled[2].revents)
			return err_set(err, "interrupted");
	}
}

/* ---- ends */

static bool reap(struct child *child)
{
	if (!child->is_reaped && waitpid(child->pid, &child->status, WNOHANG) == child->pid)
		child->is_reaped = true;
	return child->is_reaped;
}

static void forget_child(struct spawn *spawn, struct child *child)
{
	watch_forget_child(spawn->watch, child->pidfd);
	close(child->pidfd);
	close(child->notify_fd);
}

static void end_child(struct spawn *spawn, struct child *child, uint64_t deadline_ms)
{
	struct pollfd polled = {.fd = child->pidfd, .events = POLLIN};

	while (!reap(child)) {
		uint64_t now_ms = clock_monotonic_ms();
		int timeout_ms = now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0;
		if (poll(&polled, 1, timeout_ms) != 0)
			continue;
		kill(child->pid, SIGKILL);
		if (waitpid(child->pid, &child->status, 0) == child->pid)
			child->is_reaped = true;
		break;
	}
	forget_child(spawn, child);
}

/* The newest first: workers, then imaged, then the broker, each kind only after those before it have ended. */
static void end_children(struct spawn *spawn)
{
	while (spawn->children_count > 0) {
		const char *program = spawn->children[spawn->children_count - 1].program;
		size_t first = spawn->children_count;

		while (first > 0 && strcmp(spawn->children[first - 1].program, program) == 0)
			first--;
		for (size_t i = first; i < spawn->children_count; i++) {
			if (!reap(&spawn->children[i]))
				kill(spawn->children[i].pid, SIGTERM);
		}
		uint64_t deadline_ms = clock_monotonic_ms() + END_MS;
		for (size_t i = first; i < spawn->children_count; i++)
			end_child(spawn, &spawn->children[i], deadline_ms);
		spawn->children_count = first;
	}
}

/* The last line of the log that this program wrote, without its time; "" if there is none. */
static void find_last_words(
	const struct spawn *spawn, const char *program, char *ret_line, size_t size)
{
	CLEANUP_FREE char *line = NULL;
	size_t room = 0;
	FILE *log = spawn->folder[0] ? fopen(spawn->log_path, "re") : NULL;

	ret_line[0] = '\0';
	while (log && getline(&line, &room, log) > 0) {
		const char *found = strstr(line, program);
		if (!found)
			continue;
		found += strlen(program);
		snprintf(ret_line, size, "%s", found);
		ret_line[strcspn(ret_line, "\n")] = '\0';
	}
	if (log)
		fclose(log);
}

int spawn_describe_end(struct spawn *spawn, struct err *err)
{
	char words[1024];

	for (size_t i = 0; i < spawn->children_count; i++) {
		struct child *child = &spawn->children[i];
		if (!reap(child))
			continue;
		find_last_words(spawn, child->program, words, sizeof words);
		if (WIFSIGNALED(child->status))
			return err_set(err, "%s was ended by signal %d%s", child->program,
				WTERMSIG(child->status), words);
		return err_set(err, "%s ended with status %d%s", child->program,
			WEXITSTATUS(child->status), words);
	}
	return err_set(err, "a process of the system ended");
}

/* ---- the whole */

static const char **add_roots(const char **at, const struct spawn *spawn)
{
	for (size_t i = 0; i < spawn->options.roots->count; i++) {
		*at++ = "--root";
		*at++ = spawn->options.roots->values[i];
	}
	return at;
}

static int start_broker(struct spawn *spawn, struct err *err)
{
	const char *arguments[] = {"sluice-broker", NULL};

	if (add_child(spawn, arguments, err) < 0)
		return -1;
	return wait_until_ready(spawn, &spawn->children[0], err);
}

static int start_imaged(struct spawn *spawn, struct err *err)
{
	const struct option_list *devices = spawn->options.devices;
	const char *arguments[ARGUMENTS_MAX] = {"sluice-imaged"};
	const char **at = add_roots(arguments + 1, spawn);

	for (size_t i = 0; devices && i < devices->count; i++) {
		*at++ = "--device";
		*at++ = devices->values[i];
	}
	return add_child(spawn, arguments, err);
}

static int start_worker(struct spawn *spawn, struct err *err)
{
	const char *arguments[ARGUMENTS_MAX] = {WORKER_PROGRAM};

	(void)add_roots(arguments + 1, spawn);
	return add_child(spawn, arguments, err);
}

static int start_all(struct spawn *spawn, struct err *err)
{
	if (start_broker(spawn, err) < 0 || start_imaged(spawn, err) < 0)
		return -1;
	for (uint64_t i = 0; i < spawn->options.workers; i++) {
		if (start_worker(spawn, err) < 0)
			return -1;
	}
	for (size_t i = 1; i < spawn->children_count; i++) {
		if (wait_until_ready(spawn, &spawn->children[i], err) < 0)
			return -1;
	}
	return 0;
}

static int replace_worker(struct spawn *spawn, struct child *child, struct err *err)
{
	const char *arguments[ARGUMENTS_MAX] = {WORKER_PROGRAM};
	struct child successor;

	(void)add_roots(arguments + 1, spawn);
	if (start_child(spawn, &successor, arguments, err) < 0)
		return -1;
	forget_child(spawn, child);
	*child = successor;
	spawn->replacements++;
	return 0;
}

int spawn_mend(struct spawn *spawn, struct err *err)
{
	for (size_t i = 0; i < spawn->children_count; i++) {
		struct child *child = &spawn->children[i];
		if (!reap(child))
			continue;
		if (strcmp(child->program, WORKER_PROGRAM) != 0 ||
			spawn->replacements == REPLACEMENTS_MAX)
			return spawn_describe_end(spawn, err);
		if (replace_worker(spawn, child, err) < 0)
			return -1;
	}
	return 0;
}

struct spawn *spawn_new(const struct spawn_options *options, struct watch *watch, struct err *err)
{
	CLEANUP(spawn_cleanup) struct spawn *spawn = must_calloc(1, sizeof *spawn);

	bug_if(options->workers > SPAWN_WORKERS_MAX);
	spawn->options = *options;
	spawn->watch = watch;
	if (find_programs(spawn, err) < 0)
		return NULL;
	if (options->is_private && make_folder(spawn, err) < 0)
		return NULL;
	if (start_all(spawn, err) < 0)
		return NULL;
	return steal(&spawn);
}

void spawn_free(struct spawn *spawn)
{
	if (!spawn)
		return;
	end_children(spawn);
	if (spawn->folder[0])
		nftw(spawn->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
	free(spawn);
}

const char *spawn_run_dir(const struct spawn *spawn)
{
	return spawn->folder[0] ? spawn->run_dir : NULL;
}
