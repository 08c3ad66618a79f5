/* SPDX-License-Identifier: Apache-2.0 */
/* The start of a process, its folders, and what it knows of its machine. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/program.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define NOBODY 65534

static void clear_environment(void)
{
	static const char *const names[] = {"SLUICE_RUN_DIR", "SLUICE_STATE_DIR", "XDG_RUNTIME_DIR",
		"XDG_STATE_HOME", "HOME", "NOTIFY_SOCKET", "SLUICE_EXIT_WITH_PARENT"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		unsetenv(names[i]);
}

/* Root's folders are others than a user's. */
static void become_user(void)
{
	if (geteuid() == 0)
		ck_assert_int_eq(seteuid(NOBODY), 0);
}

/* Back again, and such that the leak check may look into the process. */
static void be_as_before(void)
{
	ck_assert_int_eq(seteuid(getuid()), 0);
	prctl(PR_SET_DUMPABLE, 1);
}

START_TEST(start_blocks_stopping_signals_ignores_sigpipe_and_raises_the_limit)
{
	struct rlimit limit;
	struct sigaction action;
	sigset_t blocked;
	clear_environment();
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max / 2;
	setrlimit(RLIMIT_NOFILE, &limit);

	program_start();

	sigprocmask(SIG_BLOCK, NULL, &blocked);
	ck_assert_int_eq(sigismember(&blocked, SIGTERM), 1);
	ck_assert_int_eq(sigismember(&blocked, SIGINT), 1);
	sigaction(SIGPIPE, NULL, &action);
	ck_assert(action.sa_handler == SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &limit);
	ck_assert_uint_eq(limit.rlim_cur, limit.rlim_max);
}
END_TEST

static bool has_pending_sigterm(void)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, SIGTERM);
}

START_TEST(a_process_without_the_variable_does_not_care_for_its_parent)
{
	int wish = -1;
	clear_environment();

	program_start();

	prctl(PR_GET_PDEATHSIG, &wish);
	ck_assert_int_eq(wish, 0);
	ck_assert(!has_pending_sigterm());
}
END_TEST

START_TEST(a_process_that_ends_with_its_parent_asks_for_the_signal)
{
	char parent[32];
	int wish = -1;
	clear_environment();
	snprintf(parent, sizeof parent, "%d", (int)getppid());
	setenv("SLUICE_EXIT_WITH_PARENT", parent, 1);

	program_start();

	prctl(PR_GET_PDEATHSIG, &wish);
	ck_assert_int_eq(wish, SIGTERM);
	ck_assert(!has_pending_sigterm());
}
END_TEST

START_TEST(a_parent_that_has_ended_already_ends_us_too)
{
	clear_environment();
	setenv("SLUICE_EXIT_WITH_PARENT", "4194305", 1); /* above any pid */

	program_start();

	ck_assert(has_pending_sigterm());
}
END_TEST

/* The parent ends while its child waits for the signal; the child says so through a pipe. */
START_TEST(the_death_of_the_parent_is_a_sigterm)
{
	int ends[2];
	char byte = 0;
	clear_environment();
	ck_assert_int_eq(pipe(ends), 0);

	pid_t parent = fork();
	if (parent == 0) {
		if (fork() == 0) {
			sigset_t signals;
			int signal_number;
			setenv("SLUICE_EXIT_WITH_PARENT", "1", 1);
			program_start();
			if (write(ends[1], "r", 1) != 1)
				_exit(1);
			sigemptyset(&signals);
			sigaddset(&signals, SIGTERM);
			sigwait(&signals, &signal_number);
			if (write(ends[1], "t", 1) != 1)
				_exit(1);
			_exit(0);
		}
		pause();
		_exit(0);
	}
	close(ends[1]);
	ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 'r');
	kill(parent, SIGKILL);
	ck_assert_int_eq(waitpid(parent, NULL, 0), parent);

	struct pollfd poll_fd = {.fd = ends[0], .events = POLLIN};
	ck_assert_int_eq(poll(&poll_fd, 1, 20000), 1);
	ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 't');
	close(ends[0]);
}
END_TEST

START_TEST(the_run_directory_is_the_first_that_is_named)
{
	char path[128];
	struct err err;
	clear_environment();
	become_user();

	ck_assert_int_eq(program_run_dir(path, sizeof path, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "SLUICE_RUN_DIR"));
	setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	ck_assert_int_eq(program_run_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/run/user/7/sluice");
	setenv("SLUICE_RUN_DIR", "/x/run", 1);
	ck_assert_int_eq(program_run_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/x/run");
	ck_assert_int_eq(program_endpoint(path, sizeof path, "workers", &err), 0);
	ck_assert_str_eq(path, "ipc:///x/run/workers");
	setenv("SLUICE_RUN_DIR", "", 1);
	ck_assert_int_eq(program_run_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/run/user/7/sluice");
	be_as_before();
}
END_TEST

START_TEST(the_state_directory_is_the_first_that_is_named)
{
	char path[128];
	struct err err;
	clear_environment();
	become_user();

	ck_assert_int_eq(program_state_dir(path, sizeof path, &err), -1);
	setenv("HOME", "/home/u", 1);
	ck_assert_int_eq(program_state_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/home/u/.local/state/sluice");
	setenv("XDG_STATE_HOME", "/s", 1);
	ck_assert_int_eq(program_state_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/s/sluice");
	setenv("SLUICE_STATE_DIR", "/x/state", 1);
	ck_assert_int_eq(program_state_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/x/state");
	be_as_before();
}
END_TEST

START_TEST(root_has_the_directories_of_the_system)
{
	char path[128];
	struct err err;
	clear_environment();
	if (geteuid() != 0)
		return;

	ck_assert_int_eq(program_run_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/run/sluice");
	ck_assert_int_eq(program_state_dir(path, sizeof path, &err), 0);
	ck_assert_str_eq(path, "/var/lib/sluice");
}
END_TEST

START_TEST(a_path_that_does_not_fit_is_an_error)
{
	char path[8];
	struct err err;
	clear_environment();
	setenv("SLUICE_RUN_DIR", "/a/long/path", 1);

	ck_assert_int_eq(program_run_dir(path, sizeof path, &err), -1);
	ck_assert_int_eq(program_endpoint(path, sizeof path, "x", &err), -1);
}
END_TEST

static unsigned mode_of(const char *path)
{
	struct stat status;

	ck_assert_int_eq(stat(path, &status), 0);
	return status.st_mode & 07777;
}

START_TEST(a_folder_is_made_with_its_parents_whatever_the_umask)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct err err;
	umask(077);

	ck_assert_msg(program_make_dir(folder_name(&folder, "a/b//c/"), &err) == 0, "%s", err.text);

	ck_assert_uint_eq(mode_of(folder_name(&folder, "a")), 0755);
	ck_assert_uint_eq(mode_of(folder_name(&folder, "a/b")), 0755);
	ck_assert_uint_eq(mode_of(folder_name(&folder, "a/b/c")), 0750);
	ck_assert_int_eq(chmod(folder_name(&folder, "a/b/c"), 0700), 0);
	ck_assert_int_eq(program_make_dir(folder_name(&folder, "a/b/c"), &err), 0);
	ck_assert_uint_eq(mode_of(folder_name(&folder, "a/b/c")), 0700);
}
END_TEST

START_TEST(a_file_where_a_folder_should_be_is_an_error)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct err err;

	fclose(fopen(folder_name(&folder, "file"), "w"));

	ck_assert_int_eq(program_make_dir(folder_name(&folder, "file"), &err), -1);
	ck_assert_int_eq(err.number, ENOTDIR);
	ck_assert_int_eq(program_make_dir(folder_name(&folder, "file/below"), &err), -1);
}
END_TEST

START_TEST(a_folder_is_locked_by_one_process_until_it_ends)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	struct err err;
	int ends[2];
	char byte;
	ck_assert_int_eq(pipe(ends), 0);

	pid_t holder = fork();
	if (holder == 0) {
		byte = program_lock_dir(folder.path, "broker", NULL) == 0 ? 'l' : 'x';
		if (write(ends[1], &byte, 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 'l');
	ck_assert_int_eq(program_lock_dir(folder.path, "broker", &err), 1);
	ck_assert_int_eq(program_lock_dir(folder.path, "other", &err), 0);
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);

	ck_assert_int_eq(program_lock_dir(folder.path, "broker", &err), 0);
	ck_assert_int_eq(program_lock_dir(folder_name(&folder, "none"), "broker", &err), -1);
}
END_TEST

START_TEST(only_loopback_endpoints_are_local)
{
	static const char *const local[] = {"ipc:///run/x", "inproc://x", "tcp://127.0.0.1:5555",
		"tcp://127.8.9.10:1", "tcp://[::1]:5555", "tcp://localhost:5555"};
	static const char *const remote[] = {"tcp://10.0.0.1:5555", "tcp://127.evil.example:5555",
		"tcp://127.0.0.1.evil.example:1", "tcp://*:5555", "tcp://0.0.0.0:5555",
		"tcp://[::]:5555", "tcp://localhost.evil.example:1",
		"tcp://127.0.0.1:0;10.0.0.1:5555", "tcp://lo:5555", "tcp://", "tcp://:5555",
		"tcp://127.0.0.1", "udp://127.0.0.1:1", "", "tcp://[::1", "tcp://[fe80::1]:5"};

	for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
		ck_assert_msg(program_endpoint_is_local(local[i]) == 1, "%s", local[i]);
	for (size_t i = 0; i < sizeof remote / sizeof remote[0]; i++)
		ck_assert_msg(program_endpoint_is_local(remote[i]) == 0, "%s", remote[i]);
}
END_TEST

/* A supervisor's socket of the given name (a first NUL: abstract). */
static int make_supervisor(const char *name, size_t length)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, name, length);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
		0);
	return fd;
}

static void assert_was_told(int fd)
{
	char text[32] = "";

	ck_assert_int_eq(recv(fd, text, sizeof text - 1, 0), 7);
	ck_assert_str_eq(text, "READY=1");
}

START_TEST(readiness_is_said_to_a_socket_file_and_to_an_abstract_one)
{
	CLEANUP(folder_remove) struct folder folder = folder_make();
	char name[100];
	clear_environment();

	const char *path = folder_name(&folder, "notify");
	int fd = make_supervisor(path, strlen(path));
	setenv("NOTIFY_SOCKET", path, 1);
	program_say_ready();
	assert_was_told(fd);
	close(fd);

	int length = snprintf(name, sizeof name, "@%s", folder.path);
	setenv("NOTIFY_SOCKET", name, 1);
	name[0] = '\0';
	fd = make_supervisor(name, (size_t)length);
	program_say_ready();
	assert_was_told(fd);
	close(fd);
}
END_TEST

START_TEST(nobody_to_tell_is_no_trouble)
{
	char name[300];
	clear_environment();

	program_say_ready();
	setenv("NOTIFY_SOCKET", "/nowhere/at/all", 1);
	program_say_ready();
	setenv("NOTIFY_SOCKET", "relative", 1);
	program_say_ready();
	memset(name, 'x', sizeof name - 1);
	name[0] = '/';
	name[sizeof name - 1] = '\0';
	setenv("NOTIFY_SOCKET", name, 1);
	program_say_ready();
}
END_TEST

START_TEST(the_machine_has_a_name_and_a_boot_id)
{
	char name[65];
	char id[64];
	char small[4];
	struct err err;

	ck_assert_int_eq(program_host_name(name, sizeof name, &err), 0);
	ck_assert_uint_eq(
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"),
		strlen(name));
	ck_assert(strchr("0123456789-._", name[0]) == NULL);
	ck_assert_int_eq(program_boot_id(id, sizeof id, &err), 0);
	ck_assert_uint_eq(strlen(id), 36);
	ck_assert_int_eq(program_boot_id(small, sizeof small, &err), -1);
}
END_TEST

UNIT_MAIN("program", start_blocks_stopping_signals_ignores_sigpipe_and_raises_the_limit,
	a_process_without_the_variable_does_not_care_for_its_parent,
	a_process_that_ends_with_its_parent_asks_for_the_signal,
	a_parent_that_has_ended_already_ends_us_too, the_death_of_the_parent_is_a_sigterm,
	the_run_directory_is_the_first_that_is_named,
	the_state_directory_is_the_first_that_is_named, root_has_the_directories_of_the_system,
	a_path_that_does_not_fit_is_an_error, a_folder_is_made_with_its_parents_whatever_the_umask,
	a_file_where_a_folder_should_be_is_an_error,
	a_folder_is_locked_by_one_process_until_it_ends, only_loopback_endpoints_are_local,
	readiness_is_said_to_a_socket_file_and_to_an_abstract_one, nobody_to_tell_is_no_trouble,
	the_machine_has_a_name_and_a_boot_id)
