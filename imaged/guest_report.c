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

static void encode(const struct device *device, const struct guest_load *load,
	struct guest_activity_taken *taken, struct wire_buffer *buffer)
{
	const struct msg_guest_report report = {
		.device = device->name,
		.requests = load->requests,
		.busy = load->busy_us * 1000 / load->interval_us,
		.interval_ms = load->interval_us < 1000 ? 1 : load->interval_us / 1000,
		.wanted = taken->missed,
		.wanted_count = taken->missed_count,
	};

	msg_guest_report_encode(&report, buffer);
}

/* The first report of a job tells of what was before it too: the job may have been opened a moment ago. */
static struct guest_load with_unheard(struct device *device, struct guest_load load)
{
	load.requests += device->unheard.requests;
	load.busy_us += device->unheard.busy_us;
	load.interval_us += device->unheard.interval_us;
	device->unheard = (struct guest_load){0};
	return load;
}

void guest_report_begin(struct device *device)
{
	device->guests_seen_ms = 0;
}

bool guest_report_encode(struct device *device, uint64_t now_ms, struct wire_buffer *buffer)
{
	struct guest_activity_taken taken;
	struct guest_load load;
	bool is_open, has_load, had_load = device->has_told_load;

	if (now_ms < device->guests_seen_ms + GUEST_REPORT_MS)
		return false;
	device->guests_seen_ms = now_ms;
	is_open = has_job(device);
	guest_activity_watch(&device->activity, is_open);
	guest_activity_take(&device->activity, &taken);
	if (!is_open) {
		device->has_told_load = false;
		device->unheard = taken.load;
		return false;
	}
	load = with_unheard(device, taken.load);
	has_load = load.requests > 0 || load.busy_us > 0;
	device->has_told_load = has_load;
	if (!has_load && !had_load && taken.missed_count == 0)
		return false;
	encode(device, &load, &taken, buffer);
	return true;
}
