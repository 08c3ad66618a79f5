/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/service.h"

#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/loop.h"
#include "common/mq.h"
#include "common/program.h"
#include "common/roots.h"
#include "imaged/control.h"

#define THREADS 4
#define HOLD_BACK_MS \
	5000	       /* what guests have asked for may take that long to be answered at the end */
#define REPLIES_MS 100 /* between the last answer and the end: so that it has left for the client */

struct service {
	const struct settings *settings;
	struct roots *roots;
	struct strand_pool *pool;
	struct device_host *host;
	char run_dir[PATH_MAX];
	bool is_ending;	       /* guests are to be held back */
	uint64_t held_back_ms; /* since then no guest's request has been answered; 0: not yet */
};

DEFINE_CLEANUP(service, service_free)
DEFINE_CLEANUP(mq, mq_free)
DEFINE_CLEANUP(loop, loop_free)
DEFINE_CLEANUP(control, control_free)

static struct roots *open_roots(const struct option_list *folders, struct err *err)
{
	struct roots *roots = roots_new();

	for (size_t i = 0; i < folders->count; i++) {
		if (roots_add(roots, folders->values[i], err) < 0) {
			roots_free(roots);
			return NULL;
		}
	}
	return roots;
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

struct service *service_new(const struct settings *settings, const char *uri_before,
	const char *uri_after, struct err *err)
{
	CLEANUP(service_cleanup) struct service *service = must_calloc(1, sizeof *service);

	service->settings = settings;
	service->roots = open_roots(&settings->roots, err);
	if (!service->roots)
		return NULL;
	service->pool = strand_pool_new(THREADS, err);
	if (!service->pool)
		return NULL;
	service->host = must_calloc(1, sizeof *service->host);
	device_host_init(service->host, service->roots, settings->boot_id, service->pool);
	service->host->uri_before = uri_before;
	service->host->uri_after = uri_after;
	if (program_run_dir(service->run_dir, sizeof service->run_dir, err) < 0 ||
		program_make_dir(service->run_dir, err) < 0)
		return NULL;
	service->host->log_folder = service->run_dir;
	if (attach_all(service->host, &settings->devices, err) < 0)
		return NULL;
	return steal(&service);
}

void service_free(struct service *service)
{
	if (!service)
		return;
	if (service->host)
		device_host_done(service->host);
	free(service->host);
	strand_pool_free(service->pool);
	roots_free(service->roots);
	free(service);
}

struct device_host *service_host(struct service *service)
{
	return service->host;
}

/* What comes now waits for ever: a client that connects again sees no error.  On the thread that adds devices, so there are
 * no others. */
static int hold_guests_back(struct service *service, struct err *err)
{
	struct device_host *host = service->host;
	uint64_t deadline_ms = clock_monotonic_ms() + HOLD_BACK_MS;

	service->is_ending = true;
	atomic_store(&host->is_stopping, true);
	for (size_t i = 0; i < host->count; i++) {
		uint64_t now_ms = clock_monotonic_ms();

		if (!gate_close(&host->devices[i]->gate,
			    now_ms < deadline_ms ? deadline_ms - now_ms : 0))
			return err_set(err,
				"Device '%s': what guests asked for is not answered within %d ms, "
				"images are left as they are",
				host->devices[i]->name, HOLD_BACK_MS);
	}
	service->held_back_ms = clock_monotonic_ms();
	return 0;
}

static int talk(struct service *service, struct err *err)
{
	const struct control_options options = {
		.broker = service->settings->broker,
		.name = service->settings->name,
		.realm = service->settings->realm,
		.host_name = service->settings->host_name,
	};
	CLEANUP(mq_cleanup) struct mq *mq = mq_new(err);
	if (!mq)
		return -1;
	CLEANUP(loop_cleanup) struct loop *loop = loop_new(err);
	if (!loop || loop_stop_on_signals(loop, err) < 0)
		return -1;
	CLEANUP(control_cleanup)
	struct control *control = control_new(mq, loop, service->host, &options, err);
	if (!control)
		return -1;

	program_say_ready();
	if (loop_run(loop, err) < 0)
		return -1;
	if (control_refusal(control))
		return err_set(err, "refused by the broker: %s", control_refusal(control));
	if (hold_guests_back(service, err) < 0)
		return -1;
	control_wind_down(control);
	return 0;
}

/* An answer is sent by another thread, a moment after its request has left the gate. */
static void let_replies_leave(const struct service *service)
{
	uint64_t now_ms = clock_monotonic_ms();

	if (service->host->uri_before && now_ms < service->held_back_ms + REPLIES_MS)
		(void)poll(NULL, 0, (int)(service->held_back_ms + REPLIES_MS - now_ms));
}

int service_run(struct service *service, struct err *err)
{
	int r = talk(service, err);
	struct err other;

	if (!service->is_ending)
		(void)hold_guests_back(service, &other);
	if (service->held_back_ms == 0)
		return -1; /* with a request still inside nothing can be closed */
	device_host_close(service->host);
	let_replies_leave(service);
	return r;
}
