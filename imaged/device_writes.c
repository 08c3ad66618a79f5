/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/device_writes.h"

#include <string.h>

#include "common/log.h"
#include "imaged/device_host.h"
#include "imaged/keeper.h"
#include "imaged/qcow2_adopt.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/write_log.h"

static void wake(void *owner)
{
	struct device *device = owner;

	if (device->keeper) /* at the end there is none any more */
		keeper_wake(device->keeper);
}

static void wait_for_requests(void *owner)
{
	struct device *device = owner;

	gate_wait_grace(&device->gate);
}

/* What was acknowledged and not durable is lost (invariant 8): also to the next imaged, should this one die now. */
static void failed(void *owner)
{
	struct device *device = owner;

	write_log_void(device->write_log);
}

/* The log is open. */
static int start(struct device *device, struct err *err)
{
	const struct write_hooks hooks = {
		.wake = wake, .wait = wait_for_requests, .failed = failed, .owner = device};

	device->keeper = keeper_new(device, err);
	if (!device->keeper) {
		write_log_free(device->write_log);
		device->write_log = NULL;
		return -1;
	}
	qcow2_writes_begin(device->leaf, write_log_slots(device->write_log), &hooks);
	atomic_store(&device->has_writes, true);
	return 0;
}

int device_adopt_writes(struct device *device, struct err *err)
{
	struct err why = {0};
	uint32_t count;

	if (!device->host->log_folder)
		return 0;
	if (write_log_open(device->host->log_folder, device->leaf, device->host->boot_id, false,
		    &device->write_log, err) < 0)
		return -1;
	if (!device->write_log)
		return 0;
	if (qcow2_adopt(device->leaf, write_log_slots(device->write_log), &count, &why, err) < 0) {
		write_log_free(device->write_log);
		device->write_log = NULL;
		return -1;
	}
	if (why.text[0] != '\0')
		log_error(
			"device=%s the log of an earlier imaged does not fit and is dropped, what it had "
			"acknowledged and not written is lost: %s",
			device->name, why.text);
	if (start(device, err) < 0)
		return -1;
	if (count == 0)
		return 0;
	log_info("device=%s took over %u clusters that an earlier imaged had acknowledged",
		device->name, count);
	return qcow2_write_back(device->leaf, WRITE_BACK_DURABLE, err);
}

int device_begin_writes(struct device *device, struct err *err)
{
	int r = 0;

	if (atomic_load_explicit(&device->has_writes, memory_order_acquire))
		return 0;
	pthread_mutex_lock(&device->writes_lock);
	if (!atomic_load(&device->has_writes)) {
		if (!device->host->log_folder)
			r = err_set(err, "there is no folder for the log of writes");
		else
			r = write_log_open(device->host->log_folder, device->leaf,
				device->host->boot_id, true, &device->write_log, err);
		if (r == 0)
			r = start(device, err);
	}
	pthread_mutex_unlock(&device->writes_lock);
	return r;
}

bool device_has_writes(const struct device *device)
{
	return atomic_load_explicit(&device->has_writes, memory_order_acquire);
}

int device_flush(struct device *device, struct err *err)
{
	if (device_has_writes(device))
		return qcow2_write_back(device->leaf, WRITE_BACK_DURABLE, err);
	return qcow2_flush(device->leaf, err);
}

static void write_all_back(struct device *device)
{
	struct err err = {0};

	keeper_free(device->keeper);
	device->keeper = NULL;
	device->keeps_log = false;
	if (device_has_failed(device))
		return;
	if (qcow2_write_back(device->leaf, WRITE_BACK_DURABLE, &err) < 0) {
		device->keeps_log = !device_has_failed(device);
		log_error("device=%s closing it, what guests wrote could not be written back%s: %s",
			device->name,
			device->keeps_log ? ", it is kept for when it is attached again" : "",
			err.text);
		return;
	}
	if (qcow2_forget(device->leaf, &err) < 0)
		log_warn("device=%s what was discarded leaks: %s", device->name, err.text);
}

static void end_log(struct device *device)
{
	/* While the leaf is still locked: afterwards the file may be another imaged's. */
	if (device->write_log && !device->keeps_log)
		write_log_remove(device->write_log);
}

void device_end_writes(struct device *device)
{
	/* Without a leaf this was done: when opening it failed. */
	if (!device_has_writes(device) || !device->leaf)
		return;
	write_all_back(device);
	end_log(device);
}

void device_forget_writes(struct device *device)
{
	write_log_free(device->write_log);
	device->write_log = NULL;
	atomic_store(&device->has_writes, false);
}
