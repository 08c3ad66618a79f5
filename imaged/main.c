/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-imaged owns images: it is the one writer of their metadata and decides what each cluster of a device contains.
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
 * Read control.c next. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/err.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/mq.h"
#include "common/options.h"
#include "common/program.h"
#include "common/roots.h"
#include "imaged/control.h"
#include "imaged/device_host.h"

#define NAME_BYTES 64
#define THREADS	   4

struct settings {
	const char *broker;
	const char *name;
	const char *realm;
	bool is_insecure;
	struct option_list roots;
	struct option_list devices;
	char default_broker[256];
	char host_name[NAME_BYTES + 1];
	char boot_id[NAME_BYTES + 1];
};

DEFINE_CLEANUP(roots, roots_free)
DEFINE_CLEANUP(mq, mq_free)
DEFINE_CLEANUP(loop, loop_free)
DEFINE_CLEANUP(strand_pool, strand_pool_free)
DEFINE_CLEANUP(control, control_free)

static void host_cleanup(struct device_host **host)
{
	if (!*host)
		return;
	device_host_done(*host);
	free(*host);
}

static int fail(const struct err *err)
{
	log_error("%s", err->text);
	return 1;
}

/* As the schema wants it. */
static bool is_name(const char *text, size_t length)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	return length > 0 && length <= NAME_BYTES && text[0] && strchr(letters, text[0]) &&
	       strspn(text + 1,
		       "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._") >=
		       length - 1;
}

static void parse(int argc, char **argv, struct settings *settings)
{
	const struct option table[] = {
		{"broker", OPTION_TEXT, &settings->broker, "ENDPOINT",
			"Where the broker listens for imageds (default: ipc://R/images)."},
		{"root", OPTION_LIST, &settings->roots, "DIR",
			"Open files only beneath this folder; at least one is required."},
		{"device", OPTION_LIST, &settings->devices, "NAME=FILE[,format=F]",
			"Attach this image at start."},
		{"name", OPTION_TEXT, &settings->name, "NAME",
			"Of this imaged (default: host name)."},
		{"realm", OPTION_TEXT, &settings->realm, "NAME",
			"Workers of this realm can reach the files (default: host name)."},
		{"insecure", OPTION_FLAG, &settings->is_insecure, NULL,
			"Allow a TCP endpoint that is not loopback."},
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice-imaged",
		.synopsis = "--root DIR [OPTION]...",
		.about =
			"Owns disk images: opens them with their backing chains and is the only one that changes "
			"them, while workers copy what is missing.",
	};

	options_parse(argc, argv, &usage, table, NULL);
}

static bool are_devices_named(const struct option_list *devices)
{
	for (size_t i = 0; i < devices->count; i++) {
		const char *equals = strchr(devices->values[i], '=');

		if (!equals || equals[1] == '\0' ||
			!is_name(devices->values[i], (size_t)(equals - devices->values[i])))
			return false;
	}
	return true;
}

/* Exits for wrong usage. */
static void check_usage(const struct settings *settings)
{
	const char *complaint = NULL;

	if (settings->roots.count == 0)
		complaint = "at least one --root is required";
	else if (!is_name(settings->name, strlen(settings->name)))
		complaint =
			"--name must be a letter, then letters, digits, '-', '.', '_', at most 64 bytes";
	else if (!is_name(settings->realm, strlen(settings->realm)))
		complaint =
			"--realm must be a letter, then letters, digits, '-', '.', '_', at most 64 bytes";
	else if (!are_devices_named(&settings->devices))
		complaint = "--device must be NAME=FILE or NAME=FILE,format=F";
	else if (!program_endpoint_is_local(settings->broker) && !settings->is_insecure)
		complaint = "--broker is neither ipc nor loopback; --insecure allows it";
	if (!complaint)
		return;
	log_error("%s", complaint);
	exit(2);
}

static int find_defaults(struct settings *settings, struct err *err)
{
	if (program_host_name(settings->host_name, sizeof settings->host_name, err) < 0 ||
		program_boot_id(settings->boot_id, sizeof settings->boot_id, err) < 0)
		return -1;
	if (!settings->broker) {
		if (program_endpoint(settings->default_broker, sizeof settings->default_broker,
			    "images", err) < 0)
			return -1;
		settings->broker = settings->default_broker;
	}
	if (!settings->name)
		settings->name = settings->host_name;
	if (!settings->realm)
		settings->realm = settings->host_name;
	return 0;
}

static struct roots *open_roots(const struct option_list *folders, struct err *err)
{
	CLEANUP(roots_cleanup) struct roots *roots = roots_new();

	for (size_t i = 0; i < folders->count; i++) {
		if (roots_add(roots, folders->values[i], err) < 0)
			return NULL;
	}
	return steal(&roots);
}

/* NAME=FILE[,format=F] */
static int attach_one(struct device_host *host, const char *option, struct err *err)
{
	CLEANUP_FREE char *name = strndup(option, (size_t)(strchr(option, '=') - option));
	CLEANUP_FREE char *file = strdup(strchr(option, '=') + 1);
	char *comma = strrchr(file, ',');
	struct device_attach attach = {.file = file};
	struct trouble trouble = {0};
	struct device *device;

	if (comma && strncmp(comma, ",format=", 8) == 0) {
		attach.format = comma + 8;
		*comma = '\0';
	}
	if (device_host_find(host, name))
		return err_set(err, "--device %s is given twice", name);
	device = device_host_add(host, name);
	if (!device)
		return err_set(err, "more than %d devices are given", DEVICE_HOST_DEVICES_MAX);
	if (device_attach(device, &attach, &trouble) < 0) {
		*err = trouble.err;
		return err_wrap(err, "--device %s", option);
	}
	return 0;
}

static int attach_all(struct device_host *host, const struct option_list *devices, struct err *err)
{
	for (size_t i = 0; i < devices->count; i++) {
		if (attach_one(host, devices->values[i], err) < 0)
			return -1;
	}
	return 0;
}

static struct device_host *new_host(const struct settings *settings, const struct roots *roots,
	struct strand_pool *pool, struct err *err)
{
	CLEANUP(host_cleanup) struct device_host *host = calloc(1, sizeof *host);

	if (!host) {
		err_set(err, "out of memory");
		return NULL;
	}
	device_host_init(host, roots, settings->boot_id, pool);
	if (attach_all(host, &settings->devices, err) < 0)
		return NULL;
	return steal(&host);
}

static int talk(const struct settings *settings, struct device_host *host, struct err *err)
{
	const struct control_options options = {
		.broker = settings->broker,
		.name = settings->name,
		.realm = settings->realm,
		.host_name = settings->host_name,
	};
	CLEANUP(mq_cleanup) struct mq *mq = mq_new(err);
	if (!mq)
		return -1;
	CLEANUP(loop_cleanup) struct loop *loop = loop_new(err);
	if (!loop || loop_stop_on_signals(loop, err) < 0)
		return -1;
	CLEANUP(control_cleanup)
	struct control *control = control_new(mq, loop, host, &options, err);
	if (!control)
		return -1;

	program_say_ready();
	if (loop_run(loop, err) < 0)
		return -1;
	if (control_refusal(control))
		return err_set(err, "refused by the broker: %s", control_refusal(control));
	control_wind_down(control);
	return 0;
}

static int run(const struct settings *settings, struct err *err)
{
	CLEANUP(roots_cleanup) struct roots *roots = open_roots(&settings->roots, err);
	if (!roots)
		return -1;
	CLEANUP(strand_pool_cleanup) struct strand_pool *pool = strand_pool_new(THREADS, err);
	if (!pool)
		return -1;
	CLEANUP(host_cleanup) struct device_host *host = new_host(settings, roots, pool, err);
	if (!host)
		return -1;
	return talk(settings, host, err);
}

int main(int argc, char **argv)
{
	struct settings settings = {0};
	struct err err = {0};

	program_start();
	parse(argc, argv, &settings);
	if (find_defaults(&settings, &err) < 0)
		return fail(&err);
	check_usage(&settings);
	if (run(&settings, &err) < 0)
		return fail(&err);
	return 0;
}
