/* SPDX-License-Identifier: Apache-2.0 */
/* The table of outstanding requests. */
#include "broker/core/requests.h"

#include <stdlib.h>

#include "common/check.h"

/* A life of the broker can ask 2^40 times, a store can see 2^22 lives. */
#define GENERATION_SHIFT 40

struct request *request_new(struct core *core, struct imaged *imaged, enum request_kind kind)
{
	struct request *request = must_calloc(1, sizeof(*request));

	request->number =
		((core->generation & 0x3fffff) << GENERATION_SHIFT) + ++core->last_request;
	request->kind = kind;
	request->imaged = imaged;
	list_init(&request->of_owner);
	list_append(&imaged->requests, &request->in_imaged);
	index_add(&core->requests, request->number, request);
	return request;
}

struct request *request_for_device(struct core *core, struct device *device, enum request_kind kind)
{
	struct request *request = request_new(core, device->imaged, kind);

	request->device = device;
	list_append(&device->requests, &request->of_owner);
	return request;
}

struct request *request_for_job(struct core *core, struct job *job, enum request_kind kind)
{
	struct request *request = request_new(core, job->device->imaged, kind);

	request->job = job;
	list_append(&job->requests, &request->of_owner);
	return request;
}

struct request *request_for_join(struct core *core, struct join *join, enum request_kind kind)
{
	struct request *request = request_new(core, join->device->imaged, kind);

	request->join = join;
	list_append(&join->requests, &request->of_owner);
	return request;
}

struct request *request_for_lease(struct core *core, struct lease *lease, enum request_kind kind)
{
	struct request *request = request_new(core, lease->imaged, kind);

	request->lease = lease;
	list_append(&lease->requests, &request->of_owner);
	return request;
}

void request_free(struct core *core, struct request *request)
{
	index_remove(&core->requests, request->number);
	list_remove(&request->in_imaged);
	list_remove(&request->of_owner);
	free(request);
}

struct request *request_find(const struct core *core, const struct imaged *imaged, uint64_t number)
{
	struct request *request = index_find(&core->requests, number);

	return request != NULL && request->imaged == imaged ? request : NULL;
}

bool requests_have(const struct list *requests, enum request_kind kind)
{
	const struct request *request;

	list_for_each(request, requests, of_owner)
		if (request->kind == kind)
			return true;
	return false;
}

void requests_disown(struct list *requests)
{
	struct request *request, *following;

	list_for_each_safe(request, following, requests, of_owner) {
		list_remove(&request->of_owner);
		request->device = NULL;
		request->job = NULL;
		request->join = NULL;
		request->lease = NULL;
	}
}
