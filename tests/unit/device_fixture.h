/* SPDX-License-Identifier: Apache-2.0 */
/* A device on real images: base.raw of 1 MiB, all 'b', and leaf.qcow2 (clusters of 64 KiB) on it, made by qemu-img; a worker that
 * has joined.  The test's thread is the device's strand.  Without qemu-img the tests are skipped: DEVICE_MAIN. */
#ifndef SLUICE_TESTS_UNIT_DEVICE_FIXTURE_H
#define SLUICE_TESTS_UNIT_DEVICE_FIXTURE_H

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/io.h"
#include "common/ofd_lock.h"
#include "imaged/device_host.h"
#include "imaged/reservation.h"
#include "imaged/stream.h"
#include "tests/unit/folder.h"
#include "tests/unit/unit.h"

#define CLUSTER	   (UINT64_C(64) << 10)
#define DISK_BYTES (UINT64_C(1) << 20)
#define LOCK_BYTE  (JOIN_LOCK_BYTE_FIRST + 12345)

struct device_fixture {
	struct folder folder;
	struct roots *roots;
	struct strand_pool *pool;
	struct device_host host;
	struct device *device;
	struct join *join;
	int worker; /* the joined worker's description of the leaf */
	struct wire_memory memory;
	struct trouble trouble;
};

/* Runs a shell command in the folder. */
static inline void PRINTF_LIKE(2, 3)
fixture_shell(const struct device_fixture *fixture, const char *format, ...)
{
	char command[2000];
	int length = snprintf(command, sizeof command, "cd %s && ", fixture->folder.path);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(command + length, sizeof command - (size_t)length, format, arguments);
	va_end(arguments);
	strncat(command, " >/dev/null", sizeof command - strlen(command) - 1);
	ck_assert_msg(system(command) == 0, "%s", command);
}

static inline void fixture_make_base(
	const struct device_fixture *fixture, const char *name, char byte)
{
	char *bytes = must_calloc(1, DISK_BYTES);
	int fd = open(folder_name(&fixture->folder, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	memset(bytes, byte, DISK_BYTES);
	ck_assert_int_eq(pwrite_full(fd, bytes, DISK_BYTES, 0), 0);
	close(fd);
	free(bytes);
}

static inline void fixture_attach(struct device_fixture *fixture, const char *name)
{
	const struct device_attach attach = {.file = folder_name(&fixture->folder, name)};

	fixture->device = device_host_add(&fixture->host, "d");
	ck_assert_msg(device_attach(fixture->device, &attach, &fixture->trouble) == 0, "%s",
		fixture->trouble.err.text);
}

static inline void fixture_join(struct device_fixture *fixture)
{
	const struct chain *chain = fixture->device->live.current->chain;

	fixture->worker = open(chain->layers[0].path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fixture->worker, 0);
	ck_assert_int_eq(ofd_lock_byte(fixture->worker, LOCK_BYTE), 0);
	fixture->join = join_table_add(
		&fixture->device->joins, device_draw_id(fixture->device), "w", 1, LOCK_BYTE, chain);
	fixture->join->state = JOIN_CONFIRMED;
	atomic_fetch_add(&fixture->host.joins, 1);
}

static inline void fixture_open_job(struct device_fixture *fixture, const char *base)
{
	const struct stream_wish wish = {.base = base};

	ck_assert_msg(stream_open(fixture->device, "j", &wish, &fixture->trouble) == 0, "%s",
		fixture->trouble.err.text);
}

/* The folder with base.raw and the means to attach, nothing attached. */
static inline void fixture_begin(struct device_fixture *fixture)
{
	*fixture = (struct device_fixture){.folder = folder_make(), .worker = -1};
	fixture->roots = roots_new();
	ck_assert_int_eq(roots_add(fixture->roots, fixture->folder.path, NULL), 0);
	fixture->pool = strand_pool_new(1, NULL);
	device_host_init(&fixture->host, fixture->roots, "boot", fixture->pool);
	fixture_make_base(fixture, "base.raw", 'b');
}

/* All of it, with a job open that keeps nothing. */
static inline void fixture_begin_job(struct device_fixture *fixture)
{
	fixture_begin(fixture);
	fixture_shell(fixture, "qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2");
	fixture_attach(fixture, "leaf.qcow2");
	fixture_open_job(fixture, NULL);
	fixture_join(fixture);
}

static inline void fixture_end(struct device_fixture *fixture)
{
	if (fixture->worker >= 0)
		close(fixture->worker);
	device_host_done(&fixture->host);
	strand_pool_free(fixture->pool);
	roots_free(fixture->roots);
	wire_memory_done(&fixture->memory);
	folder_remove(&fixture->folder);
}

#define DEVICE_MAIN(name, ...)                                                \
	int main(void)                                                        \
	{                                                                     \
		const TTest *const tests[] = {__VA_ARGS__};                   \
		if (system("qemu-img --version >/dev/null 2>&1") != 0)        \
			return 77;                                            \
		return unit_run(name, tests, sizeof tests / sizeof tests[0]); \
	}

#endif
