/* SPDX-License-Identifier: Apache-2.0 */
/* Imageds come and go; when one goes, what it was asked is taken back. */
#include "broker/core/imageds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"
#include "common/check.h"

/* Another incarnation gets the name if the one that has it says nothing for so long after it was
 * asked. */
#define CHALLENGE_MS 1500
/* Reservations whose answer may still come, or not. */
#define LOST_REQUESTS_MAX 4096

struct imaged *imaged_find(const struct core *core, const char *name)
{
	return index_find_name(&core->imageds, name);
}

bool imaged_is_here(const struct imaged *imaged)
{
	return imaged->peer.number != 0;
}

static void timer_fired(struct core *core, struct timer *timer)
{
	struct imaged *imaged = container_of(timer, struct imaged, timer);
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT};
	char reason[80];

	if (!imaged_is_here(imaged))
		return;
	if (core->now.now_ms >= imaged->peer.heard_ms + core->options.peer_timeout_ms) {
		snprintf(reason, sizeof(reason), "nothing heard from its imaged for %.1f seconds",
			(double)(core->now.now_ms - imaged->peer.heard_ms) / 1000);
		imaged_lose(core, imaged, reason);
		return;
	}
	if (imaged->challenger != 0 && core->now.now_ms >= imaged->challenged_ms + CHALLENGE_MS) {
		imaged_decide_challenge(core, imaged);
		return;
	}
	send_to_imaged(core, imaged, &message);
	timer_set(&core->timers, timer, core->now.now_ms + core->options.heartbeat_ms);
	if (imaged->challenger != 0)
		timer_set_earlier(&core->timers, timer, imaged->challenged_ms + CHALLENGE_MS);
}

/* Some may have become of no use since they went away. */
static void release_unused(struct core *core)
{
	struct imaged *imaged, *following;

	list_for_each_safe(imaged, following, &core->all_imageds, in_core)
		imaged_release(core, imaged);
}

struct imaged *imaged_get(struct core *core, const char *name)
{
	struct imaged *imaged = imaged_find(core, name);

	if (imaged == NULL && core->imageds.count >= IMAGEDS_MAX)
		release_unused(core);
	if (imaged != NULL || core->imageds.count >= IMAGEDS_MAX)
		return imaged;
	imaged = must_calloc(1, sizeof(*imaged));
	name_copy(imaged->name, name);
	imaged->peer.imaged = imaged;
	list_init(&imaged->devices);
	list_init(&imaged->requests);
	list_init(&imaged->leases);
	list_init(&imaged->gone_devices);
	list_append(&core->all_imageds, &imaged->in_core);
	index_add_name(&core->imageds, imaged->name, imaged);
	timer_init(&imaged->timer, timer_fired);
	return imaged;
}

size_t imageds_here(const struct core *core, struct imaged **ret_one)
{
	struct imaged *imaged;
	size_t count = 0;

	list_for_each(imaged, &core->all_imageds, in_core) {
		if (!imaged_is_here(imaged))
			continue;
		count++;
		*ret_one = imaged;
	}
	return count;
}

/* ---- a session ends */

static void lose_request(struct core *core, struct request *request)
{
	struct imaged *imaged = request->imaged;
	struct job *job = request->job;
	struct query *query = request->query;
	struct device *device = request->device;
	enum request_kind kind = request->kind;

	/* Of a reservation the answer must be known if it still comes: then its clusters are
	 * free, nobody got them. */
	if (kind == REQUEST_RESERVE || kind == REQUEST_PREPARE_JOIN) {
		request->is_lost = true;
		request->lease = NULL;
		request->join = NULL;
		list_remove(&request->of_owner);
		return;
	}
	request_free(core, request);
	if (job != NULL && !job->is_accepted)
		job_reject(core, job, NULL);
	if (query != NULL)
		query_lost(core, query, imaged->name);
	if (device != NULL)
		device_request_lost(core, device, kind);
}

static void trim_lost_requests(struct core *core, struct imaged *imaged)
{
	struct request *request, *following;
	size_t count = 0;

	list_for_each(request, &imaged->requests, in_imaged)
		count++;
	list_for_each_safe(request, following, &imaged->requests, in_imaged) {
		if (count <= LOST_REQUESTS_MAX)
			return;
		request_free(core, request);
		count--;
	}
}

void imaged_session_lost(struct core *core, struct imaged *imaged)
{
	struct request *request, *following;
	struct device *device, *next_device;

	leases_of_imaged_away(core, imaged);
	joins_of_imaged_away(core, imaged);
	list_for_each_safe(request, following, &imaged->requests, in_imaged)
		if (!request->is_lost)
			lose_request(core, request);
	trim_lost_requests(core, imaged);
	list_for_each_safe(device, next_device, &imaged->devices, in_imaged)
		if (device->job != NULL)
			job_session_lost(core, device->job);
}

static void forget_lost_requests(struct core *core, struct imaged *imaged)
{
	struct request *request;

	while ((request = list_first(&imaged->requests, struct request, in_imaged)) != NULL)
		request_free(core, request);
}

void imaged_lose(struct core *core, struct imaged *imaged, const char *reason)
{
	struct device *device, *following;
	uint64_t challenger = imaged->challenger;
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_IMAGED_UNKNOWN};

	timer_stop(&core->timers, &imaged->timer);
	peer_clear(core, &imaged->peer);
	imaged->challenger = 0;
	imaged_session_lost(core, imaged);
	forget_lost_requests(core, imaged);
	list_for_each_safe(device, following, &imaged->devices, in_imaged)
		device_goes_offline(core, device, reason);
	send_to_imaged_peer(core, challenger, &message); /* says hello again, and is taken */
	imaged_release(core, imaged);
}

void imaged_free(struct core *core, struct imaged *imaged)
{
	struct gone_device *gone;

	forget_lost_requests(core, imaged);
	while ((gone = list_first(&imaged->gone_devices, struct gone_device, in_imaged)) != NULL) {
		list_remove(&gone->in_imaged);
		free(gone);
	}
	peer_clear(core, &imaged->peer);
	timer_stop(&core->timers, &imaged->timer);
	list_remove(&imaged->in_core);
	index_remove_name(&core->imageds, imaged->name);
	free(imaged);
}

void imaged_release(struct core *core, struct imaged *imaged)
{
	if (!imaged_is_here(imaged) && list_is_empty(&imaged->devices) &&
		list_is_empty(&imaged->leases) && list_is_empty(&imaged->gone_devices))
		imaged_free(core, imaged);
}

/* ---- devices that were detached by force */

#define GONE_DEVICES_MAX 1024

void imaged_note_gone(struct imaged *imaged, const char *device)
{
	struct gone_device *gone = must_calloc(1, sizeof(*gone));
	struct gone_device *oldest =
		list_first(&imaged->gone_devices, struct gone_device, in_imaged);
	size_t count = 0;

	name_copy(gone->name, device);
	gone->incarnation = imaged->incarnation;
	list_append(&imaged->gone_devices, &gone->in_imaged);
	list_for_each(gone, &imaged->gone_devices, in_imaged)
		count++;
	if (count > GONE_DEVICES_MAX) {
		list_remove(&oldest->in_imaged);
		free(oldest);
	}
}

bool imaged_take_gone(struct imaged *imaged, const char *device)
{
	struct gone_device *gone, *following;
	bool is_gone = false;

	list_for_each_safe(gone, following, &imaged->gone_devices, in_imaged) {
		if (strcmp(gone->name, device) != 0)
			continue;
		is_gone |= gone->incarnation == imaged->incarnation;
		list_remove(&gone->in_imaged);
		free(gone);
	}
	return is_gone;
}
