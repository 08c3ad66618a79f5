/* SPDX-License-Identifier: Apache-2.0 */
/* The honest imaged and the honest workers of the stage. */
#include "tests/unit/core_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "schemas/envelope.gen.h"

struct core_time stage_time(const struct stage *stage)
{
	return (struct core_time){stage->now_ms, stage->now_ms * 1000};
}

static void stage_imaged_says(struct stage *stage, const struct imaged_to_broker *message)
{
	core_imaged_message(stage->core, stage_time(stage), STAGE_IMAGED, message, &stage->waiting);
}

static void stage_worker_says(
	struct stage *stage, uint64_t worker, const struct worker_to_broker *message)
{
	core_worker_message(
		stage->core, stage_time(stage), STAGE_WORKER + worker, message, &stage->waiting);
}

static struct stage_device *stage_device_named(struct stage *stage, const char *name)
{
	for (size_t i = 0; i < stage->devices_count; i++)
		if (strcmp(stage->devices[i].name, name) == 0)
			return &stage->devices[i];
	return NULL;
}

static struct device_state stage_state(const struct stage_device *device)
{
	return (struct device_state){
		.device = device->name,
		.file = device->file,
		.format = "qcow2",
		.size = device->size,
		.cluster_size = STAGE_CLUSTER,
		.nbd = "",
	};
}

/* How many bytes of the range were copied since they are noted. */
static uint64_t stage_mapped_in(const struct stage *stage, uint64_t offset, uint64_t end)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < stage->mapped_count; i++) {
		struct guest_range range = stage->mapped[i];
		uint64_t from = range.offset > offset ? range.offset : offset;
		uint64_t to = range.offset + range.length < end ? range.offset + range.length : end;

		bytes += from < to ? to - from : 0;
	}
	return bytes;
}

static void stage_map(struct stage *stage, const struct msg_map *asked)
{
	struct stage_device *device = stage_device_named(stage, asked->device);
	struct work_run runs[1024];
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_MAP_PAGE};
	struct msg_map_page *page = &message.map_page;
	uint64_t at = asked->offset;
	uint64_t length = device->run_bytes ? device->run_bytes : device->size;

	*page = (struct msg_map_page){
		.request = asked->request, .offset = asked->offset, .runs = runs};
	stage->pages_asked++;
	if (stage->holds_pages)
		return;
	for (; at < device->size && page->runs_count < 1024; at += 2 * length) {
		uint64_t rest = device->size - at;

		if (stage_mapped_in(stage, at, at + length) == 0)
			runs[page->runs_count++] =
				(struct work_run){at, length < rest ? length : rest, WORK_COPY};
	}
	page->end = at < device->size ? at : device->size;
	page->present = stage_mapped_in(stage, page->offset, page->end);
	stage_imaged_says(stage, &message);
}

static void stage_reserve(struct stage *stage, const struct msg_reserve *asked)
{
	struct source_extent source = {.codec = CODEC_PLAIN,
		.length = asked->length,
		.has_file = true,
		.has_offset = true};
	struct destination_extent destination = {0, asked->length};
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_RESERVED,
		.reserved =
			{
				.request = asked->request,
				.lease = ++stage->last_id,
				.offset = asked->offset,
				.length = asked->length,
				.sources = &source,
				.sources_count = 1,
				.destinations = &destination,
				.destinations_count = 1,
			},
	};

	if (stage->asked_count < STAGE_ASKED)
		stage->asked[stage->asked_count++] =
			(struct guest_range){asked->offset, asked->length};
	if (stage->holds_from != 0 && asked->offset >= stage->holds_from)
		return;
	for (size_t i = 0; i < STAGE_ORDERS; i++)
		if (stage->orders[i].lease == 0) {
			stage->orders[i] = (struct stage_order){.lease = stage->last_id,
				.offset = asked->offset,
				.length = asked->length,
				.device = (uint64_t)(stage_device_named(stage, asked->device) -
						     stage->devices),
				.due_ms = UINT64_MAX};
			break;
		}
	stage_imaged_says(stage, &message);
}

static struct stage_order *stage_order_of(struct stage *stage, uint64_t lease)
{
	for (size_t i = 0; i < STAGE_ORDERS; i++)
		if (stage->orders[i].lease == lease)
			return &stage->orders[i];
	return NULL;
}

static void stage_commit(struct stage *stage, const struct msg_commit *asked)
{
	struct stage_order *order = stage_order_of(stage, asked->lease);
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_COMMITTED,
		.committed = {.request = asked->request, .copied = order->length},
	};

	stage->devices[order->device].copied += order->length;
	stage->ranges++;
	if (stage->notes_mapped && stage->mapped_count < STAGE_MAPPED)
		stage->mapped[stage->mapped_count++] =
			(struct guest_range){order->offset, order->length};
	order->lease = 0;
	stage_imaged_says(stage, &message);
}

static void stage_imaged_hears(struct stage *stage, const struct broker_to_imaged *asked)
{
	struct imaged_to_broker message = {.type = IMAGED_TO_BROKER_IMAGED_HEARTBEAT};
	struct stage_device *device;

	switch (asked->type) {
	case BROKER_TO_IMAGED_MAP:
		stage_map(stage, &asked->map);
		return;
	case BROKER_TO_IMAGED_RESERVE:
		stage_reserve(stage, &asked->reserve);
		return;
	case BROKER_TO_IMAGED_COMMIT:
		stage_commit(stage, &asked->commit);
		return;
	case BROKER_TO_IMAGED_OPEN_JOB:
		device = stage_device_named(stage, asked->open_job.device);
		message.type = IMAGED_TO_BROKER_JOB_OPENED;
		message.job_opened = (struct msg_job_opened){.request = asked->open_job.request,
			.size = device->size,
			.cluster_size = STAGE_CLUSTER,
			.backing_name = "",
			.backing_format = ""};
		break;
	case BROKER_TO_IMAGED_PREPARE_JOIN:
		message.type = IMAGED_TO_BROKER_JOIN_PREPARED;
		message.join_prepared =
			(struct msg_join_prepared){.request = asked->prepare_join.request,
				.join = ++stage->last_id,
				.leaf.path = "/x"};
		break;
	case BROKER_TO_IMAGED_CONFIRM_JOIN:
		message.type = IMAGED_TO_BROKER_JOIN_CONFIRMED;
		message.join_confirmed.request = asked->confirm_join.request;
		break;
	case BROKER_TO_IMAGED_END_JOIN:
		message.type = IMAGED_TO_BROKER_JOIN_ENDED;
		message.join_ended.request = asked->end_join.request;
		break;
	case BROKER_TO_IMAGED_ABORT:
		message.type = IMAGED_TO_BROKER_ABORTED;
		message.aborted.request = asked->abort.request;
		break;
	case BROKER_TO_IMAGED_FINISH:
		message.type = IMAGED_TO_BROKER_FINISHED;
		message.finished = (struct msg_finished){asked->finish.request,
			stage_state(stage_device_named(stage, asked->finish.device))};
		break;
	case BROKER_TO_IMAGED_CLOSE_JOB:
		message.type = IMAGED_TO_BROKER_JOB_CLOSED;
		message.job_closed.request = asked->close_job.request;
		break;
	case BROKER_TO_IMAGED_DETACH:
		message.type = IMAGED_TO_BROKER_DETACHED;
		message.detached.request = asked->detach.request;
		break;
	case BROKER_TO_IMAGED_IMAGED_BROKER_HEARTBEAT:
		break;
	case BROKER_TO_IMAGED_ATTACH:
	case BROKER_TO_IMAGED_PLAN:
	case BROKER_TO_IMAGED_ALLOCATION:
	case BROKER_TO_IMAGED_ZERO:
	case BROKER_TO_IMAGED_IMAGED_WELCOME:
	case BROKER_TO_IMAGED_IMAGED_REFUSED:
	case BROKER_TO_IMAGED_IMAGED_UNKNOWN:
		return;
	}
	stage_imaged_says(stage, &message);
}

static void stage_take_order(
	struct stage *stage, uint64_t number, const struct msg_copy_order *asked)
{
	struct stage_worker *worker = &stage->workers[number];
	struct stage_order *order = stage_order_of(stage, asked->lease);
	uint64_t slot = 0, begin_ms;

	for (uint64_t i = 1; i < worker->slots; i++)
		if (worker->busy_until_ms[i] < worker->busy_until_ms[slot])
			slot = i;
	begin_ms = worker->busy_until_ms[slot] > stage->now_ms ? worker->busy_until_ms[slot]
							       : stage->now_ms;
	order->worker = number;
	order->took_ms = order->length * 1000 / worker->speed;
	order->due_ms = worker->busy_until_ms[slot] = begin_ms + order->took_ms;
	worker->in_hands++;
	if (worker->in_hands > worker->most_in_hands)
		worker->most_in_hands = worker->in_hands;
	stage->latest_range = order->length;
	if (order->length > stage->longest_range)
		stage->longest_range = order->length;
}

static void stage_worker_hears(
	struct stage *stage, uint64_t number, const struct broker_to_worker *asked)
{
	struct worker_to_broker message = {.type = WORKER_TO_BROKER_WORKER_HEARTBEAT};

	switch (asked->type) {
	case BROKER_TO_WORKER_COPY_ORDER:
		stage_take_order(stage, number, &asked->copy_order);
		return;
	case BROKER_TO_WORKER_JOIN:
		message.type = WORKER_TO_BROKER_JOINED;
		message.joined = (struct msg_joined){.join = asked->join.join, .boot_id = "boot"};
		break;
	case BROKER_TO_WORKER_LEAVE:
		message.type = WORKER_TO_BROKER_LEFT;
		message.left.join = asked->leave.join;
		break;
	case BROKER_TO_WORKER_COPY_STOP:
		message.type = WORKER_TO_BROKER_COPY_STOPPED;
		message.copy_stopped.lease = asked->copy_stop.lease;
		if (stage_order_of(stage, asked->copy_stop.lease) != NULL)
			stage_order_of(stage, asked->copy_stop.lease)->lease = 0;
		break;
	case BROKER_TO_WORKER_BROKER_HEARTBEAT:
		break;
	case BROKER_TO_WORKER_WORKER_WELCOME:
	case BROKER_TO_WORKER_WORKER_REFUSED:
	case BROKER_TO_WORKER_WORKER_UNKNOWN:
	case BROKER_TO_WORKER_REPORT_ACKNOWLEDGED:
		return;
	}
	stage_worker_says(stage, number, &message);
}

/* The record of that key, or a free one. */
static struct stage_record *stage_record_of(struct stage *stage, const struct effect *effect)
{
	struct stage_record *unused = NULL;

	for (size_t i = 0; i < STAGE_RECORDS; i++) {
		struct stage_record *record = &stage->records[i];

		if (record->length == 0)
			unused = record;
		else if (record->table == effect->table &&
			 record->key_length == effect->key_length &&
			 memcmp(record->key, effect->key, effect->key_length) == 0)
			return record;
	}
	bug_if(unused == NULL);
	return unused;
}

static void stage_store(struct stage *stage, const struct effect *effect)
{
	struct stage_record *record;

	if (effect->table == STORE_EVENTS || effect->table == STORE_MAP_PAGES)
		return;
	record = stage_record_of(stage, effect);
	if (effect->kind == EFFECT_STORE_DELETE) {
		record->length = 0;
		return;
	}
	bug_if(effect->length > sizeof(record->bytes));
	record->table = effect->table;
	memcpy(record->key, effect->key, sizeof(record->key));
	record->key_length = effect->key_length;
	memcpy(record->bytes, effect->bytes, effect->length);
	record->length = effect->length;
}

static void stage_perform(struct stage *stage, const struct effect *effect)
{
	struct wire_memory memory = {0};
	struct broker_to_imaged imaged;
	struct broker_to_worker worker;

	if (effect->kind == EFFECT_SEND_IMAGED) {
		bug_if(broker_to_imaged_decode(
			       effect->bytes, effect->length, &memory, &imaged, NULL) < 0);
		stage_imaged_hears(stage, &imaged);
	} else if (effect->kind == EFFECT_SEND_WORKER) {
		bug_if(broker_to_worker_decode(
			       effect->bytes, effect->length, &memory, &worker, NULL) < 0);
		stage_worker_hears(stage, effect->peer - STAGE_WORKER, &worker);
	} else if (effect->kind == EFFECT_REPLY) {
		bug_if(effect->length > sizeof(stage->reply));
		memcpy(stage->reply, effect->bytes, effect->length);
		stage->reply_length = effect->length;
	} else if (effect->kind == EFFECT_STORE_PUT || effect->kind == EFFECT_STORE_DELETE) {
		stage_store(stage, effect);
	}
	wire_memory_done(&memory);
}

void stage_settle(struct stage *stage)
{
	while (stage->waiting.count > 0) {
		struct effects effects = stage->waiting;

		effects_init(&stage->waiting);
		for (size_t i = 0; i < effects.count; i++)
			stage_perform(stage, &effects.items[i]);
		effects_done(&effects);
	}
	stage->tick_ms = core_tick(stage->core, stage_time(stage), &stage->waiting);
	if (stage->waiting.count > 0)
		stage_settle(stage);
}

static struct stage_order *stage_next_order(struct stage *stage)
{
	struct stage_order *next = NULL;

	for (size_t i = 0; i < STAGE_ORDERS; i++)
		if (stage->orders[i].lease != 0 &&
			(next == NULL || stage->orders[i].due_ms < next->due_ms))
			next = &stage->orders[i];
	return next;
}

static void stage_order_is_done(struct stage *stage, struct stage_order *order)
{
	struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_COPIED,
		.copied = {.lease = order->lease,
			.bytes = order->length,
			.microseconds = order->took_ms * 1000},
	};

	stage->workers[order->worker].in_hands--;
	order->due_ms = UINT64_MAX;
	stage_worker_says(stage, order->worker, &message);
}

void stage_run(struct stage *stage, uint64_t ms)
{
	uint64_t end_ms = stage->now_ms + ms;

	for (;;) {
		struct stage_order *order = stage_next_order(stage);
		uint64_t next_ms =
			order && order->due_ms < stage->tick_ms ? order->due_ms : stage->tick_ms;

		if (next_ms > end_ms)
			break;
		stage->now_ms = next_ms > stage->now_ms ? next_ms : stage->now_ms;
		if (order != NULL && order->due_ms <= stage->now_ms)
			stage_order_is_done(stage, order);
		stage_settle(stage);
	}
	stage->now_ms = end_ms;
	stage_settle(stage);
}

static void stage_start(struct stage *stage)
{
	struct err err;

	stage->core = core_new(&stage->options);
	for (size_t i = 0; i < STAGE_RECORDS; i++) {
		const struct stage_record *record = &stage->records[i];

		bug_if(record->length > 0 &&
			core_load(stage->core, record->table, record->key, record->key_length,
				record->bytes, record->length, &err) < 0);
	}
	bug_if(core_started(stage->core, stage_time(stage), &stage->waiting, &err) < 0);
	stage_settle(stage);
}

void stage_begin(struct stage *stage, const struct core_options *options)
{
	struct core_options all = options ? *options : (struct core_options){0};

	all.peer_timeout_ms = 5000;
	all.lease_ms = 15000;
	all.heartbeat_ms = 1000;
	all.event_log = all.event_log ? all.event_log : 1000;
	all.new_epoch = 7;
	all.version = "0.1.2";
	*stage = (struct stage){.now_ms = 10000, .options = all};
	stage_start(stage);
}

void stage_restart(struct stage *stage)
{
	stage_end(stage);
	memset(stage->orders, 0, sizeof(stage->orders));
	stage->workers_count = 0;
	stage->asked_count = 0;
	stage->incarnation++;
	stage_start(stage);
	stage_add_imaged(stage);
}

void stage_end(struct stage *stage)
{
	core_free(stage->core);
	effects_done(&stage->waiting);
	effects_init(&stage->waiting);
}

void stage_add_device(struct stage *stage, uint64_t size, uint64_t run_bytes)
{
	size_t number = stage->devices_count++;
	struct stage_device *device = &stage->devices[number];

	snprintf(device->name, sizeof(device->name), "disk%zu", number);
	snprintf(device->file, sizeof(device->file), "/images/%zu.qcow2", number);
	device->size = size;
	device->run_bytes = run_bytes;
}

void stage_add_imaged(struct stage *stage)
{
	struct device_state states[STAGE_DEVICES];
	struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_IMAGED_HELLO,
		.imaged_hello =
			{
				.protocol = 1,
				.name = "alpha",
				.incarnation = 1 + stage->incarnation,
				.host = "alpha",
				.boot_id = "boot",
				.realm = "alpha",
				.devices = states,
				.devices_count = stage->devices_count,
			},
	};

	for (size_t i = 0; i < stage->devices_count; i++)
		states[i] = stage_state(&stage->devices[i]);
	stage_imaged_says(stage, &message);
	stage_settle(stage);
}

void stage_add_worker(struct stage *stage, uint64_t slots, uint64_t speed)
{
	size_t number = stage->workers_count++;
	struct stage_worker *worker = &stage->workers[number];
	struct worker_to_broker message = {
		.type = WORKER_TO_BROKER_WORKER_HELLO,
		.worker_hello =
			{
				.protocol = 1,
				.name = worker->name,
				.incarnation = 1 + stage->incarnation,
				.host = "alpha",
				.boot_id = "boot",
				.realm = "alpha",
				.slots = slots,
			},
	};

	snprintf(worker->name, sizeof(worker->name), "worker%zu", number);
	worker->slots = slots;
	worker->speed = speed;
	stage_worker_says(stage, number, &message);
	stage_settle(stage);
}

void stage_guest(struct stage *stage, const char *device, uint64_t busy_permille,
	const struct guest_range *wanted, size_t count)
{
	struct guest_range copies[MSG_GUEST_REPORT_WANTED_MAX];
	const struct imaged_to_broker message = {
		.type = IMAGED_TO_BROKER_GUEST_REPORT,
		.guest_report =
			{
				.device = device,
				.requests = busy_permille > 0,
				.busy = busy_permille,
				.interval_ms = 100,
				.wanted = copies,
				.wanted_count = count,
			},
	};

	bug_if(count > MSG_GUEST_REPORT_WANTED_MAX);
	if (count > 0)
		memcpy(copies, wanted, count * sizeof(*wanted));
	stage_imaged_says(stage, &message);
	stage_settle(stage);
}

void stage_lose_worker(struct stage *stage, uint64_t worker)
{
	for (size_t i = 0; i < STAGE_ORDERS; i++)
		if (stage->orders[i].worker == worker)
			stage->orders[i].lease = 0;
	core_peer_unreachable(
		stage->core, stage_time(stage), STAGE_WORKER + worker, &stage->waiting);
	stage_settle(stage);
}

void stage_ask(struct stage *stage, const char *command, const struct wire_buffer *arguments)
{
	struct request_envelope envelope = {.execute = command};
	struct wire_buffer packed = {0};

	if (arguments != NULL)
		envelope.arguments = wire_buffer_bytes(arguments);
	request_envelope_encode(&envelope, &packed);
	stage->reply_length = 0;
	core_client_request(stage->core, stage_time(stage), ++stage->last_client, packed.bytes,
		packed.length, &stage->waiting);
	wire_buffer_done(&packed);
	stage_settle(stage);
}

void stage_stream(struct stage *stage, const struct cmd_block_stream *arguments)
{
	struct wire_buffer packed = {0};

	cmd_block_stream_encode(arguments, &packed);
	stage_ask(stage, "block_stream", &packed);
	wire_buffer_done(&packed);
}

const char *stage_error(const struct stage *stage, const char **ret_desc)
{
	static struct wire_memory memory;
	struct reply_envelope reply;

	if (stage->reply_length == 0)
		return NULL;
	bug_if(reply_envelope_decode(stage->reply, stage->reply_length, &memory, &reply, NULL) < 0);
	if (ret_desc != NULL)
		*ret_desc = reply.has_error ? reply.error.desc : "";
	return reply.has_error ? reply.error.class : "";
}
