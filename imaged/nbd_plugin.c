/* SPDX-License-Identifier: Apache-2.0 */
/* imaged as a plugin of nbdkit: callbacks in, guest.h out, nothing else.
 *
 * nbdkit would end on SIGTERM by itself, in a way that guests see as I/O errors and that an idle client can hold up for ever.  So the
 * signals are blocked from before the exec on, and a thread of ours takes them (service.c); when it has closed the devices, the
 * process ends from there.  No callback of nbdkit's for an end is relied on.  Threads are made only in after_fork.
 *
 * In nbdkit 1.32 extents of more than 4 GiB in one answer, which it also makes by joining ours, end the process: one call tells of
 * MAP_BYTES_MAX at most, all together. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "common/check.h"
#include "common/log.h"
#include "imaged/guest.h"
#include "imaged/service.h"

#define THREAD_MODEL  NBDKIT_THREAD_MODEL_PARALLEL
#define MAP_BYTES_MAX (UINT64_C(1) << 30)
#define WORDS_MAX     1200 /* more than options can be given */
#define FILES_MAX     16

/* A UNIX socket's file that is to be removed at the end, unless another is in its place by then. */
struct socket_file {
	char *path;
	dev_t device;
	ino_t inode;
};

static char program_name[] = "sluice-imaged";

static struct {
	char *words[WORDS_MAX + 1]; /* the command line of sluice-imaged */
	int words_count;
	char *uri_before, *uri_after;
	struct socket_file files[FILES_MAX];
	size_t files_count;
	struct settings settings;
	struct service *service;
} plugin = {.words = {program_name}, .words_count = 1};

/* ---- parameters */

static int add_word(const char *word)
{
	if (plugin.words_count == WORDS_MAX) {
		nbdkit_error("more than %d words on the command line", WORDS_MAX);
		return -1;
	}
	plugin.words[plugin.words_count++] = must_strdup(word);
	return 0;
}

static int add_file(const char *path)
{
	struct socket_file *file = &plugin.files[plugin.files_count];
	struct stat status;

	if (plugin.files_count == FILES_MAX || stat(path, &status) < 0)
		return 0; /* then it is not removed, and replaced at the next start */
	*file = (struct socket_file){
		.path = must_strdup(path), .device = status.st_dev, .inode = status.st_ino};
	plugin.files_count++;
	return 0;
}

static int sluice_config(const char *key, const char *value)
{
	if (strcmp(key, "o") == 0)
		return add_word(value);
	if (strcmp(key, "socket-file") == 0)
		return add_file(value);
	if (strcmp(key, "uri-before") == 0)
		plugin.uri_before = must_strdup(value);
	else if (strcmp(key, "uri-after") == 0)
		plugin.uri_after = must_strdup(value);
	else {
		nbdkit_error("unknown parameter '%s'", key);
		return -1;
	}
	return 0;
}

static int sluice_config_complete(void)
{
	struct err err;

	prctl(PR_SET_NAME, program_name);
	if (settings_read(plugin.words_count, plugin.words, &plugin.settings, &err) == 0)
		return 0;
	nbdkit_error("%s", err.text);
	return -1;
}

/* ---- the life of the process */

static NORETURN void end(int status)
{
	struct stat now;

	for (size_t i = 0; i < plugin.files_count; i++) {
		const struct socket_file *file = &plugin.files[i];

		if (stat(file->path, &now) == 0 && now.st_dev == file->device &&
			now.st_ino == file->inode)
			(void)unlink(file->path);
	}
	_exit(status);
}

static NORETURN void fail(const struct err *err)
{
	log_error("%s", err->text);
	end(1);
}

static void *run(void *unused UNUSED)
{
	struct err err = {0};

	if (service_run(plugin.service, &err) < 0)
		fail(&err);
	end(0);
}

/* nbdkit has set its own handlers by now. */
static void take_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGHUP, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
}

static int sluice_after_fork(void)
{
	struct err err = {0};
	pthread_t thread;

	take_signals();
	plugin.service = service_new(&plugin.settings, plugin.uri_before, plugin.uri_after, &err);
	if (!plugin.service)
		fail(&err);
	if (pthread_create(&thread, NULL, run, NULL) != 0) {
		err_set(&err, "cannot start a thread");
		fail(&err);
	}
	pthread_detach(thread);
	return 0;
}

/* ---- clients */

static void list_one(void *owner, const char *name)
{
	(void)nbdkit_add_export(owner, name, NULL);
}

static int sluice_list_exports(
	int readonly UNUSED, int is_tls UNUSED, struct nbdkit_exports *exports)
{
	device_host_each_served(service_host(plugin.service), list_one, exports);
	return 0;
}

/* A client says which device it means: a default would be another one as soon as devices come and go. */
static const char *sluice_default_export(int readonly UNUSED, int is_tls UNUSED)
{
	return NULL;
}

static void *sluice_open(int readonly UNUSED)
{
	struct guest *guest = guest_open(service_host(plugin.service), nbdkit_export_name());

	if (!guest)
		nbdkit_error("a client asked for a device that is not there");
	return guest;
}

static void sluice_close(void *handle)
{
	guest_close(handle);
}

static int64_t sluice_get_size(void *handle)
{
	return (int64_t)guest_size(handle);
}

static int can_write(void *handle)
{
	return guest_is_writable(handle);
}

static int yes(void *handle UNUSED)
{
	return 1;
}

static int can_zero_fast(void *handle)
{
	return guest_zeroes_are_fast(handle);
}

static int no(void *handle UNUSED)
{
	return 0;
}

static int sluice_can_fua(void *handle UNUSED)
{
	return NBDKIT_FUA_EMULATE;
}

static int sluice_can_cache(void *handle UNUSED)
{
	return NBDKIT_CACHE_NATIVE;
}

/* ---- requests */

/* NBD has few errors, and nbdkit makes a client's fault of those that it does not know. */
static int answer(int number)
{
	switch (number) {
	case 0:
		return 0;
	case EPERM:
	case EROFS:
	case ENOMEM:
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		break;
	default:
		number = EIO;
	}
	nbdkit_set_error(number);
	return -1;
}

static int sluice_pread(
	void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags UNUSED)
{
	return answer(guest_pread(handle, buffer, offset, count));
}

static int sluice_pwrite(
	void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags UNUSED)
{
	return answer(guest_pwrite(handle, buffer, offset, count));
}

static int sluice_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	return answer(guest_put_zeroes(handle, offset, count, flags & NBDKIT_FLAG_MAY_TRIM));
}

static int sluice_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags UNUSED)
{
	return answer(guest_discard(handle, offset, count));
}

static int sluice_flush(void *handle, uint32_t flags UNUSED)
{
	return answer(guest_sync(handle));
}

static int sluice_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags UNUSED)
{
	return answer(guest_prefetch(handle, offset, count));
}

struct map_answer {
	struct nbdkit_extents *extents;
	bool wants_one, has_failed;
};

static bool add_extent(void *owner, uint64_t offset, uint64_t length, bool is_hole, bool is_zero)
{
	struct map_answer *map = owner;
	uint32_t type = (is_hole ? NBDKIT_EXTENT_HOLE : 0) | (is_zero ? NBDKIT_EXTENT_ZERO : 0);

	map->has_failed = nbdkit_add_extent(map->extents, offset, length, type) < 0;
	return !map->wants_one && !map->has_failed;
}

static int sluice_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
	struct nbdkit_extents *extents)
{
	struct map_answer map = {.extents = extents, .wants_one = flags & NBDKIT_FLAG_REQ_ONE};
	uint64_t length = count < MAP_BYTES_MAX ? count : MAP_BYTES_MAX;
	int number = guest_map(handle, offset, length, add_extent, &map);

	return map.has_failed ? -1 : answer(number);
}

static struct nbdkit_plugin registration = {
	.name = "sluice",
	.longname = "sluice-imaged",
	.version = SLUICE_VERSION,
	.description = "devices of sluice-imaged, which starts this by itself",
	.config = sluice_config,
	.config_complete = sluice_config_complete,
	.after_fork = sluice_after_fork,
	.list_exports = sluice_list_exports,
	.default_export = sluice_default_export,
	.open = sluice_open,
	.close = sluice_close,
	.get_size = sluice_get_size,
	.can_write = can_write,
	.can_flush = yes,
	.is_rotational = no,
	.can_trim = can_write,
	.can_zero = can_write,
	.can_fast_zero = can_zero_fast,
	.can_fua = sluice_can_fua,
	.can_multi_conn = yes,
	.can_extents = yes,
	.can_cache = sluice_can_cache,
	.pread = sluice_pread,
	.pwrite = sluice_pwrite,
	.zero = sluice_zero,
	.trim = sluice_trim,
	.flush = sluice_flush,
	.cache = sluice_cache,
	.extents = sluice_extents,
};

NBDKIT_DLL_PUBLIC struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(registration)
