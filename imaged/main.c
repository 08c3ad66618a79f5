/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-imaged owns images: it serves them to guests, is the one writer of their metadata and decides what each cluster of a device
 * contains.
 *
 *~ A tour.  One control thread talks to the broker and never waits for a disk; a few threads carry out what it asks of the
 * devices, each device's requests in order (strand.c).
 *
 *      broker ◀──link──▶ control.c ──▶ strand of a device ──▶ handlers.c ──▶ device.c, stream.c, reservation.c, commit.c
 *                          ▲                                      │
 *                          └─────────────── answers ◀─────────────┘
 *
 * A device (device.c) is a leaf and the files under it (chain.c), opened beneath the roots and locked.  A job on it (stream.c)
 * is asked for its work map page by page (work_map.c: what must be in the leaf before layers can be dropped).  For each range
 * that a worker shall copy, imaged reserves clusters of the leaf (reservation.c) and remembers for whom (lease.c, join.c); when
 * the worker has reported, it maps them where the guest has changed nothing meanwhile (commit.c).  A worker that was lost may
 * still be writing: what it was given stays in quarantine until its lock on the file is gone.  When nothing is missing, the
 * header is switched, and the chain is shorter (stream.c, live_chain.c).
 *
 * Under all this is the qcow2 engine: qcow2.h to read, qcow2_update.h to write.  It keeps the order of writes by which a crash
 * can leak space, but never share it.
 *
 * Guests speak NBD, and nbdkit speaks it for us: this program checks its command line, makes the sockets (listen.c) and then becomes
 * nbdkit, by exec, with all of the above in a plugin (nbd_plugin.c) that reads the same command line again, and with nbd_socket.c before its
 * read() and send().
 *
 *      guests ──NBD──▶ nbdkit's threads ──▶ nbd_plugin.c ──▶ guest.c ──gate──▶ guest_read.c, guest_write.c ──▶ files
 *
 * Read service.c and control.c next, or guest.h for the guests' side. */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "common/log.h"
#include "common/program.h"
#include "imaged/listen.h"
#include "imaged/service.h"
#include "imaged/settings.h"

#define THREADS "16" /* of each connection: as many of its requests are worked on at once */

DEFINE_CLEANUP(service, service_free)

static int fail(const struct err *err)
{
	log_error("%s", err->text);
	return 1;
}

/* ---- without guests, it is all in here */

static int run_alone(const struct settings *settings, struct err *err)
{
	CLEANUP(service_cleanup) struct service *service = service_new(settings, NULL, NULL, err);

	return service ? service_run(service, err) : -1;
}

/* ---- with guests, nbdkit is the program */

struct words {
	char **words; /* with NULL at the end */
	size_t count;
};

static void PRINTF_LIKE(2, 3) add_word(struct words *words, const char *format, ...)
{
	va_list arguments;
	char *word = NULL;

	va_start(arguments, format);
	bug_if(vasprintf(&word, format, arguments) < 0);
	va_end(arguments);
	words->words = must_realloc(words->words, words->count + 2, sizeof words->words[0]);
	words->words[words->count++] = word;
	words->words[words->count] = NULL;
}

/* One of ours: installed in a folder of its own, or, in the folder of a build, beside the program. */
static int find_library(const char *name, char *path, size_t size, struct err *err)
{
	char folder[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);

	if (length < 0)
		return err_set_errno(err, errno, "cannot find the own program");
	folder[length] = '\0';
	*strrchr(folder, '/') = '\0';
	snprintf(path, size, "%s/%s/%s", folder, SLUICE_PLUGIN_FOLDER, name);
	if (access(path, R_OK) == 0)
		return 0;
	snprintf(path, size, "%s/%s", folder, name);
	if (access(path, R_OK) == 0)
		return 0;
	return err_set_errno(err, errno, "cannot read the library %s", path);
}

/* nbd_socket.c, after what others want there; a path that cannot be named so is no trouble. */
static void preload(const char *path)
{
	const char *others = getenv("LD_PRELOAD");
	char *all = NULL;

	if (strpbrk(path, " :"))
		return;
	bug_if(asprintf(&all, "%s%s%s", others ? others : "", others ? ":" : "", path) < 0);
	setenv("LD_PRELOAD", all, 1);
	free(all);
}

static void add_tls(struct words *words, const struct settings *settings)
{
	if (!settings_use_tls(settings))
		return;
	add_word(words, "--tls=%s", settings->tls);
	if (settings->tls_certificates)
		add_word(words, "--tls-certificates=%s", settings->tls_certificates);
	if (settings->tls_psk)
		add_word(words, "--tls-psk=%s", settings->tls_psk);
}

static void add_parameters(
	struct words *words, int argc, char **argv, const struct listeners *listeners)
{
	for (size_t i = 0; i < listeners->files_count; i++)
		add_word(words, "socket-file=%s", listeners->files[i]);
	if (listeners->uri_before) {
		add_word(words, "uri-before=%s", listeners->uri_before);
		add_word(words, "uri-after=%s", listeners->uri_after);
	}
	for (int i = 1; i < argc; i++)
		add_word(words, "o=%s", argv[i]);
}

/* Returns only if it fails. */
static int become_nbdkit(int argc, char **argv, const struct settings *settings,
	struct listeners *listeners, struct err *err)
{
	char plugin[2 * PATH_MAX], preloaded[2 * PATH_MAX];
	struct words words = {0};

	if (find_library(SLUICE_PLUGIN, plugin, sizeof plugin, err) < 0 ||
		find_library(SLUICE_PRELOADED, preloaded, sizeof preloaded, err) < 0 ||
		listeners_hand_over(listeners, err) < 0)
		return -1;
	preload(preloaded);
	add_word(&words, "sluice-imaged"); /* so that it is listed under this name */
	add_word(&words, "-f");
	add_word(&words, "--log=stderr");
	add_word(&words, "--threads=" THREADS);
	add_tls(&words, settings);
	add_word(&words, "%s", plugin);
	add_parameters(&words, argc, argv, listeners);
	execv(SLUICE_NBDKIT, words.words);
	err_set_errno(err, errno, "cannot start " SLUICE_NBDKIT);
	for (size_t i = 0; i < words.count; i++)
		free(words.words[i]);
	free(words.words);
	return -1;
}

static int run_for_guests(int argc, char **argv, const struct settings *settings, struct err *err)
{
	struct listeners listeners;
	int r = listeners_open(&listeners, settings, err);

	if (r == 0)
		r = become_nbdkit(argc, argv, settings, &listeners, err);
	listeners_done(&listeners);
	return r;
}

int main(int argc, char **argv)
{
	struct settings settings = {0};
	struct err err = {0};
	int r;

	program_start();
	if (settings_read(argc, argv, &settings, &err) < 0)
		return fail(&err);
	r = settings_serve_guests(&settings) ? run_for_guests(argc, argv, &settings, &err)
					     : run_alone(&settings, &err);
	return r < 0 ? fail(&err) : 0;
}
