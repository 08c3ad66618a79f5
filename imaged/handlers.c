/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/handlers.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/ofd_lock.h"
#include "common/random.h"
#include "imaged/inquiry.h"
#include "imaged/qcow2_update.h"
#include "imaged/reservation.h"
#include "imaged/stream.h"
#include "schemas/errors.gen.h"

#define PAGE_RUNS 1024
#define PAGE_US	  UINT64_C(50000)

static enum error_class class_of(const struct trouble *trouble)
{
	bool is_full = trouble->err.number == ENOSPC || trouble->err.number == EDQUOT;

	if (trouble->err.kind == ERROR_CLASS_GENERIC_ERROR && is_full)
		return ERROR_CLASS_NO_SPACE;
	return (enum error_class)trouble->err.kind;
}

static enum operation operation_of(enum trouble_during during)
{
	switch (during) {
	case TROUBLE_FLUSHING:
		return OPERATION_FLUSH;
	case TROUBLE_WRITING:
		return OPERATION_WRITE;
	case TROUBLE_READING:
	case TROUBLE_ELSEWHERE:
		break;
	}
	return OPERATION_READ;
}

/* 0: the system had no part in it.  What is damaged can't be read or written, as if the system had said so. */
static int error_number(const struct trouble *trouble)
{
	bool is_damaged = trouble->err.kind == ERROR_CLASS_GENERIC_ERROR &&
			  trouble->during != TROUBLE_ELSEWHERE;

	return trouble->err.number == 0 && is_damaged ? EIO : trouble->err.number;
}

/* Puts the trouble into an image_error. */
static void refuse(struct request *request, uint64_t number, const struct trouble *trouble)
{
	const struct device *device = request->device;
	int number_of_error = error_number(trouble);
	bool is_io = number_of_error != 0 && trouble->during != TROUBLE_ELSEWHERE;
	bool is_of_leaf = is_io && trouble->during != TROUBLE_READING && device && device->leaf;
	const struct msg_image_error error = {
		.request = number,
		.class = class_of(trouble),
		.msg = trouble->err.text,
		.errno_name = number_of_error ? err_number_name(number_of_error) : NULL,
		.has_operation = is_io,
		.operation = operation_of(trouble->during),
		.file = is_of_leaf ? device->leaf->path : NULL,
	};

	request->is_refused = true;
	msg_image_error_encode(&error, &request->answer);
	log_warn("device=%s refused: %s", device ? device->name : "", trouble->err.text);
}

static int find_device(const struct request *request, const char *name, struct trouble *trouble)
{
	if (request->device)
		return 0;
	return err_set_kind(
		&trouble->err, ERROR_CLASS_DEVICE_NOT_FOUND, "Device '%s' not found", name);
}

static int attach(struct request *request, struct trouble *trouble)
{
	const struct msg_attach *asked = &request->message.attach;
	const struct device_attach wish = {
		.file = asked->file,
		.format = asked->format,
		.copy_on_read = asked->copy_on_read,
		.read_only = asked->read_only,
	};
	struct msg_attached answer = {.request = asked->request};

	if (!request->device)
		return err_set(&trouble->err, "%d devices are attached, more are not taken",
			DEVICE_HOST_DEVICES_MAX);
	if (device_attach(request->device, &wish, trouble) < 0)
		return -1;
	answer.state = request->device->description->state;
	msg_attached_encode(&answer, &request->answer);
	return 0;
}

static int detach(struct request *request, struct trouble *trouble)
{
	const struct msg_detached answer = {.request = request->message.detach.request};

	if (request->device && device_detach(request->device, trouble) < 0)
		return -1;
	msg_detached_encode(&answer, &request->answer);
	return 0;
}

static int plan(struct request *request, struct trouble *trouble)
{
	const struct msg_plan *asked = &request->message.plan;
	const struct stream_wish wish = {.base = asked->base, .bottom = asked->bottom};
	struct msg_planned answer;

	if (find_device(request, asked->device, trouble) < 0 ||
		inquiry_plan(request->device, &wish, &request->memory, &answer, trouble) < 0)
		return -1;
	answer.request = asked->request;
	msg_planned_encode(&answer, &request->answer);
	return 0;
}

static int allocation(struct request *request, struct trouble *trouble)
{
	const struct msg_allocation *asked = &request->message.allocation;
	struct msg_allocation_page answer;

	if (find_device(request, asked->device, trouble) < 0 ||
		inquiry_allocation(request->device, asked->offset, asked->length, &request->memory,
			&answer, trouble) < 0)
		return -1;
	answer.request = asked->request;
	msg_allocation_page_encode(&answer, &request->answer);
	return 0;
}

static int open_job(struct request *request, struct trouble *trouble)
{
	const struct msg_open_job *asked = &request->message.open_job;
	const struct stream_wish wish = {
		.base = asked->base, .bottom = asked->bottom, .backing_file = asked->backing_file};
	struct msg_job_opened answer = {.request = asked->request};
	const struct stream *stream;

	if (find_device(request, asked->device, trouble) < 0 ||
		stream_open(request->device, asked->job, &wish, trouble) < 0)
		return -1;
	stream = request->device->stream;
	answer.size = request->device->leaf->header.disk_size;
	answer.cluster_size = request->device->leaf->header.cluster_size;
	answer.nothing_to_do = stream->has_nothing_to_do;
	answer.backing_name = stream->backing_name;
	answer.backing_format = stream->backing_format;
	answer.base = stream->base[0] ? stream->base : NULL;
	msg_job_opened_encode(&answer, &request->answer);
	return 0;
}

static int map(struct request *request, struct trouble *trouble)
{
	const struct msg_map *asked = &request->message.map;
	struct msg_map_page answer = {.request = asked->request, .offset = asked->offset};
	struct work_page page;
	struct work_scope scope;

	if (find_device(request, asked->device, trouble) < 0 ||
		stream_check_open(request->device, asked->job, trouble) < 0)
		return -1;
	scope = stream_scope(request->device);
	if (asked->offset > scope.chain->size ||
		(asked->offset % scope.cluster_size != 0 && asked->offset != scope.chain->size))
		return err_set(&trouble->err, "no cluster of the disk begins at %llu",
			(unsigned long long)asked->offset);
	page.runs = wire_memory_get(&request->memory, PAGE_RUNS * sizeof page.runs[0]);
	if (work_map_page(&scope, asked->offset, PAGE_RUNS, clock_monotonic_us() + PAGE_US, &page,
		    &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_READING);
	answer.end = page.end;
	answer.present = page.present;
	answer.runs = page.runs;
	answer.runs_count = page.count;
	msg_map_page_encode(&answer, &request->answer);
	return 0;
}

/* A lock byte that nobody uses, on this file and now. */
static int draw_lock_byte(struct device *device, uint64_t *ret_byte, struct err *err)
{
	for (;;) {
		uint64_t byte = JOIN_LOCK_BYTE_FIRST + random_id();
		int held;

		if (join_table_has_byte(&device->joins, byte))
			continue;
		held = ofd_lock_held_elsewhere(device->leaf->fd, byte, 1, NULL);
		if (held < 0)
			return err_set_errno(
				err, errno, "look at locks of '%s'", device->leaf->path);
		if (held == 0) {
			*ret_byte = byte;
			return 0;
		}
	}
}

static int make_join(struct device *device, const struct msg_prepare_join *asked,
	struct join **ret_join, struct err *err)
{
	struct join *join;
	uint64_t byte = 0;

	if (atomic_load(&device->host->joins) >= DEVICE_HOST_JOINS_MAX)
		return err_set(
			err, "%d workers have joined, more are not taken", DEVICE_HOST_JOINS_MAX);
	if (draw_lock_byte(device, &byte, err) < 0)
		return -1;
	pthread_mutex_lock(&device->lock);
	join = join_table_add(&device->joins, device_draw_id(device), asked->worker,
		asked->incarnation, byte, device->live.current->chain);
	pthread_mutex_unlock(&device->lock);
	atomic_fetch_add(&device->host->joins, 1);
	*ret_join = join;
	return 0;
}

static int refer(const struct chain_layer *layer, struct wire_memory *memory,
	struct file_reference *ret_reference, struct err *err)
{
	int64_t mtime_ns;
	struct stat status;

	if (fstat(layer->layer->fd, &status) < 0)
		return err_set_errno(err, errno, "look at '%s'", layer->path);
	mtime_ns = (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec;
	*ret_reference = (struct file_reference){
		.path = wire_memory_text(memory, layer->path, strlen(layer->path)),
		.device_number = status.st_dev,
		.inode = status.st_ino,
		.size = (uint64_t)status.st_size,
		.mtime_ns = mtime_ns > 0 ? (uint64_t)mtime_ns : 0,
	};
	return 0;
}

/* The files that the worker is to open. */
static int refer_all(const struct device *device, struct wire_memory *memory,
	struct msg_join_prepared *answer, struct err *err)
{
	const struct chain *chain = device->live.current->chain;

	answer->sources = wire_memory_get(memory, chain->count * sizeof answer->sources[0]);
	answer->sources_count = chain->count - 1;
	for (size_t i = 0; i < chain->count; i++) {
		if (refer(&chain->layers[i], memory,
			    i == 0 ? &answer->leaf : &answer->sources[i - 1], err) < 0)
			return -1;
	}
	return 0;
}

/* A worker that was told of other files than there are now needs another join. */
static bool knows_chain(const struct join *join, const struct chain *chain)
{
	if (join->source_count != chain->count - 1)
		return false;
	for (size_t i = 1; i < chain->count; i++) {
		if (join_source_index(join, &chain->layers[i]) != (int)i - 1)
			return false;
	}
	return true;
}

static int prepare_join(struct request *request, struct trouble *trouble)
{
	const struct msg_prepare_join *asked = &request->message.prepare_join;
	struct msg_join_prepared answer = {.request = asked->request};
	struct device *device = request->device;
	struct join *join;

	if (find_device(request, asked->device, trouble) < 0 ||
		device_check_open(device, &trouble->err) < 0)
		return -1;
	if (!device->leaf)
		return err_set_kind(
			&trouble->err, ERROR_CLASS_NOT_SUPPORTED, "Operation is not supported");
	if (refer_all(device, &request->memory, &answer, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_READING);
	join = join_table_of_worker(&device->joins, asked->worker, asked->incarnation);
	if ((!join || !knows_chain(join, device->live.current->chain)) &&
		make_join(device, asked, &join, &trouble->err) < 0)
		return -1;
	answer.join = join->id;
	answer.lock_byte = join->lock_byte;
	answer.cluster_size = device->leaf->header.cluster_size;
	msg_join_prepared_encode(&answer, &request->answer);
	return 0;
}

/* Whether the worker holds the same file, and the byte by which we know that it lives. */
static int check_joined(struct device *device, const struct join *join,
	const struct msg_confirm_join *asked, struct err *err)
{
	const struct chain_layer *leaf = &device->live.current->chain->layers[0];
	int held;

	if (strcmp(asked->boot_id, device->host->boot_id) != 0)
		return err_set(err, "worker '%s' runs on another machine, or before its last start",
			join->worker);
	if (asked->device_number != leaf->device || asked->inode != leaf->inode)
		return err_set(
			err, "worker '%s' opened another file than '%s'", join->worker, leaf->path);
	held = ofd_lock_held_elsewhere(device->leaf->fd, join->lock_byte, 1, NULL);
	if (held < 0)
		return err_set_errno(err, errno, "look at locks of '%s'", leaf->path);
	if (held == 0)
		return err_set(err, "worker '%s' does not hold its lock byte of '%s'", join->worker,
			leaf->path);
	return 0;
}

static struct join *join_of(const struct request *request, uint64_t id)
{
	if (!request->device || request->device->phase == DEVICE_CLOSED)
		return NULL;
	return join_table_find(&request->device->joins, id);
}

static int confirm_join(struct request *request, struct trouble *trouble)
{
	const struct msg_confirm_join *asked = &request->message.confirm_join;
	const struct msg_join_confirmed answer = {.request = asked->request};
	struct device *device = request->device;
	struct join *join = join_of(request, asked->join);

	if (!join || join->state == JOIN_ENDED)
		return err_set(
			&trouble->err, "join %llu is not known", (unsigned long long)asked->join);
	if (device_check_open(device, &trouble->err) < 0 ||
		check_joined(device, join, asked, &trouble->err) < 0)
		return -1;
	pthread_mutex_lock(&device->lock);
	join->state = JOIN_CONFIRMED;
	pthread_mutex_unlock(&device->lock);
	msg_join_confirmed_encode(&answer, &request->answer);
	return 0;
}

static enum reservation_proof proof_of(bool has_stopped)
{
	return has_stopped ? WORKER_HAS_STOPPED : WORKER_MAY_WRITE;
}

static int end_join(struct request *request, struct trouble *trouble UNUSED)
{
	const struct msg_end_join *asked = &request->message.end_join;
	const struct msg_join_ended answer = {.request = asked->request};
	struct join *join = join_of(request, asked->join);

	if (join)
		reservation_end_join(request->device, join, proof_of(asked->stopped));
	msg_join_ended_encode(&answer, &request->answer);
	return 0;
}

/* -1, 0, or RESERVATION_LATER. */
static int reserve(struct request *request, struct trouble *trouble)
{
	const struct msg_reserve *asked = &request->message.reserve;
	const struct reservation_wish wish = {
		.job = asked->job,
		.join = asked->join,
		.offset = asked->offset,
		.length = asked->length,
	};
	struct reservation made;
	struct msg_reserved answer;
	int r;

	if (find_device(request, asked->device, trouble) < 0)
		return -1;
	r = reservation_make(request->device, &wish, &request->memory, &made, trouble);
	if (r != 0)
		return r;
	answer = (struct msg_reserved){
		.request = asked->request,
		.lease = made.lease,
		.offset = made.offset,
		.length = made.length,
		.skipped = made.skipped,
		.detect_zeroes = made.detects_zeroes,
		.sources = made.sources,
		.sources_count = made.source_count,
		.destinations = made.destinations,
		.destinations_count = made.destination_count,
	};
	request->made_lease = made.lease;
	msg_reserved_encode(&answer, &request->answer);
	return 0;
}

static int zero(struct request *request, struct trouble *trouble)
{
	const struct msg_zero *asked = &request->message.zero;
	const struct reservation_wish wish = {
		.job = asked->job, .offset = asked->offset, .length = asked->length};
	struct msg_zeroed answer = {.request = asked->request};
	struct reservation_outcome outcome;

	if (find_device(request, asked->device, trouble) < 0 ||
		reservation_zero(request->device, &wish, &outcome, trouble) < 0)
		return -1;
	answer.zeroes = outcome.zeroes;
	answer.superseded = outcome.superseded;
	msg_zeroed_encode(&answer, &request->answer);
	return 0;
}

static int commit(struct request *request, struct trouble *trouble)
{
	const struct msg_commit *asked = &request->message.commit;
	struct msg_committed answer = {.request = asked->request};
	struct reservation_outcome outcome;

	if (!request->device)
		return err_set(
			&trouble->err, "lease %llu is not open", (unsigned long long)asked->lease);
	if (reservation_commit(request->device, asked->lease, asked->zeroes, asked->zeroes_count,
		    &outcome, trouble) < 0)
		return -1;
	answer.copied = outcome.copied;
	answer.zeroes = outcome.zeroes;
	answer.superseded = outcome.superseded;
	msg_committed_encode(&answer, &request->answer);
	return 0;
}

static int abort_lease(struct request *request, struct trouble *trouble)
{
	const struct msg_abort *asked = &request->message.abort;
	const struct msg_aborted answer = {.request = asked->request};

	if (request->device)
		reservation_abort(request->device, asked->lease, proof_of(asked->stopped));
	/* What the disk did not take may have been a guest's.  Whoever opens the file later is not told any more; this process is. */
	if (request->device && asked->has_flush_failed && asked->flush_failed &&
		device_check_open(request->device, NULL) == 0 && request->device->leaf &&
		qcow2_flush(request->device->leaf, &trouble->err) < 0)
		log_error("device=%s a worker's flush failed, and so did this one",
			request->device->name);
	msg_aborted_encode(&answer, &request->answer);
	return 0;
}

static int finish(struct request *request, struct trouble *trouble)
{
	const struct msg_finish *asked = &request->message.finish;
	struct msg_finished finished = {.request = asked->request};
	struct msg_unfinished unfinished = {.request = asked->request};
	int r;

	if (find_device(request, asked->device, trouble) < 0)
		return -1;
	r = stream_finish(request->device, asked->job, asked->backing_name, asked->backing_format,
		&unfinished.offset, trouble);
	if (r < 0)
		return -1;
	if (r == STREAM_UNFINISHED) {
		msg_unfinished_encode(&unfinished, &request->answer);
		return 0;
	}
	finished.state = request->device->description->state;
	msg_finished_encode(&finished, &request->answer);
	return 0;
}

static int close_job(struct request *request, struct trouble *trouble UNUSED)
{
	const struct msg_close_job *asked = &request->message.close_job;
	const struct msg_job_closed answer = {.request = asked->request};

	if (request->device && request->device->phase != DEVICE_CLOSED)
		stream_close(request->device, asked->job);
	msg_job_closed_encode(&answer, &request->answer);
	return 0;
}

typedef int handler(struct request *request, struct trouble *trouble);

static const struct {
	handler *handle;
	size_t number_offset; /* of `request` in the message */
} handlers[] = {
#define HANDLER(type, member, function) \
	[BROKER_TO_IMAGED_##type] = {function, offsetof(struct broker_to_imaged, member.request)}
	HANDLER(ATTACH, attach, attach),
	HANDLER(DETACH, detach, detach),
	HANDLER(PLAN, plan, plan),
	HANDLER(ALLOCATION, allocation, allocation),
	HANDLER(OPEN_JOB, open_job, open_job),
	HANDLER(MAP, map, map),
	HANDLER(PREPARE_JOIN, prepare_join, prepare_join),
	HANDLER(CONFIRM_JOIN, confirm_join, confirm_join),
	HANDLER(END_JOIN, end_join, end_join),
	HANDLER(RESERVE, reserve, reserve),
	HANDLER(ZERO, zero, zero),
	HANDLER(COMMIT, commit, commit),
	HANDLER(ABORT, abort, abort_lease),
	HANDLER(FINISH, finish, finish),
	HANDLER(CLOSE_JOB, close_job, close_job),
#undef HANDLER
};

enum request_outcome handle_request(struct request *request, struct trouble *trouble)
{
	unsigned type = request->message.type;
	uint64_t number;
	int r;

	bug_if(type >= sizeof handlers / sizeof handlers[0] || !handlers[type].handle);
	memcpy(&number, (const char *)&request->message + handlers[type].number_offset,
		sizeof number);
	r = handlers[type].handle(request, trouble);
	if (r < 0)
		refuse(request, number, trouble);
	return r == RESERVATION_LATER ? REQUEST_AGAIN : REQUEST_DONE;
}
