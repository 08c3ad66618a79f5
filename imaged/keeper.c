/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/keeper.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "imaged/device.h"
#include "imaged/guest_write.h"
#include "imaged/qcow2_write_back.h"
#include "imaged/qcow2_write_out.h"
#include "imaged/qcow2_zone.h"

#define RANGES_MAX   64
#define RETRY_MS     1000 /* after something failed */
#define THREAD_STACK ((size_t)256 << 10)

struct range {
	uint64_t offset, length;
};

struct keeper {
	struct device *device;
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows; nothing else is taken with it held */
	pthread_cond_t woken;
	bool is_woken, is_ending;
	struct range ranges[RANGES_MAX]; /* a ring */
	unsigned first, count;
};

static bool take_range(struct keeper *keeper, struct range *ret_range)
{
	bool is_there = false;

	pthread_mutex_lock(&keeper->lock);
	if (keeper->count > 0 && !keeper->is_ending) {
		*ret_range = keeper->ranges[keeper->first];
		keeper->first = (keeper->first + 1) % RANGES_MAX;
		keeper->count--;
		is_there = true;
	}
	pthread_mutex_unlock(&keeper->lock);
	return is_there;
}

static bool is_write_back_due(struct qcow2 *image)
{
	bool is_due;

	pthread_mutex_lock(&image->lock);
	is_due = qcow2_write_back_is_due(image);
	pthread_mutex_unlock(&image->lock);
	return is_due;
}

static bool is_write_back_urgent(struct qcow2 *image)
{
	bool is_urgent;

	pthread_mutex_lock(&image->lock);
	is_urgent = image->pending->count >= PENDING_NEEDS_WRITE_BACK;
	pthread_mutex_unlock(&image->lock);
	return is_urgent;
}

static bool is_ending(struct keeper *keeper)
{
	bool is_so;

	pthread_mutex_lock(&keeper->lock);
	is_so = keeper->is_ending;
	pthread_mutex_unlock(&keeper->lock);
	return is_so;
}

/* Space for new clusters, before it is needed. */
static int make_space(struct qcow2 *image, struct err *err)
{
	if (qcow2_zone_make_ready(image, ZONE_FRESH, err) < 0)
		return -1;
	return qcow2_zone_look_ahead(image, err);
}

/* Guests go on writing meanwhile and need space.  What they write is for the next time: there is more to do here. */
static int write_out(struct keeper *keeper, struct err *err)
{
	struct qcow2 *image = keeper->device->leaf;

	if (is_write_back_urgent(image) || !qcow2_write_out_begin(image))
		return 0;
	while (!is_write_back_urgent(image) && !is_ending(keeper)) {
		int r = qcow2_write_out_next(image, err);

		if (r <= 0)
			return r;
		if (make_space(image, err) < 0)
			return -1;
	}
	return 0;
}

/* One range, so that nothing else waits for all of them. */
static void keep_a_range(struct keeper *keeper)
{
	struct range range;

	if (!take_range(keeper, &range))
		return;
	/* Not inside the gate: it reads none of the leaf's clusters, and who closes the gate waits for this thread. */
	(void)guest_keep(keeper->device, range.offset, range.length);
	keeper_wake(keeper);
}

/* 0, or -1: the image has failed or there is no space; whoever needs it is told when he asks. */
static int keep_house(struct keeper *keeper)
{
	struct qcow2 *image = keeper->device->leaf;
	struct err err;

	if (make_space(image, &err) < 0 || write_out(keeper, &err) < 0)
		return -1;
	if (is_write_back_due(image) && qcow2_write_back(image, WRITE_BACK_LAZY, &err) < 0)
		return -1;
	if (qcow2_forget(image, &err) < 0)
		return -1;
	keep_a_range(keeper);
	return 0;
}

/* Until there is something to do; false: the end. */
static bool wait_for_work(struct keeper *keeper, bool has_failed)
{
	uint64_t until_ms = clock_monotonic_ms() + RETRY_MS;
	const struct timespec until = {
		.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000};
	bool goes_on;

	pthread_mutex_lock(&keeper->lock);
	while (has_failed && !keeper->is_ending) {
		if (pthread_cond_timedwait(&keeper->woken, &keeper->lock, &until) == ETIMEDOUT)
			break;
	}
	while (!keeper->is_woken && !keeper->is_ending)
		pthread_cond_wait(&keeper->woken, &keeper->lock);
	keeper->is_woken = false;
	goes_on = !keeper->is_ending;
	pthread_mutex_unlock(&keeper->lock);
	return goes_on;
}

static void *work(void *owner)
{
	struct keeper *keeper = owner;
	bool has_failed = false;

	while (wait_for_work(keeper, has_failed)) {
		has_failed = keep_house(keeper) < 0;
		if (has_failed)
			atomic_store(&keeper->device->is_suspect, true);
	}
	return NULL;
}

struct keeper *keeper_new(struct device *device, struct err *err)
{
	struct keeper *keeper = must_calloc(1, sizeof *keeper);
	pthread_condattr_t of_woken;
	pthread_attr_t attributes;
	int number;

	keeper->device = device;
	pthread_mutex_init(&keeper->lock, NULL);
	pthread_condattr_init(&of_woken);
	pthread_condattr_setclock(&of_woken, CLOCK_MONOTONIC);
	pthread_cond_init(&keeper->woken, &of_woken);
	pthread_condattr_destroy(&of_woken);
	pthread_attr_init(&attributes);
	(void)pthread_attr_setstacksize(&attributes, THREAD_STACK);
	number = pthread_create(&keeper->thread, &attributes, work, keeper);
	pthread_attr_destroy(&attributes);
	if (number == 0)
		return keeper;
	pthread_cond_destroy(&keeper->woken);
	pthread_mutex_destroy(&keeper->lock);
	free(keeper);
	err_set_errno(err, number, "start a thread");
	return NULL;
}

void keeper_free(struct keeper *keeper)
{
	if (!keeper)
		return;
	pthread_mutex_lock(&keeper->lock);
	keeper->is_ending = true;
	pthread_cond_signal(&keeper->woken);
	pthread_mutex_unlock(&keeper->lock);
	pthread_join(keeper->thread, NULL);
	pthread_cond_destroy(&keeper->woken);
	pthread_mutex_destroy(&keeper->lock);
	free(keeper);
}

void keeper_wake(struct keeper *keeper)
{
	pthread_mutex_lock(&keeper->lock);
	if (!keeper->is_woken) {
		keeper->is_woken = true;
		pthread_cond_signal(&keeper->woken);
	}
	pthread_mutex_unlock(&keeper->lock);
}

void keeper_keep(struct keeper *keeper, uint64_t offset, uint64_t length)
{
	pthread_mutex_lock(&keeper->lock);
	if (keeper->count < RANGES_MAX) {
		keeper->ranges[(keeper->first + keeper->count++) % RANGES_MAX] =
			(struct range){offset, length};
		keeper->is_woken = true;
		pthread_cond_signal(&keeper->woken);
	}
	pthread_mutex_unlock(&keeper->lock);
}
