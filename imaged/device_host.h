/* SPDX-License-Identifier: Apache-2.0 */
/* What all devices of a process share, and the list of them.
 *
 * The control thread adds, finds and removes; strands claim the file that they open, so that no file is attached under two
 * names.  The lock is never held across I/O. */
#ifndef SLUICE_IMAGED_DEVICE_HOST_H
#define SLUICE_IMAGED_DEVICE_HOST_H

#include "imaged/device.h"

#define DEVICE_HOST_DEVICES_MAX 1024
/* What one hello can tell: at these many no more is reserved, or joined. */
#define DEVICE_HOST_LEASES_MAX 8192
#define DEVICE_HOST_JOINS_MAX  4096
/* All descriptions together: with leases and joins they fit a message of 4 MiB. */
#define DEVICE_HOST_DESCRIPTION_BYTES_MAX (UINT64_C(2) << 20)

struct device_host {
	const struct roots *roots;
	const char *boot_id; /* of this machine's kernel */
	/* A device's URI for guests is its name between these two; NULL: no guests are served. */
	const char *uri_before, *uri_after;
	const char *log_folder; /* for the logs of guests' writes; NULL: no guest writes to a qcow2 leaf */
	struct strand_pool *pool;
	atomic_bool is_stopping; /* long work ends early, as failed */
	atomic_uint leases;	 /* open, over all devices */
	atomic_uint joins;	 /* not ended */
	atomic_uint_fast64_t description_bytes;

	pthread_mutex_t lock;
	size_t count;
	struct device *devices[DEVICE_HOST_DEVICES_MAX]; /* by name */
};

/* Borrows all three. */
void device_host_init(struct device_host *host, const struct roots *roots, const char *boot_id,
	struct strand_pool *pool);
/* Closes the devices side by side.  Guests, if there are any, are held back by the gates for good. */
void device_host_close(struct device_host *host);
/* The same, and frees them. */
void device_host_done(struct device_host *host);

/* NULL where there is none of that name. */
struct device *device_host_find(struct device_host *host, const char *name);
/* NULL where there are too many; the name is not there yet. */
struct device *device_host_add(struct device_host *host, const char *name);
/* Takes it from the list and frees it, unless a guest is connected: then false. */
bool device_host_remove(struct device_host *host, struct device *device);
/* Any thread: counts a guest in, so that the device stays.  NULL: no guest can be served under that name. */
struct device *device_host_admit(struct device_host *host, const char *name);
void device_host_dismiss(struct device_host *host, struct device *device);
/* On the device's strand: lets guests come, or none any more; false, and nothing is changed, where one is there already. */
void device_host_let_guests_in(struct device_host *host, struct device *device);
bool device_host_keep_guests_out(struct device_host *host, struct device *device);
bool device_host_has_guests(struct device_host *host, const struct device *device);
/* Calls `visit` for the name of each device that admits guests, with the host's lock held. */
void device_host_each_served(
	struct device_host *host, void (*visit)(void *owner, const char *name), void *owner);
/* The device that drew this id of a join or lease; NULL: none of those that there are. */
struct device *device_host_of_id(struct device_host *host, uint64_t id);

/* On a device's strand: this file is now its own.  0, or -1 and err naming the device that has it. */
int MUST_CHECK device_host_claim(
	struct device_host *host, struct device *device, const struct stat *file, struct err *err);
void device_host_release(struct device_host *host, struct device *device);

#endif
