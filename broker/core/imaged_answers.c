/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from imageds, to whom it is for.  An answer finds its question by its number; one
 * that fits no question is late and means nothing, but for what it says imaged has opened now. */
#include <string.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/job.h"
#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/requests.h"
#include "broker/core/roster.h"

static void tell_unknown(struct core *core, uint64_t peer)
{
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_IMAGED_UNKNOWN};

	send_to_imaged_peer(core, peer, &message);
}

/* Which question an answer answers.  false: it is none. */
static bool question_of(
	const struct imaged_to_broker *message, enum request_kind *ret_kind, uint64_t *ret_number)
{
	switch (message->type) {
	case IMAGED_TO_BROKER_IMAGED_HELLO:
	case IMAGED_TO_BROKER_IMAGED_HEARTBEAT:
	case IMAGED_TO_BROKER_IMAGED_GOODBYE:
	case IMAGED_TO_BROKER_IMAGE_ERROR:
	case IMAGED_TO_BROKER_DEVICE_FAILED:
	case IMAGED_TO_BROKER_GUEST_REPORT:
		return false;
	case IMAGED_TO_BROKER_ATTACHED:
		*ret_kind = REQUEST_ATTACH;
		*ret_number = message->attached.request;
		break;
	case IMAGED_TO_BROKER_DETACHED:
		*ret_kind = REQUEST_DETACH;
		*ret_number = message->detached.request;
		break;
	case IMAGED_TO_BROKER_PLANNED:
		*ret_kind = REQUEST_PLAN;
		*ret_number = message->planned.request;
		break;
	case IMAGED_TO_BROKER_ALLOCATION_PAGE:
		*ret_kind = REQUEST_ALLOCATION;
		*ret_number = message->allocation_page.request;
		break;
	case IMAGED_TO_BROKER_JOB_OPENED:
		*ret_kind = REQUEST_OPEN_JOB;
		*ret_number = message->job_opened.request;
		break;
	case IMAGED_TO_BROKER_MAP_PAGE:
		*ret_kind = REQUEST_MAP;
		*ret_number = message->map_page.request;
		break;
	case IMAGED_TO_BROKER_JOIN_PREPARED:
		*ret_kind = REQUEST_PREPARE_JOIN;
		*ret_number = message->join_prepared.request;
		break;
	case IMAGED_TO_BROKER_JOIN_CONFIRMED:
		*ret_kind = REQUEST_CONFIRM_JOIN;
		*ret_number = message->join_confirmed.request;
		break;
	case IMAGED_TO_BROKER_JOIN_ENDED:
		*ret_kind = REQUEST_END_JOIN;
		*ret_number = message->join_ended.request;
		break;
	case IMAGED_TO_BROKER_RESERVED:
		*ret_kind = REQUEST_RESERVE;
		*ret_number = message->reserved.request;
		break;
	case IMAGED_TO_BROKER_ZEROED:
		*ret_kind = REQUEST_ZERO;
		*ret_number = message->zeroed.request;
		break;
	case IMAGED_TO_BROKER_COMMITTED:
		*ret_kind = REQUEST_COMMIT;
		*ret_number = message->committed.request;
		break;
	case IMAGED_TO_BROKER_ABORTED:
		*ret_kind = REQUEST_ABORT;
		*ret_number = message->aborted.request;
		break;
	case IMAGED_TO_BROKER_FINISHED:
		*ret_kind = REQUEST_FINISH;
		*ret_number = message->finished.request;
		break;
	case IMAGED_TO_BROKER_UNFINISHED:
		*ret_kind = REQUEST_FINISH;
		*ret_number = message->unfinished.request;
		break;
	case IMAGED_TO_BROKER_JOB_CLOSED:
		*ret_kind = REQUEST_CLOSE_JOB;
		*ret_number = message->job_closed.request;
		break;
	}
	return true;
}

/* ---- answers that nobody waits for */

static void close_late_lease(
	struct core *core, struct imaged *imaged, uint64_t lease, enum worker_writes writes)
{
	if (lease != 0 && lease_find(core, lease) == NULL)
		lease_abort(core, imaged, lease, writes);
}

static void answered_late(
	struct core *core, struct imaged *imaged, const struct imaged_to_broker *message)
{
	if (message->type == IMAGED_TO_BROKER_RESERVED)
		close_late_lease(core, imaged, message->reserved.lease, WORKER_MAY_WRITE);
}

/* The question is known, who asked is gone: no order and no join followed. */
static void answered_in_vain(
	struct core *core, struct imaged *imaged, const struct imaged_to_broker *message)
{
	if (message->type == IMAGED_TO_BROKER_RESERVED)
		close_late_lease(core, imaged, message->reserved.lease, WORKER_WRITES_NO_MORE);
	if (message->type == IMAGED_TO_BROKER_JOIN_PREPARED &&
		join_find(core, message->join_prepared.join) == NULL)
		join_tell_end(core, imaged, message->join_prepared.join, JOIN_END_LEFT);
}

/* ---- answers by whom they are for; `asked` is a copy, the request is gone already */

static int answer_job(struct core *core, const struct request *asked,
	const struct imaged_to_broker *message, struct err *err)
{
	struct job *job = asked->job;
	struct device *device = job->device;

	if (message->type == IMAGED_TO_BROKER_JOB_OPENED) {
		const struct msg_job_opened *opened = &message->job_opened;

		if (!opened->nothing_to_do &&
			(opened->cluster_size < 512 ||
				(opened->cluster_size & (opened->cluster_size - 1)) != 0)) {
			if (!job->is_accepted)
				job_reject(core, job, NULL);
			return err_set(err, "a job has a cluster size that is none");
		}
		job_opened(core, job, opened);
	} else if (message->type == IMAGED_TO_BROKER_MAP_PAGE) {
		return job_mapped(core, job, &message->map_page, err);
	} else if (message->type == IMAGED_TO_BROKER_ZEROED) {
		job_zeroed(core, job, asked->range, &message->zeroed);
	} else if (message->type == IMAGED_TO_BROKER_FINISHED) {
		device_seen(core, device, &message->finished.state);
		job_finished(core, job);
	} else if (message->type == IMAGED_TO_BROKER_UNFINISHED) {
		job_unfinished(core, job, message->unfinished.offset);
	} else if (message->type == IMAGED_TO_BROKER_JOB_CLOSED) {
		job_closed(core, job);
	}
	return 0;
}

static void answer_device(
	struct core *core, const struct request *asked, const struct imaged_to_broker *message)
{
	if (message->type == IMAGED_TO_BROKER_ATTACHED)
		device_attached(core, asked->device, &message->attached.state);
	else if (message->type == IMAGED_TO_BROKER_DETACHED)
		device_detached(core, asked->device);
}

static int answer_join(struct core *core, const struct request *asked,
	const struct imaged_to_broker *message, struct err *err)
{
	if (message->type == IMAGED_TO_BROKER_JOIN_PREPARED)
		return join_prepared(core, asked->join, &message->join_prepared, err);
	join_confirmed(core, asked->join);
	return 0;
}

static int answer_lease(struct core *core, const struct request *asked,
	const struct imaged_to_broker *message, struct err *err)
{
	if (message->type == IMAGED_TO_BROKER_RESERVED)
		return lease_reserved(core, asked->lease, &message->reserved, err);
	lease_committed(core, asked->lease, &message->committed);
	return 0;
}

static int answer_query(struct core *core, const struct request *asked,
	const struct imaged_to_broker *message, struct err *err)
{
	if (message->type == IMAGED_TO_BROKER_ALLOCATION_PAGE)
		return query_allocation_page(core, asked->query, asked->imaged, asked->range,
			&message->allocation_page, err);
	if (message->type == IMAGED_TO_BROKER_ATTACHED)
		query_attached(core, asked->query, asked->imaged, &message->attached.state);
	else
		query_planned(core, asked->query, &message->planned);
	return 0;
}

static int answered(struct core *core, struct imaged *imaged, enum request_kind kind,
	uint64_t number, const struct imaged_to_broker *message, struct err *err)
{
	struct request *request = request_find(core, imaged, number);
	struct request asked;

	if (request == NULL) {
		answered_late(core, imaged, message);
		return 0;
	}
	if (request->kind != kind)
		return err_set(err, "an answer does not fit its question");
	asked = *request;
	request_free(core, request);
	if (asked.job != NULL)
		return answer_job(core, &asked, message, err);
	if (asked.join != NULL)
		return answer_join(core, &asked, message, err);
	if (asked.lease != NULL)
		return answer_lease(core, &asked, message, err);
	if (asked.query != NULL)
		return answer_query(core, &asked, message, err);
	if (asked.device != NULL)
		answer_device(core, &asked, message);
	else
		answered_in_vain(core, imaged, message);
	return 0;
}

/* ---- refusals */

static void refused_lease(
	struct core *core, const struct request *asked, const struct msg_image_error *error)
{
	if (asked->kind == REQUEST_COMMIT)
		lease_commit_refused(core, asked->lease, error);
	else
		lease_refused(core, asked->lease, error);
}

static void refused_job(
	struct core *core, const struct request *asked, const struct msg_image_error *error)
{
	if (asked->kind == REQUEST_ZERO && asked->job->is_open)
		work_map_put_back(&asked->job->map, WORK_ZERO, asked->range);
	job_refused(core, asked->job, asked->kind, asked->range, error);
}

static void refused(struct core *core, struct imaged *imaged, const struct msg_image_error *error)
{
	struct request *request = request_find(core, imaged, error->request);
	struct request asked;

	if (request == NULL)
		return;
	asked = *request;
	request_free(core, request);
	if (asked.job != NULL)
		refused_job(core, &asked, error);
	else if (asked.join != NULL)
		join_refused_by_imaged(core, asked.join);
	else if (asked.lease != NULL)
		refused_lease(core, &asked, error);
	else if (asked.query != NULL)
		query_refused(core, asked.query, error);
	else if (asked.device != NULL && asked.kind == REQUEST_ATTACH)
		device_attach_refused(core, asked.device, error);
	else if (asked.device != NULL)
		device_detach_refused(core, asked.device, error);
}

/* ---- the rest */

static void failed(
	struct core *core, const struct imaged *imaged, const struct msg_device_failed *message)
{
	struct device *device = device_find(core, message->device);

	if (device != NULL && device->imaged == imaged && !device->has_failed)
		device_failed(core, device, message);
}

/* Of a device that is not (any more) this imaged's, or without a job that runs, it means nothing. */
static void guests_told(
	struct core *core, const struct imaged *imaged, const struct msg_guest_report *report)
{
	struct device *device = device_find(core, report->device);

	if (device != NULL && device->imaged == imaged && device->is_online && device->job != NULL)
		job_hears_of_guest(core, device->job, report);
}

static int handle(struct core *core, struct imaged *imaged, const struct imaged_to_broker *message,
	struct err *err)
{
	enum request_kind kind = REQUEST_ATTACH;
	uint64_t number = 0;

	if (question_of(message, &kind, &number))
		return answered(core, imaged, kind, number, message, err);
	if (message->type == IMAGED_TO_BROKER_IMAGE_ERROR)
		refused(core, imaged, &message->image_error);
	else if (message->type == IMAGED_TO_BROKER_DEVICE_FAILED)
		failed(core, imaged, &message->device_failed);
	else if (message->type == IMAGED_TO_BROKER_GUEST_REPORT)
		guests_told(core, imaged, &message->guest_report);
	else if (message->type == IMAGED_TO_BROKER_IMAGED_GOODBYE)
		imaged_lose(core, imaged, "its imaged said goodbye");
	return 0;
}

void imaged_message(struct core *core, uint64_t peer, struct imaged *imaged,
	const struct imaged_to_broker *message)
{
	struct err err = {0};

	if (message != NULL && message->type == IMAGED_TO_BROKER_IMAGED_HELLO) {
		/* Another name on this connection: the one before is gone. */
		if (imaged != NULL && strcmp(imaged->name, message->imaged_hello.name) != 0) {
			peer_hand_over(core, &imaged->peer);
			imaged_lose(core, imaged, "another imaged took its connection");
		}
		imaged_hello(core, peer, &message->imaged_hello);
		return;
	}
	if (imaged == NULL || message == NULL) {
		tell_unknown(core, peer);
		if (imaged != NULL)
			imaged_lose(core, imaged, "its imaged said what could not be understood");
		return;
	}
	imaged->peer.heard_ms = core->now.now_ms;
	if (imaged->challenger != 0 && core->now.now_ms > imaged->challenged_ms)
		imaged_decide_challenge(core, imaged);
	if (handle(core, imaged, message, &err) < 0) {
		err_wrap(&err, "its imaged is not to be believed");
		tell_unknown(core, peer);
		imaged_lose(core, imaged, err.text);
	}
}
