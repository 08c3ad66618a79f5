/* SPDX-License-Identifier: Apache-2.0 */
/* Which request is about which device, and what is common to carrying them out.  The handlers are in handlers.c. */
#include "imaged/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/log.h"
#include "imaged/handlers.h"
#include "imaged/reservation.h"

struct request *request_new(void *owner, enum request_kind kind, struct device_host *host)
{
	struct request *request = must_calloc(1, sizeof *request);

	request->owner = owner;
	request->kind = kind;
	request->host = host;
	wire_memory_init(&request->memory);
	wire_buffer_init(&request->answer);
	wire_buffer_init(&request->notice);
	return request;
}

void request_free(struct request *request)
{
	if (!request)
		return;
	wire_buffer_done(&request->notice);
	wire_buffer_done(&request->answer);
	wire_memory_done(&request->memory);
	free(request);
}

/* The device that a message names; NULL where it names none. */
static const char *device_name(const struct broker_to_imaged *message)
{
	switch (message->type) {
	case BROKER_TO_IMAGED_ATTACH:
		return message->attach.device;
	case BROKER_TO_IMAGED_DETACH:
		return message->detach.device;
	case BROKER_TO_IMAGED_PLAN:
		return message->plan.device;
	case BROKER_TO_IMAGED_ALLOCATION:
		return message->allocation.device;
	case BROKER_TO_IMAGED_OPEN_JOB:
		return message->open_job.device;
	case BROKER_TO_IMAGED_MAP:
		return message->map.device;
	case BROKER_TO_IMAGED_PREPARE_JOIN:
		return message->prepare_join.device;
	case BROKER_TO_IMAGED_RESERVE:
		return message->reserve.device;
	case BROKER_TO_IMAGED_ZERO:
		return message->zero.device;
	case BROKER_TO_IMAGED_FINISH:
		return message->finish.device;
	case BROKER_TO_IMAGED_CLOSE_JOB:
		return message->close_job.device;
	case BROKER_TO_IMAGED_CONFIRM_JOIN:
	case BROKER_TO_IMAGED_END_JOIN:
	case BROKER_TO_IMAGED_COMMIT:
	case BROKER_TO_IMAGED_ABORT:
	case BROKER_TO_IMAGED_IMAGED_WELCOME:
	case BROKER_TO_IMAGED_IMAGED_REFUSED:
	case BROKER_TO_IMAGED_IMAGED_UNKNOWN:
	case BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT:
		break;
	}
	return NULL;
}

/* The join or lease that a message names instead; 0 where it names none. */
static uint64_t named_id(const struct broker_to_imaged *message)
{
	if (message->type == BROKER_TO_IMAGED_CONFIRM_JOIN)
		return message->confirm_join.join;
	if (message->type == BROKER_TO_IMAGED_END_JOIN)
		return message->end_join.join;
	if (message->type == BROKER_TO_IMAGED_COMMIT)
		return message->commit.lease;
	if (message->type == BROKER_TO_IMAGED_ABORT)
		return message->abort.lease;
	return 0;
}

bool request_is_answered(enum broker_to_imaged_type type)
{
	return type != BROKER_TO_IMAGED_IMAGED_WELCOME && type != BROKER_TO_IMAGED_IMAGED_REFUSED &&
	       type != BROKER_TO_IMAGED_IMAGED_UNKNOWN &&
	       type != BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT;
}

void request_find_device(struct request *request)
{
	const char *name = device_name(&request->message);

	if (!name) {
		request->device = device_host_of_id(request->host, named_id(&request->message));
		return;
	}
	request->device = device_host_find(request->host, name);
	if (!request->device && request->message.type == BROKER_TO_IMAGED_ATTACH)
		request->device = device_host_add(request->host, name);
}

static void note_failure(struct request *request, const struct err *cause)
{
	struct err err = *cause;
	const struct msg_device_failed failed = {
		.device = request->device->name,
		.msg = err.text,
		.errno_name = err_number_name(err.number ? err.number : EIO),
	};

	if (err.text[0] == '\0')
		err_set(&err, "a write or flush of it failed");
	if (device_notice_failure(request->device, &err))
		msg_device_failed_encode(&failed, &request->notice);
}

enum request_outcome request_carry_out(struct request *request)
{
	struct trouble trouble = {0};
	enum request_outcome outcome = REQUEST_DONE;

	switch (request->kind) {
	case REQUEST_OF_BROKER:
		outcome = handle_request(request, &trouble);
		break;
	case REQUEST_TIDY:
		device_tidy(request->device);
		break;
	case REQUEST_LOOK:
		device_stop_holding(request->device);
		break; /* and note_failure looks, as after every request */
	case REQUEST_REVOKE:
		if (request->device->phase != DEVICE_CLOSED)
			reservation_revoke_all(request->device);
		break;
	case REQUEST_RELEASE:
		reservation_abort(request->device, request->made_lease, WORKER_HAS_STOPPED);
		break;
	}
	if (request->device)
		note_failure(request, &trouble.err);
	return outcome;
}
