/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing.  What a job does to a device is in stream.c and reservation.c. */
#include "imaged/device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/ofd_lock.h"
#include "common/random.h"
#include "imaged/device_host.h"
#include "imaged/device_writes.h"
#include "imaged/guest_raw.h"
#include "imaged/reservation.h"
#include "imaged/stream.h"
#include "schemas/errors.gen.h"

#define COMPLAINTS_MS  1000
#define LATE_BYTES_MAX 4096
#define HOLD_MS \
	15000 /* guests of a failed device wait so long for it to be attached anew, then they get errors */
#define HOLD_BACK_MS \
	10000 /* so long what guests asked of a failed device may take to be answered */

struct device *device_new(struct device_host *host, const char *name)
{
	struct device *device = must_calloc(1, sizeof *device);

	bug_if(strlen(name) > DEVICE_NAME_MAX);
	snprintf(device->name, sizeof device->name, "%s", name);
	device->host = host;
	device->strand = strand_new(host->pool);
	device->first_id = random_id();
	device->raw_fd = -1;
	gate_init(&device->gate);
	pthread_mutex_init(&device->lock, NULL);
	pthread_mutex_init(&device->writes_lock, NULL);
	pthread_mutex_init(&device->raw_flushes.lock, NULL);
	pthread_cond_init(&device->raw_flushes.served, NULL);
	guest_activity_init(&device->activity);
	return device;
}

static void close_work(void *owner)
{
	device_close(owner);
}

void device_post_close(struct device *device)
{
	strand_post(device->strand, close_work, device);
}

void device_free(struct device *device)
{
	if (!device)
		return;
	if (device->phase != DEVICE_CLOSED)
		device_post_close(device);
	strand_free(device->strand);
	gate_done(&device->gate);
	pthread_cond_destroy(&device->raw_flushes.served);
	pthread_mutex_destroy(&device->raw_flushes.lock);
	pthread_mutex_destroy(&device->writes_lock);
	pthread_mutex_destroy(&device->lock);
	guest_activity_done(&device->activity);
	free(device);
}

uint64_t device_draw_id(struct device *device)
{
	return device->first_id + atomic_fetch_add(&device->ids_drawn, 1);
}

bool device_has_drawn(const struct device *device, uint64_t id)
{
	return id >= device->first_id && id - device->first_id < atomic_load(&device->ids_drawn);
}

int device_check_open(const struct device *device, struct err *err)
{
	switch (device->phase) {
	case DEVICE_OPEN:
		return 0;
	case DEVICE_FAILED:
		return err_set(err,
			"Device '%s' failed earlier and takes nothing until it is attached anew",
			device->name);
	case DEVICE_CLOSED:
		break;
	}
	return err_set_kind(
		err, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", device->name);
}

static struct chain *chain_of(struct device *device)
{
	return device->live.current->chain;
}

/* Puts another description in place of the one that there is; either may be NULL. */
static void set_description(struct device *device, struct description *description)
{
	struct description *old = device->description;

	if (description)
		atomic_fetch_add(&device->host->description_bytes, description->bytes);
	if (old)
		atomic_fetch_sub(&device->host->description_bytes, old->bytes);
	pthread_mutex_lock(&device->lock);
	device->description = description;
	pthread_mutex_unlock(&device->lock);
	description_put(old);
}

static struct description *describe(struct device *device, bool copies_on_read)
{
	const struct device_host *host = device->host;
	CLEANUP_FREE char *uri = NULL;

	if (host->uri_before &&
		asprintf(&uri, "%s%s%s", host->uri_before, device->name, host->uri_after) < 0)
		bug_if(true);
	return description_new(device->name, chain_of(device), copies_on_read, uri ? uri : "");
}

void device_describe(struct device *device)
{
	bool copies_on_read = device->description->state.copy_on_read;

	set_description(device, describe(device, copies_on_read));
}

/* The first description; refused where a hello could not tell all any more. */
static int describe_first(struct device *device, bool copies_on_read, struct err *err)
{
	set_description(device, describe(device, copies_on_read));
	if (atomic_load(&device->host->description_bytes) <= DEVICE_HOST_DESCRIPTION_BYTES_MAX)
		return 0;
	return err_set(err, "too many devices with long chains are attached");
}

/* Notes the lock bytes that workers of an earlier life hold: while one does, what leaked then may still be written to. */
static int note_late_workers(struct device *device, int fd, struct err *err)
{
	uint64_t first = JOIN_LOCK_BYTE_FIRST, byte;
	int held;

	for (;;) {
		held = ofd_lock_held_elsewhere(fd, first, (uint64_t)INT64_MAX - first, &byte);
		if (held < 0)
			return err_set_errno(err, errno, "look for locks of workers");
		if (held == 0)
			return 0;
		if (device->late_count == LATE_BYTES_MAX)
			return err_set(
				err, "more than %d locks of workers are held", LATE_BYTES_MAX);
		device->late_bytes = must_realloc(
			device->late_bytes, device->late_count + 1, sizeof device->late_bytes[0]);
		device->late_bytes[device->late_count++] = byte < first ? first : byte;
		first = device->late_bytes[device->late_count - 1] + 1;
	}
}

static int claim_file(struct device *device, const char *file, struct err *err)
{
	CLEANUP_CLOSE int fd = roots_open(device->host->roots, file, O_RDONLY, err);
	struct stat status;

	if (fd < 0)
		return -1;
	if (fstat(fd, &status) < 0)
		return err_set_errno(err, errno, "%s", file);
	return device_host_claim(device->host, device, &status, err);
}

static int open_chain(struct device *device, const struct device_attach *attach,
	struct chain **ret_chain, struct err *err)
{
	if (chain_open(device->host->roots, attach->file, attach->format, attach->read_only,
		    ret_chain, err) == 0)
		return 0;
	if (err->kind == ERROR_CLASS_DEVICE_IN_USE)
		err_wrap(err, "Device '%s' is in use", device->name);
	return -1;
}

/* Everything that is open is a member from here on, whether it succeeds or not. */
static int make_ready(struct device *device, struct err *err)
{
	struct chain *chain = chain_of(device);

	if (!chain->leaf && !chain->read_only)
		device->raw_fd = chain->layers[0].layer->fd;
	if (!chain->leaf || chain->read_only)
		return 0;
	if (note_late_workers(device, chain->leaf->fd, err) < 0)
		return -1;
	if (qcow2_make_writable(chain->leaf, err) < 0)
		return -1;
	device->leaf = chain->leaf;
	/* Before anything is reclaimed: what the log names is in use. */
	if (device_adopt_writes(device, err) < 0)
		return -1;
	if (device->late_count == 0)
		return qcow2_trim(device->leaf, true, err);
	log_info(
		"device=%s locks of %zu earlier workers are held: what leaked is kept until they are "
		"gone",
		device->name, device->late_count);
	atomic_store(&device->needs_tidying, true);
	return 0;
}

static int open_device(struct device *device, const struct device_attach *attach, struct err *err)
{
	struct chain *chain;

	if (claim_file(device, attach->file, err) < 0)
		return -1;
	if (open_chain(device, attach, &chain, err) < 0) {
		device_host_release(device->host, device);
		return -1;
	}
	live_chain_init(&device->live, chain);
	lease_table_init(&device->leases);
	device->phase = DEVICE_OPEN;
	if (make_ready(device, err) < 0) {
		device_end_writes(device);
		device->leaf = NULL;
		device_close(device);
		return -1;
	}
	if (describe_first(device, attach->copy_on_read, err) < 0) {
		device_close(device);
		return -1;
	}
	device->guest_size = chain->size;
	device->guest_file = device->file;
	atomic_store(&device->copies_on_read, attach->copy_on_read && device->leaf);
	device->is_served = true;
	return 0;
}

/* The device is open: with this file? */
static int check_same(
	const struct device *device, const struct device_attach *attach, struct err *err)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat status;

	if (strcmp(device->description->state.file, attach->file) == 0)
		return 0;
	fd = roots_open(device->host->roots, attach->file, O_RDONLY, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &status) == 0 &&
		chain_same_file(&device->live.current->chain->layers[0], &status))
		return 0;
	return err_set_kind(err, ERROR_CLASS_DEVICE_IN_USE,
		"Device '%s' is in use: it is attached with another file, '%s'", device->name,
		device->description->state.file);
}

/* Until release_guests: nobody is inside, and what guests ask from now on waits. */
static int hold_guests(struct device *device, struct err *err)
{
	if (atomic_load(&device->held_until_ms) == 0 && !gate_close(&device->gate, HOLD_BACK_MS))
		return err_set(err,
			"Device '%s': what guests asked of it before is not answered yet",
			device->name);
	atomic_store(&device->held_until_ms, clock_monotonic_ms() + HOLD_MS);
	return 0;
}

static void release_guests(struct device *device)
{
	if (atomic_exchange(&device->held_until_ms, 0) != 0)
		gate_open(&device->gate);
}

void device_stop_holding(struct device *device)
{
	uint64_t until_ms = atomic_load(&device->held_until_ms);

	if (until_ms == 0 || clock_monotonic_ms() < until_ms)
		return;
	log_warn("device=%s was not attached anew in time; what guests ask of it fails",
		device->name);
	release_guests(device);
}

/* If it fails, those that are connected go on waiting for the next try. */
static int open_anew(struct device *device, const struct device_attach *attach, struct err *err)
{
	if (hold_guests(device, err) < 0)
		return -1;
	if (device->phase == DEVICE_FAILED)
		device_close(device);
	if (open_device(device, attach, err) < 0) {
		if (!device_host_has_guests(device->host, device))
			release_guests(device);
		return -1;
	}
	release_guests(device);
	return 0;
}

int device_attach(
	struct device *device, const struct device_attach *attach, struct trouble *trouble)
{
	if (device->phase == DEVICE_OPEN)
		return check_same(device, attach, &trouble->err);
	if (open_anew(device, attach, &trouble->err) < 0)
		return -1;
	device_host_let_guests_in(device->host, device);
	log_info("device=%s attached '%s' layers=%zu", device->name,
		chain_of(device)->layers[0].path, chain_of(device)->count);
	return 0;
}

/* All that guests were answered for, onto the disk, while somebody still is there to be told that it failed.  Where the image is
 * damaged nothing would ever change that: it is closed, and its log kept. */
static int settle_guests(struct device *device, struct err *err)
{
	struct err why;

	if (device->leaf && device_has_writes(device) && device_flush(device, &why) < 0 &&
		(device_has_failed(device) || why.number == ENOSPC || why.number == EDQUOT)) {
		*err = why;
		return err_wrap(
			err, "Device '%s': what guests wrote cannot be written back", device->name);
	}
	if (device->raw_fd >= 0 && guest_raw_flush(device) != 0)
		return err_set_errno(err, EIO, "Device '%s': flushing it", device->name);
	return 0;
}

static int keep_guests_out(struct device *device, struct err *err)
{
	if (device->stream || !device_host_keep_guests_out(device->host, device))
		return err_set_kind(
			err, ERROR_CLASS_DEVICE_IN_USE, "Device '%s' is in use", device->name);
	if (settle_guests(device, err) == 0)
		return 0;
	device_host_let_guests_in(device->host, device);
	return -1;
}

int device_detach(struct device *device, struct trouble *trouble)
{
	if (device->phase == DEVICE_OPEN && keep_guests_out(device, &trouble->err) < 0)
		return -1;
	if (device->phase == DEVICE_FAILED && !device_host_keep_guests_out(device->host, device) &&
		hold_guests(device, &trouble->err) < 0)
		return -1;
	if (device->phase != DEVICE_CLOSED)
		log_info("device=%s detached", device->name);
	device_close(device);
	return 0;
}

void device_trim(struct device *device)
{
	struct err err = {0};

	int r;

	if (!device->leaf || device->phase != DEVICE_OPEN)
		return;
	/* The first write waits: what is compared here must stand still. */
	pthread_mutex_lock(&device->writes_lock);
	r = qcow2_trim(device->leaf, device->late_count == 0, &err);
	pthread_mutex_unlock(&device->writes_lock);
	if (r < 0)
		log_warn("device=%s giving unused space back failed, it stays in the file: %s",
			device->name, err.text);
}

void device_trim_if_idle(struct device *device)
{
	if (!device_host_has_guests(device->host, device))
		device_trim(device);
}

/* What a guest was answered for is in the file; it shall be on the disk, too. */
static void close_to_guests(struct device *device)
{
	if (device->raw_fd >= 0 && !atomic_load(&device->has_raw_failed)) {
		int number = guest_raw_flush(device);

		if (number)
			log_error("device=%s closing it, what guests wrote may be lost: %s",
				device->name, strerrordesc_np(number));
	}
	/* As qcow2_free does: what could not be written is clean in memory all the same. */
	if (atomic_load(&device->has_raw_failed))
		(void)posix_fadvise(device->raw_fd, 0, 0, POSIX_FADV_DONTNEED);
	atomic_store(&device->has_raw_failed, false);
	device->raw_fd = -1;
	device->is_served = false;
	device->failures += device->phase == DEVICE_FAILED;
}

void device_close(struct device *device)
{
	if (device->phase == DEVICE_CLOSED)
		return;
	stream_forget(device);
	device_end_writes(device);
	device_tidy(device);
	device_trim(device);
	atomic_fetch_sub(&device->host->leases, (unsigned)device->leases.open);
	atomic_fetch_sub(&device->host->joins, (unsigned)join_table_active(&device->joins));
	set_description(device, NULL);
	pthread_mutex_lock(&device->lock);
	device->has_failed = false;
	join_table_done(&device->joins);
	pthread_mutex_unlock(&device->lock);
	lease_table_done(&device->leases);
	close_to_guests(device);
	device->leaf = NULL;
	live_chain_done(&device->live);
	device_forget_writes(device);
	free(device->late_bytes);
	device->late_bytes = NULL;
	device->late_count = 0;
	atomic_store(&device->needs_tidying, false);
	device->phase = DEVICE_CLOSED;
	device_host_release(device->host, device);
}

bool device_has_failed(struct device *device)
{
	bool has_leaf_failed;

	if (!device->leaf)
		return atomic_load(&device->has_raw_failed);
	pthread_mutex_lock(&device->leaf->lock);
	has_leaf_failed = device->leaf->failed;
	pthread_mutex_unlock(&device->leaf->lock);
	return has_leaf_failed;
}

bool device_notice_failure(struct device *device, struct err *err)
{
	if (device->phase != DEVICE_OPEN || !device_has_failed(device))
		return false;
	device->phase = DEVICE_FAILED;
	pthread_mutex_lock(&device->lock);
	device->has_failed = true;
	pthread_mutex_unlock(&device->lock);
	err_wrap(err, "Device '%s' failed", device->name);
	log_error("device=%s failed, nothing more is written to it until it is attached anew: %s",
		device->name, err->text);
	return true;
}

/* Whether some other process holds this byte of the leaf; yes, where that can't be known. */
static bool is_byte_held(struct device *device, uint64_t byte)
{
	return ofd_lock_held_elsewhere(device->leaf->fd, byte, 1, NULL) != 0;
}

static void tidy_late(struct device *device)
{
	size_t held = 0;

	if (device->late_count == 0)
		return;
	for (size_t i = 0; i < device->late_count; i++) {
		if (is_byte_held(device, device->late_bytes[i]))
			device->late_bytes[held++] = device->late_bytes[i];
	}
	device->late_count = held;
	if (held > 0)
		return;
	log_info("device=%s all earlier workers are gone, reclaiming what leaked%s", device->name,
		device_host_has_guests(device->host, device) ? " once no guest is connected" : "");
	device_trim_if_idle(device);
}

void device_tidy(struct device *device)
{
	bool was_waiting = atomic_exchange(&device->needs_tidying, false);
	bool is_waiting;

	if (!device->leaf)
		return;
	tidy_late(device);
	is_waiting = device->late_count > 0;
	for (size_t i = device->joins.count; i-- > 0;) {
		struct join *join = device->joins.joins[i];

		if (!reservation_is_waiting(device, join))
			continue;
		if (is_byte_held(device, join->lock_byte))
			is_waiting = true;
		else
			reservation_join_is_gone(device, join);
	}
	if (is_waiting)
		atomic_store(&device->needs_tidying, true);
	else if (was_waiting && !device->stream)
		device_trim_if_idle(device);
}

bool device_may_complain(struct device *device)
{
	uint64_t now_ms = clock_monotonic_ms(), last_ms = atomic_load(&device->complained_ms);

	return (last_ms == 0 || now_ms >= last_ms + COMPLAINTS_MS) &&
	       atomic_compare_exchange_strong(&device->complained_ms, &last_ms, now_ms);
}

void device_touch(struct device *device, uint64_t offset, uint64_t length)
{
	lease_table_touch(&device->leases, offset, length);
}
