/* SPDX-License-Identifier: Apache-2.0 */
/* A library for LD_PRELOAD that lets a process die, or its disk fill up, at a chosen write.
 *
 * It counts calls of write, pwrite, fdatasync, fsync, fallocate and ftruncate on files whose path begins with SLUICE_KILL_UNDER.
 *   SLUICE_KILL_AFTER=n   the process gets SIGKILL around the n-th such call (from 1)
 *   SLUICE_KILL_MODE=     before, after (default), or half: of a write of more than 512 bytes only the first half happens
 *   SLUICE_STOP_BEFORE=n  the process gets SIGSTOP before the n-th pwrite among them (from 1), and makes it when it is woken
 *   SLUICE_STOP_SIGN=f    the file f appears once that pwrite was made
 *   SLUICE_FULL_ABOVE=b   such a file cannot grow past b bytes: ENOSPC
 *   SLUICE_FLUSH_FAILS=f  while a file f is there, fdatasync and fsync fail with EIO
 *   SLUICE_WRITE_LOG=f    each call is recorded in f as it ends, for replaying a power cut: the byte 'w', 'f' (flush), 't' (cut), 'a'
 *                         (allocate) or 'p' (punch), two 64-bit numbers in the host's order (offset and length), and what was written;
 *                         flushes also when they begin ('b') or fail ('x'): their two numbers are their own and 0 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned long calls, writes;
static atomic_uint_fast64_t flushes;
static int log_fd = -1;

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset);
int fallocate64(int fd, int mode, off64_t offset, off64_t length);
int ftruncate64(int fd, off64_t length);

/* The C library's own function into a pointer to it. */
static void find_real(void *ret_function, const char *name)
{
	void *symbol = dlsym(RTLD_NEXT, name);

	memcpy(ret_function, &symbol, sizeof(symbol));
}

static bool is_ours(int fd)
{
	const char *under = getenv("SLUICE_KILL_UNDER");
	char link[64], path[4096];
	ssize_t length;

	if (!under)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0)
		return false;
	path[length] = '\0';
	return strncmp(path, under, strlen(under)) == 0;
}

static bool mode_is(const char *mode)
{
	const char *chosen = getenv("SLUICE_KILL_MODE");

	return strcmp(chosen ? chosen : "after", mode) == 0;
}

static bool is_number(const char *variable, unsigned long n)
{
	const char *wanted = getenv(variable);

	return wanted && strtoul(wanted, NULL, 10) == n;
}

/* Whether this is the call to die at; counts it. */
static bool is_the_one(int fd)
{
	unsigned long n;

	if (!is_ours(fd))
		return false;
	pthread_mutex_lock(&lock);
	n = ++calls;
	pthread_mutex_unlock(&lock);
	return is_number("SLUICE_KILL_AFTER", n);
}

/* Stops the process if this is the write to stop before; true: it was, and the process has been woken since. */
static bool slept_before_write(int fd)
{
	unsigned long n;

	if (!getenv("SLUICE_STOP_BEFORE") || !is_ours(fd))
		return false;
	pthread_mutex_lock(&lock);
	n = ++writes;
	pthread_mutex_unlock(&lock);
	if (!is_number("SLUICE_STOP_BEFORE", n))
		return false;
	/* To this thread, which then cannot go on: one sent to the process is taken by whichever thread comes first, and until that
	 * one has stopped the others this one may have written already. */
	raise(SIGSTOP);
	return true;
}

static void tell_woken(void)
{
	const char *sign = getenv("SLUICE_STOP_SIGN");
	int fd = sign ? open(sign, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd >= 0)
		close(fd);
}

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static bool is_full(int fd, off64_t end)
{
	const char *limit = getenv("SLUICE_FULL_ABOVE");
	struct stat status;

	return limit && is_ours(fd) && fstat(fd, &status) == 0 && end > status.st_size &&
	       end > (off64_t)strtoull(limit, NULL, 10);
}

static bool flushes_fail(int fd)
{
	const char *sign = getenv("SLUICE_FLUSH_FAILS");

	return sign && is_ours(fd) && access(sign, F_OK) == 0;
}

static void record(char what, int fd, uint64_t offset, uint64_t length, const void *bytes)
{
	const char *path = getenv("SLUICE_WRITE_LOG");
	ssize_t (*real)(int, const void *, size_t);
	uint64_t numbers[2] = {offset, length};
	bool is_whole = true;

	find_real(&real, "write");
	if (!path || !is_ours(fd))
		return;
	pthread_mutex_lock(&lock);
	if (log_fd < 0)
		log_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	is_whole = real(log_fd, &what, 1) == 1 && real(log_fd, numbers, 16) == 16;
	if (bytes)
		is_whole = is_whole && real(log_fd, bytes, length) == (ssize_t)length;
	pthread_mutex_unlock(&lock);
	if (!is_whole)
		abort();
}

static ssize_t counted_pwrite(int fd, const void *bytes, size_t length, off64_t offset)
{
	ssize_t (*real)(int, const void *, size_t, off64_t);
	bool dies = is_the_one(fd), slept = slept_before_write(fd);
	ssize_t done;

	find_real(&real, "pwrite64");
	if (dies && mode_is("before"))
		die();
	if (dies && mode_is("half") && length > 512)
		length = length / 2 & ~(size_t)511;
	if (is_full(fd, offset + (off64_t)length)) {
		errno = ENOSPC;
		return -1;
	}
	done = real(fd, bytes, length, offset);
	if (slept)
		tell_woken();
	if (done > 0)
		record('w', fd, (uint64_t)offset, (uint64_t)done, bytes);
	if (dies)
		die();
	return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
	return counted_pwrite(fd, bytes, length, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset)
{
	return counted_pwrite(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	ssize_t (*real)(int, const void *, size_t);
	bool dies = is_the_one(fd);
	ssize_t done;

	find_real(&real, "write");
	if (dies && mode_is("before"))
		die();
	done = real(fd, bytes, length);
	if (dies)
		die();
	return done;
}

static int counted_sync(int fd, const char *name)
{
	int (*real)(int);
	bool dies = is_the_one(fd);
	uint64_t number = atomic_fetch_add(&flushes, 1);
	int outcome;

	find_real(&real, name);
	if (dies && !mode_is("after"))
		die();
	record('b', fd, number, 0, NULL);
	if (flushes_fail(fd)) {
		record('x', fd, number, 0, NULL);
		errno = EIO;
		return -1;
	}
	outcome = real(fd);
	if (outcome == 0)
		record('f', fd, number, 0, NULL);
	if (dies)
		die();
	return outcome;
}

int fdatasync(int fd)
{
	return counted_sync(fd, "fdatasync");
}

int fsync(int fd)
{
	return counted_sync(fd, "fsync");
}

static int counted_fallocate(int fd, int mode, off64_t offset, off64_t length)
{
	int (*real)(int, int, off64_t, off64_t);
	bool dies = is_the_one(fd);
	int outcome;

	find_real(&real, "fallocate64");
	if (dies && !mode_is("after"))
		die();
	if (mode == 0 && is_full(fd, offset + length)) {
		errno = ENOSPC;
		return -1;
	}
	outcome = real(fd, mode, offset, length);
	if (outcome == 0)
		record(mode == 0 ? 'a' : 'p', fd, (uint64_t)offset, (uint64_t)length, NULL);
	if (dies)
		die();
	return outcome;
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
	return counted_fallocate(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	return counted_fallocate(fd, mode, offset, length);
}

static int counted_ftruncate(int fd, off64_t length)
{
	int (*real)(int, off64_t);
	bool dies = is_the_one(fd);
	int outcome;

	find_real(&real, "ftruncate64");
	if (dies && !mode_is("after"))
		die();
	if (is_full(fd, length)) {
		errno = ENOSPC;
		return -1;
	}
	outcome = real(fd, length);
	if (outcome == 0)
		record('t', fd, (uint64_t)length, 0, NULL);
	if (dies)
		die();
	return outcome;
}

int ftruncate(int fd, off_t length)
{
	return counted_ftruncate(fd, length);
}

int ftruncate64(int fd, off64_t length)
{
	return counted_ftruncate(fd, length);
}
