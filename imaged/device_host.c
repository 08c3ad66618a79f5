/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/device_host.h"

#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "schemas/errors.gen.h"

void device_host_init(struct device_host *host, const struct roots *roots, const char *boot_id,
	struct strand_pool *pool)
{
	*host = (struct device_host){.roots = roots, .boot_id = boot_id, .pool = pool};
	pthread_mutex_init(&host->lock, NULL);
}

void device_host_close(struct device_host *host)
{
	for (size_t i = 0; i < host->count; i++)
		device_post_close(host->devices[i]);
	strand_pool_drain(host->pool);
}

void device_host_done(struct device_host *host)
{
	device_host_close(host);
	while (host->count > 0)
		bug_if(!device_host_remove(host, host->devices[host->count - 1]));
	pthread_mutex_destroy(&host->lock);
}

/* With the lock held: where the name is, or would be. */
static size_t place_of(const struct device_host *host, const char *name)
{
	size_t low = 0, high = host->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (strcmp(host->devices[middle]->name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* With the lock held. */
static struct device *find(struct device_host *host, const char *name)
{
	size_t place = place_of(host, name);

	if (place < host->count && strcmp(host->devices[place]->name, name) == 0)
		return host->devices[place];
	return NULL;
}

struct device *device_host_find(struct device_host *host, const char *name)
{
	struct device *device;

	pthread_mutex_lock(&host->lock);
	device = find(host, name);
	pthread_mutex_unlock(&host->lock);
	return device;
}

struct device *device_host_add(struct device_host *host, const char *name)
{
	struct device *device;
	size_t place;

	if (host->count == DEVICE_HOST_DEVICES_MAX)
		return NULL;
	device = device_new(host, name);
	pthread_mutex_lock(&host->lock);
	place = place_of(host, name);
	memmove(&host->devices[place + 1], &host->devices[place],
		(host->count - place) * sizeof host->devices[0]);
	host->devices[place] = device;
	host->count++;
	pthread_mutex_unlock(&host->lock);
	return device;
}

bool device_host_remove(struct device_host *host, struct device *device)
{
	size_t place;

	pthread_mutex_lock(&host->lock);
	if (device->guests > 0) {
		pthread_mutex_unlock(&host->lock);
		return false;
	}
	place = place_of(host, device->name);
	bug_if(place == host->count || host->devices[place] != device);
	memmove(&host->devices[place], &host->devices[place + 1],
		(host->count - place - 1) * sizeof host->devices[0]);
	host->count--;
	pthread_mutex_unlock(&host->lock);
	device_free(device);
	return true;
}

struct device *device_host_admit(struct device_host *host, const char *name)
{
	struct device *device;

	pthread_mutex_lock(&host->lock);
	device = find(host, name);
	if (device && device->admits_guests)
		device->guests++;
	else
		device = NULL;
	pthread_mutex_unlock(&host->lock);
	return device;
}

void device_host_dismiss(struct device_host *host, struct device *device)
{
	pthread_mutex_lock(&host->lock);
	bug_if(device->guests == 0);
	/* What was held ready for guests' writes is given back, and what leaked is reclaimed. */
	if (--device->guests == 0)
		atomic_store(&device->needs_tidying, true);
	pthread_mutex_unlock(&host->lock);
}

void device_host_let_guests_in(struct device_host *host, struct device *device)
{
	pthread_mutex_lock(&host->lock);
	device->admits_guests = true;
	pthread_mutex_unlock(&host->lock);
}

bool device_host_keep_guests_out(struct device_host *host, struct device *device)
{
	bool is_free;

	pthread_mutex_lock(&host->lock);
	is_free = device->guests == 0;
	if (is_free)
		device->admits_guests = false;
	pthread_mutex_unlock(&host->lock);
	return is_free;
}

bool device_host_has_guests(struct device_host *host, const struct device *device)
{
	bool has_guests;

	pthread_mutex_lock(&host->lock);
	has_guests = device->guests > 0;
	pthread_mutex_unlock(&host->lock);
	return has_guests;
}

void device_host_each_served(
	struct device_host *host, void (*visit)(void *owner, const char *name), void *owner)
{
	pthread_mutex_lock(&host->lock);
	for (size_t i = 0; i < host->count; i++) {
		if (host->devices[i]->admits_guests)
			visit(owner, host->devices[i]->name);
	}
	pthread_mutex_unlock(&host->lock);
}

struct device *device_host_of_id(struct device_host *host, uint64_t id)
{
	struct device *device = NULL;

	pthread_mutex_lock(&host->lock);
	for (size_t i = 0; i < host->count && !device; i++) {
		if (device_has_drawn(host->devices[i], id))
			device = host->devices[i];
	}
	pthread_mutex_unlock(&host->lock);
	return device;
}

static bool is_same_file(const struct device *device, const struct stat *file)
{
	if (S_ISBLK(file->st_mode))
		return device->file.block_device == file->st_rdev;
	return device->file.block_device == 0 && device->file.device == file->st_dev &&
	       device->file.inode == file->st_ino;
}

int device_host_claim(
	struct device_host *host, struct device *device, const struct stat *file, struct err *err)
{
	struct device *other = NULL;

	pthread_mutex_lock(&host->lock);
	for (size_t i = 0; i < host->count && !other; i++) {
		struct device *candidate = host->devices[i];

		if (candidate != device && candidate->file.is_claimed &&
			is_same_file(candidate, file))
			other = candidate;
	}
	if (!other) {
		device->file = (struct device_file){
			.is_claimed = true,
			.device = file->st_dev,
			.inode = file->st_ino,
			.block_device = S_ISBLK(file->st_mode) ? file->st_rdev : 0,
		};
	}
	if (other)
		err_set_kind(err, ERROR_CLASS_DEVICE_IN_USE,
			"Device '%s' is in use: the file is attached as '%s' already", device->name,
			other->name);
	pthread_mutex_unlock(&host->lock);
	return other ? -1 : 0;
}

void device_host_release(struct device_host *host, struct device *device)
{
	pthread_mutex_lock(&host->lock);
	device->file.is_claimed = false;
	pthread_mutex_unlock(&host->lock);
}
