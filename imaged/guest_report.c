/* SPDX-License-Identifier: Apache-2.0 */
/* Silence means an idle guest, so a load is told once more when it is over, and nothing is said for devices without guests. */
#include "imaged/guest_report.h"

#include "schemas/imaged_broker.gen.h"

static bool has_job(struct device *device)
{
	bool is_there;

	pthread_mutex_lock(&device->lock);
	is_there = device->stream != NULL;
	pthread_mutex_unlock(&device->lock);
	return is_there;
}

static void encode(
	const struct device *device, struct guest_activity_taken *taken, struct wire_buffer *buffer)
{
	const struct msg_guest_report report = {
		.device = device->name,
		.requests = taken->requests,
		.busy = taken->busy_us * 1000 / taken->interval_us,
		.interval_ms = taken->interval_us < 1000 ? 1 : taken->interval_us / 1000,
		.wanted = taken->missed,
		.wanted_count = taken->missed_count,
	};

	msg_guest_report_encode(&report, buffer);
}

bool guest_report_encode(struct device *device, uint64_t now_ms, struct wire_buffer *buffer)
{
	struct guest_activity_taken taken;
	bool is_open, has_load, had_load = device->has_told_load;

	if (now_ms < device->guests_seen_ms + GUEST_REPORT_MS)
		return false;
	device->guests_seen_ms = now_ms;
	is_open = has_job(device);
	guest_activity_watch(&device->activity, is_open);
	guest_activity_take(&device->activity, &taken);
	has_load = taken.requests > 0 || taken.busy_us > 0;
	device->has_told_load = is_open && has_load;
	if (!is_open || !(has_load || had_load || taken.missed_count > 0))
		return false;
	encode(device, &taken, buffer);
	return true;
}
