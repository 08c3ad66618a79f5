/* SPDX-License-Identifier: Apache-2.0 */
/* Questions about images, which their imaged answers. */
#include <stdlib.h>

#include "broker/core/commands.h"
#include "broker/core/devices.h"
#include "broker/core/imageds.h"
#include "broker/core/outbox.h"
#include "broker/core/requests.h"
#include "common/check.h"

/* As many runs as a reply may hold; who wants more asks for less of the device at a time. */
#define RUNS_MAX 200000

static struct query *query_new(
	struct core *core, const struct call *call, const struct device *device)
{
	struct query *query = must_calloc(1, sizeof(*query));

	waiter_init(core, &query->waiter, call->asker);
	name_copy(query->device, device->record.device);
	return query;
}

void query_free(struct core *core, struct query *query)
{
	waiter_done(core, &query->waiter);
	free(query->runs);
	free(query);
}

/* The device, if its imaged can be asked; else it is answered. */
static struct device *device_to_ask(struct core *core, const struct call *call, const char *name)
{
	struct device *device = device_find(core, name);

	if (device == NULL || !device->is_accepted)
		reply_device_not_found(core, call->asker, name);
	else if (!device->is_online)
		reply_device_offline(core, call->asker, name, device->imaged->name);
	else if (may_wait(core, call->asker))
		return device;
	return NULL;
}

/* ---- query-stream-plan */

void command_query_stream_plan(struct core *core, const struct call *call)
{
	struct cmd_query_stream_plan arguments;
	struct broker_to_imaged message = {.type = BROKER_TO_IMAGED_PLAN};
	const char *argument = NULL;
	struct request *request;
	struct device *device;
	struct err err = {0};

	if (cmd_query_stream_plan_decode(call->arguments.bytes, call->arguments.length,
		    &core->memory, &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	if (arguments.base != NULL && arguments.bottom != NULL) {
		reply_bad_argument(core, call->asker, "bottom",
			"arguments 'base' and 'bottom' cannot be given together");
		return;
	}
	device = device_to_ask(core, call, arguments.device);
	if (device == NULL)
		return;
	request = request_new(core, device->imaged, REQUEST_PLAN);
	request->query = query_new(core, call, device);
	message.plan = (struct msg_plan){
		request->number, arguments.device, arguments.base, arguments.bottom};
	send_to_imaged(core, device->imaged, &message);
}

void query_planned(struct core *core, struct query *query, const struct msg_planned *planned)
{
	struct wire_buffer value = {0};
	struct stream_plan plan = {
		.layers = planned->layers,
		.layers_count = planned->layers_count,
		.copy = planned->copy,
		.zeroes = planned->zeroes,
		.holes = planned->holes,
		.present = planned->present,
		.leaf_growth = planned->leaf_growth,
		.space_free = planned->space_free,
		.chain = planned->chain,
		.chain_count = planned->chain_count,
	};

	cmd_query_stream_plan_return_encode(&plan, &value);
	reply_return(core, asker_of(&query->waiter), wire_buffer_bytes(&value));
	wire_buffer_done(&value);
	query_free(core, query);
}

/* ---- query-allocation */

static void ask_allocation(struct core *core, struct query *query, struct imaged *imaged,
	uint64_t offset, uint64_t length)
{
	struct request *request = request_new(core, imaged, REQUEST_ALLOCATION);
	struct broker_to_imaged message = {
		.type = BROKER_TO_IMAGED_ALLOCATION,
		.allocation = {request->number, query->device, offset, length},
	};

	request->query = query;
	request->range = (struct guest_range){offset, length};
	send_to_imaged(core, imaged, &message);
}

static void reply_runs(
	struct core *core, struct asker asker, const struct allocation_run *runs, size_t count)
{
	struct wire_buffer value = {0};

	cmd_query_allocation_return_encode(runs, count, &value);
	reply_return(core, asker, wire_buffer_bytes(&value));
	wire_buffer_done(&value);
}

void command_query_allocation(struct core *core, const struct call *call)
{
	struct cmd_query_allocation arguments;
	const char *argument = NULL;
	struct device *device;
	struct query *query;
	uint64_t size, offset, length;
	struct err err = {0};

	if (cmd_query_allocation_decode(call->arguments.bytes, call->arguments.length,
		    &core->memory, &arguments, &argument, &err) < 0) {
		call_refuse_arguments(core, call, argument, &err);
		return;
	}
	device = device_to_ask(core, call, arguments.device);
	if (device == NULL)
		return;
	size = device->record.size;
	offset = arguments.has_offset ? arguments.offset : 0;
	if (offset > size) {
		reply_bad_argument(core, call->asker, "offset",
			"argument 'offset' is beyond the device's end, %llu",
			(unsigned long long)size);
		return;
	}
	length = arguments.has_length && arguments.length < size - offset ? arguments.length
									  : size - offset;
	if (length == 0) {
		reply_runs(core, call->asker, NULL, 0);
		return;
	}
	query = query_new(core, call, device);
	query->end = offset + length;
	ask_allocation(core, query, device->imaged, offset, length);
}

static bool continues(const struct allocation_run *run, const struct allocation_run *next)
{
	return run->offset + run->length == next->offset && run->state == next->state &&
	       run->has_layer == next->has_layer && (!run->has_layer || run->layer == next->layer);
}

static void add_run(struct query *query, const struct allocation_run *run)
{
	if (query->runs_count > 0 && continues(&query->runs[query->runs_count - 1], run)) {
		query->runs[query->runs_count - 1].length += run->length;
		return;
	}
	if (query->runs_count == query->runs_capacity) {
		query->runs_capacity = query->runs_capacity ? 2 * query->runs_capacity : 64;
		query->runs = must_realloc(query->runs, query->runs_capacity, sizeof(*query->runs));
	}
	query->runs[query->runs_count++] = *run;
}

static int check_page(
	struct guest_range asked, const struct msg_allocation_page *page, struct err *err)
{
	uint64_t at = asked.offset, end = asked.offset + asked.length;

	for (size_t i = 0; i < page->runs_count; i++) {
		const struct allocation_run *run = &page->runs[i];

		if (run->offset < at || run->offset >= end || run->length > end - run->offset)
			return err_set(err, "a run of an allocation is not where it was asked for");
		at = run->offset + run->length;
	}
	return 0;
}

int query_allocation_page(struct core *core, struct query *query, struct imaged *imaged,
	struct guest_range asked, const struct msg_allocation_page *page, struct err *err)
{
	struct asker asker = asker_of(&query->waiter);

	if (check_page(asked, page, err) < 0) {
		query_lost(core, query, imaged->name);
		return -1;
	}
	for (size_t i = 0; i < page->runs_count; i++)
		add_run(query, &page->runs[i]);
	if (query->runs_count > RUNS_MAX) {
		reply_bad_argument(core, asker, "length",
			"the answer has more than %d runs: ask for a part with 'offset' and 'length'",
			RUNS_MAX);
		query_free(core, query);
	} else if (page->end > asked.offset && page->end < query->end) {
		ask_allocation(core, query, imaged, page->end, query->end - page->end);
	} else {
		reply_runs(core, asker, query->runs, query->runs_count);
		query_free(core, query);
	}
	return 0;
}

/* ---- no answer */

void query_refused(struct core *core, struct query *query, const struct msg_image_error *error)
{
	reply_image_error(core, asker_of(&query->waiter), query->device, error);
	query_free(core, query);
}

void query_lost(struct core *core, struct query *query, const char *imaged)
{
	reply_device_offline(core, asker_of(&query->waiter), query->device, imaged);
	query_free(core, query);
}
