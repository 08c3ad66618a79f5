/* SPDX-License-Identifier: Apache-2.0 */
/* sluice-worker copies ranges of guest disks from the layers below into the leaf.  It knows files and codecs, no image
 * format; it keeps nothing across its death, and any number of it may come and go at any time.
 *
 *~ A tour.  A worker is one main thread, which talks, and `--slots` threads, which copy.
 *
 *      broker ◀──link──▶ worker.c ──orders──▶ copy_threads.c ──▶ copy_run.c ──▶ the leaf's file
 *                           │ ▲                   │
 *                    joins.c│ └──── outcomes ◀────┘
 *
 * The broker first asks it to join a leaf (joins.c): to open the file, lock it and prove that it is the one that imaged has
 * open.  Then come copy orders: these bytes of that file go there in that file.  copy_order.c refuses one whose numbers do not
 * fit together; copy_run.c carries it out, with zero_test.c and decompress.c.  What became of it is reported, and the report is
 * kept in reports.c until the broker acknowledges it, because a report that got lost would leave reserved space in quarantine.
 *
 * What makes a worker harmless however late it is: the space it writes into was reserved for that lease alone, and stays so until
 * the worker has said that it stopped, or its lock on the leaf is gone with it.  It keeps its part of that by never taking an
 * order twice (lease_memory.c) and never writing after its report.
 *
 * Read worker.c next. */
#include <linux/ioprio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/err.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/mq.h"
#include "common/options.h"
#include "common/program.h"
#include "common/roots.h"
#include "workers/worker.h"

#define NAME_BYTES 64
#define NICE	   10

struct settings {
	const char *broker;
	const char *name;
	const char *realm;
	uint64_t slots;
	bool is_insecure;
	struct option_list roots;
	char default_broker[256];
	char default_name[NAME_BYTES + 1];
	char host[NAME_BYTES + 1];
	char boot_id[NAME_BYTES + 1];
};

DEFINE_CLEANUP(roots, roots_free)
DEFINE_CLEANUP(mq, mq_free)
DEFINE_CLEANUP(loop, loop_free)
DEFINE_CLEANUP(worker, worker_free)

static int fail(const struct err *err)
{
	log_error("%s", err->text);
	return 1;
}

/* Guests share these processors and disks with us, and they come first.  Threads that are started later have the priorities of
 * who starts them. */
static void yield_to_guests(void)
{
	int lowest_best_effort = IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7);

	/* One that was started with less has it already, and may not raise it. */
	if (getpriority(PRIO_PROCESS, 0) < NICE && setpriority(PRIO_PROCESS, 0, NICE) < 0)
		log_warn(
			"cannot lower the own priority for processors: guests may feel the copying");
	if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, lowest_best_effort) < 0)
		log_warn("cannot lower the own priority for disks: guests may feel the copying");
}

/* As the schema wants it. */
static bool is_name(const char *text)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	size_t length = strlen(text);

	return length > 0 && length <= NAME_BYTES && strchr(letters, text[0]) &&
	       strspn(text + 1,
		       "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._") ==
		       length - 1;
}

static void parse(int argc, char **argv, struct settings *settings)
{
	const struct option table[] = {
		{"broker", OPTION_TEXT, &settings->broker, "ENDPOINT",
			"Where the broker listens for workers (default: ipc://R/workers)."},
		{"root", OPTION_LIST, &settings->roots, "DIR",
			"Open files only beneath this folder; at least one is required."},
		{"name", OPTION_TEXT, &settings->name, "NAME",
			"Of this worker (default: host name and pid)."},
		{"realm", OPTION_TEXT, &settings->realm, "NAME",
			"Serve devices of this realm (default: host name)."},
		{"slots", OPTION_NUMBER, &settings->slots, "N",
			"Ranges copied at once (default: 2).", 1, 256},
		{"insecure", OPTION_FLAG, &settings->is_insecure, NULL,
			"Allow a TCP endpoint that is not loopback."},
		{0},
	};
	const struct options_usage usage = {
		.program = "sluice-worker",
		.synopsis = "--root DIR [OPTION]...",
		.about =
			"Copies ranges of guest disks from backing files into the leaf, as the broker asks.  Run "
			"as many as you like, on any host that reaches the files.",
	};

	options_parse(argc, argv, &usage, table, NULL);
}

/* Exits for wrong usage. */
static void check_usage(const struct settings *settings)
{
	const char *complaint = NULL;

	if (settings->roots.count == 0)
		complaint = "at least one --root is required";
	else if (!is_name(settings->name))
		complaint =
			"--name must be a letter, then letters, digits, '-', '.', '_', at most 64 bytes";
	else if (!is_name(settings->realm))
		complaint =
			"--realm must be a letter, then letters, digits, '-', '.', '_', at most 64 bytes";
	else if (!program_endpoint_is_local(settings->broker) && !settings->is_insecure)
		complaint = "--broker is neither ipc nor loopback; --insecure allows it";
	if (!complaint)
		return;
	log_error("%s", complaint);
	exit(2);
}

static int find_defaults(struct settings *settings, struct err *err)
{
	if (program_host_name(settings->host, sizeof settings->host, err) < 0 ||
		program_boot_id(settings->boot_id, sizeof settings->boot_id, err) < 0)
		return -1;
	snprintf(settings->default_name, sizeof settings->default_name, "%.50s-%d", settings->host,
		(int)getpid());
	if (!settings->broker) {
		if (program_endpoint(settings->default_broker, sizeof settings->default_broker,
			    "workers", err) < 0)
			return -1;
		settings->broker = settings->default_broker;
	}
	if (!settings->name)
		settings->name = settings->default_name;
	if (!settings->realm)
		settings->realm = settings->host;
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

static int run(const struct settings *settings, struct err *err)
{
	const struct worker_options options = {
		.endpoint = settings->broker,
		.name = settings->name,
		.realm = settings->realm,
		.host = settings->host,
		.boot_id = settings->boot_id,
		.slots = settings->slots,
	};
	CLEANUP(roots_cleanup) struct roots *roots = open_roots(&settings->roots, err);
	if (!roots)
		return -1;
	CLEANUP(mq_cleanup) struct mq *mq = mq_new(err);
	if (!mq)
		return -1;
	CLEANUP(loop_cleanup) struct loop *loop = loop_new(err);
	if (!loop || loop_stop_on_signals(loop, err) < 0)
		return -1;
	CLEANUP(worker_cleanup) struct worker *worker = worker_new(&options, roots, mq, loop, err);
	if (!worker)
		return -1;

	program_say_ready();
	if (loop_run(loop, err) < 0)
		return -1;
	if (worker_is_refused(worker, err))
		return -1;
	worker_begin_goodbye(worker);
	return loop_run(loop, err);
}

int main(int argc, char **argv)
{
	struct settings settings = {.slots = 2};
	struct err err = {0};

	program_start();
	parse(argc, argv, &settings);
	if (find_defaults(&settings, &err) < 0)
		return fail(&err);
	check_usage(&settings);
	yield_to_guests();
	if (run(&settings, &err) < 0)
		return fail(&err);
	return 0;
}
