/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/check.h"
#include "common/clock.h"
#include "common/cleanup.h"
#include "common/log.h"
#include "imaged/chain_names.h"
#include "imaged/device_host.h"
#include "imaged/device_writes.h"
#include "imaged/names.h"
#include "imaged/reservation.h"
#include "imaged/snapshots.h"
#include "schemas/errors.gen.h"

#define COUNT_US UINT64_C(1000000)

static struct chain *chain_of(const struct device *device)
{
	return device->live.current->chain;
}

struct work_scope stream_scope_for(const struct device *device, const struct stream *stream)
{
	return (struct work_scope){
		.chain = chain_of(device),
		.kept = stream->kept,
		.cluster_size = device->leaf->header.cluster_size,
		.copies_zeroes = device->leaf->header.version < 3,
		.known_zero = &stream->known_zero,
	};
}

struct work_scope stream_scope(const struct device *device)
{
	return stream_scope_for(device, device->stream);
}

static int refuse_leaf_as_base(const struct chain *chain, const char *name, struct err *err)
{
	CLEANUP_FREE char *path = chain_name_beside(chain->layers[0].opened_as, name);
	struct stat status;

	if (strcmp(name, chain->layers[0].name) != 0 &&
		(stat(path, &status) < 0 || !chain_same_file(&chain->layers[0], &status)))
		return -1;
	return err_set_kind(err, ERROR_CLASS_BASE_NOT_FOUND,
		"'%s' is the leaf itself, not a backing file of it", name);
}

static int find_layer(
	const struct chain *chain, const char *name, size_t *ret_index, struct err *err)
{
	int index = chain_find(chain, name, err);

	if (index < 0)
		return refuse_leaf_as_base(chain, name, err);
	*ret_index = (size_t)index;
	return 0;
}

/* Which is the first layer that stays? */
static int find_kept(const struct chain *chain, const struct stream_wish *wish, size_t *ret_kept,
	struct err *err)
{
	size_t index = 0;

	if (wish->base && wish->bottom)
		return err_set(err, "base and bottom can't be given together");
	if (!wish->base && !wish->bottom) {
		*ret_kept = chain->count;
		return 0;
	}
	if (find_layer(chain, wish->base ? wish->base : wish->bottom, &index, err) < 0)
		return -1;
	*ret_kept = wish->base ? index : index + 1;
	return 0;
}

static void set_names(struct stream *stream, const char *name, const char *format)
{
	snprintf(stream->backing_name, sizeof stream->backing_name, "%s", name);
	snprintf(stream->backing_format, sizeof stream->backing_format, "%s", format);
}

/* Settles what the header will say. */
static int choose_name(struct device *device, const struct stream_wish *wish, struct stream *stream,
	struct err *err)
{
	const struct chain *chain = chain_of(device);
	const char *name = "";

	if (stream->kept >= chain->count) {
		if (wish->backing_file)
			return err_set(err,
				"backing-file is given, but no backing file is kept: name the base that stays");
		return 0;
	}
	if (wish->backing_file && !wish->base && !wish->bottom)
		return err_set(err, "backing-file needs base");
	if (names_choose(device->host->roots, chain, stream->kept, wish->backing_file, &name, err) <
		0)
		return -1;
	set_names(stream, name, chain->layers[stream->kept].format);
	snprintf(stream->base, sizeof stream->base, "%s", chain->layers[stream->kept].name);
	return 0;
}

static bool is_in_header(const struct device *device, const char *name, const char *format)
{
	return strcmp(device->leaf->header.backing_name, name) == 0 &&
	       (name[0] == '\0' || strcmp(device->leaf->header.backing_format, format) == 0);
}

int stream_resolve(struct device *device, const struct stream_wish *wish, struct stream *ret_stream,
	struct trouble *trouble)
{
	struct stream stream = {0};
	struct work_scope scope;

	if (device_check_open(device, &trouble->err) < 0)
		return -1;
	if (!device->leaf)
		return err_set_kind(
			&trouble->err, ERROR_CLASS_NOT_SUPPORTED, "Operation is not supported");
	if (find_kept(chain_of(device), wish, &stream.kept, &trouble->err) < 0 ||
		choose_name(device, wish, &stream, &trouble->err) < 0)
		return -1;
	stream.has_nothing_to_do = stream.kept <= 1;
	if (stream.has_nothing_to_do && !wish->backing_file) {
		/* What stands there stays there, byte for byte. */
		set_names(&stream, device->leaf->header.backing_name,
			device->leaf->header.backing_format);
	}
	if (!is_in_header(device, stream.backing_name, stream.backing_format) &&
		qcow2_check_backing(device->leaf, stream.backing_name, stream.backing_format,
			&trouble->err) < 0)
		return -1;
	scope = stream_scope_for(device, &stream);
	scope.known_zero = NULL;
	if (!stream.has_nothing_to_do && snapshots_check(&scope, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_READING);
	*ret_stream = stream;
	return 0;
}

void stream_renew_promise(struct device *device)
{
	const struct stream *stream = device->stream;
	struct err err;

	if (stream && qcow2_check_backing(
			      device->leaf, stream->backing_name, stream->backing_format, &err) < 0)
		log_warn("device=%s job=%s will not be able to write its backing name: %s",
			device->name, stream->job, err.text);
}

static int refuse_space(
	struct device *device, uint64_t growth, uint64_t space_free, struct trouble *trouble)
{
	return err_set_kind(&trouble->err, ERROR_CLASS_NO_SPACE,
		"the copy does not fit: '%s' would grow by up to %llu bytes, and %llu are free",
		device->leaf->path, (unsigned long long)growth, (unsigned long long)space_free);
}

/* By how much the leaf grows if all of the disk has to be copied. */
static uint64_t greatest_growth(const struct device *device)
{
	const struct qcow2_header *header = &device->leaf->header;
	uint64_t span = header->cluster_size * (header->cluster_size / 8);
	const struct plan all = {.copy = header->disk_size, .tables = header->disk_size / span + 1};

	return plan_leaf_growth(&all, header);
}

int stream_count(
	struct device *device, struct stream *stream, uint64_t deadline_us, struct trouble *trouble)
{
	struct work_scope scope = stream_scope_for(device, stream);
	uint64_t space_free, growth;
	int r;

	scope.known_zero = NULL; /* none is known before the first byte */
	if (stream->is_counted || stream->has_nothing_to_do)
		return 1;
	if (plan_space_free(device->leaf->fd, &space_free, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_READING);
	if (stream->count.position == 0 && greatest_growth(device) <= space_free) {
		stream->is_counted = true;
		return 1;
	}
	r = plan_count(&stream->count, &scope, deadline_us, &trouble->err);
	if (r < 0)
		return trouble_during(trouble, TROUBLE_READING);
	growth = plan_leaf_growth(&stream->count, &device->leaf->header);
	if (growth > space_free)
		return refuse_space(device, growth, space_free, trouble);
	stream->is_counted = r == 1;
	return r;
}

static void stream_free(struct stream *stream)
{
	zero_set_done(&stream->known_zero);
	free(stream);
}

static void set_stream(struct device *device, struct stream *stream)
{
	pthread_mutex_lock(&device->lock);
	device->stream = stream;
	pthread_mutex_unlock(&device->lock);
}

static uint64_t cluster_count(const struct device *device)
{
	const struct qcow2_header *header = &device->leaf->header;

	return (header->disk_size + header->cluster_size - 1) / header->cluster_size;
}

static int check_free_of_jobs(const struct device *device, struct err *err)
{
	if (!device->stream)
		return 0;
	return err_set_kind(err, ERROR_CLASS_DEVICE_IN_USE,
		"Device '%s' is in use: job '%s' is active", device->name, device->stream->job);
}

int stream_open(struct device *device, const char *job, const struct stream_wish *wish,
	struct trouble *trouble)
{
	struct stream resolved = {0}, *stream;

	if (device_check_open(device, &trouble->err) < 0)
		return -1;
	if (device->stream && strcmp(device->stream->job, job) == 0)
		return 0;
	if (check_free_of_jobs(device, &trouble->err) < 0 ||
		stream_resolve(device, wish, &resolved, trouble) < 0)
		return -1;
	snprintf(resolved.job, sizeof resolved.job, "%s", job);
	plan_begin(&resolved.count, PLAN_TOTALS);
	if (stream_count(device, &resolved, clock_monotonic_us() + COUNT_US, trouble) < 0)
		return -1;
	zero_set_init(&resolved.known_zero, cluster_count(device));
	stream = must_calloc(1, sizeof *stream);
	*stream = resolved;
	set_stream(device, stream);
	log_info("device=%s job=%s opened, keeps '%s'", device->name, job, stream->base);
	return 0;
}

int stream_check_open(const struct device *device, const char *job, struct trouble *trouble)
{
	if (device_check_open(device, &trouble->err) < 0)
		return -1;
	if (device->stream && strcmp(device->stream->job, job) == 0)
		return 0;
	return err_set_kind(&trouble->err, ERROR_CLASS_DEVICE_NOT_ACTIVE,
		"job '%s' is not open on device '%s'", job, device->name);
}

void stream_forget(struct device *device)
{
	struct stream *stream = device->stream;

	if (!stream)
		return;
	reservation_revoke_all(device);
	set_stream(device, NULL);
	stream_free(stream);
}

void stream_close(struct device *device, const char *job)
{
	if (!device->stream || strcmp(device->stream->job, job) != 0)
		return;
	stream_forget(device);
	device_trim_if_idle(device);
	log_info("device=%s job=%s closed, the header is as it was", device->name, job);
}

/* Whether something of the disk still depends on a dropped layer: STREAM_UNFINISHED and where. */
static int find_missing(struct device *device, uint64_t *ret_missing, struct trouble *trouble)
{
	struct work_scope scope = stream_scope(device);
	struct work_walk walk;
	struct work_piece piece;
	int r;

	work_walk_begin(&walk, &scope, 0, scope.chain->size);
	for (;;) {
		if (atomic_load(&device->host->is_stopping))
			return err_set(&trouble->err, "this imaged is stopping");
		r = work_walk_next(&walk, &piece, &trouble->err);
		if (r < 0)
			return trouble_during(trouble, TROUBLE_READING);
		if (r == 0)
			return 0;
		if (piece.need == NEED_COPY || piece.need == NEED_ZERO) {
			*ret_missing = piece.offset;
			return STREAM_UNFINISHED;
		}
	}
}

static int flush(struct device *device, struct trouble *trouble)
{
	if (device_flush(device, &trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_FLUSHING);
	return 0;
}

/* Header, then chain, then what is left over. */
static int switch_chain(struct device *device, struct trouble *trouble)
{
	struct stream *stream = device->stream;

	if (!is_in_header(device, stream->backing_name, stream->backing_format) &&
		qcow2_switch_backing(device->leaf, stream->backing_name, stream->backing_format,
			&trouble->err) < 0)
		return trouble_during(trouble, TROUBLE_WRITING);
	live_chain_drop(&device->live, stream->kept, stream->backing_name);
	stream_forget(device);
	device_describe(device);
	device_trim_if_idle(device);
	log_info("device=%s job finished, the leaf names '%s' and needs nothing else", device->name,
		device->leaf->header.backing_name);
	return 0;
}

/* No such job is open: done is done. */
static int finish_again(struct device *device, const char *job, const char *backing_name,
	const char *backing_format, struct trouble *trouble)
{
	if (!device->leaf || device->stream || !is_in_header(device, backing_name, backing_format))
		return err_set_kind(&trouble->err, ERROR_CLASS_DEVICE_NOT_ACTIVE,
			"job '%s' is not open on device '%s'", job, device->name);
	return flush(device, trouble);
}

int stream_finish(struct device *device, const char *job, const char *backing_name,
	const char *backing_format, uint64_t *ret_missing, struct trouble *trouble)
{
	const struct stream *stream = device->stream;
	int r;

	if (device_check_open(device, &trouble->err) < 0)
		return -1;
	if (!stream || strcmp(stream->job, job) != 0)
		return finish_again(device, job, backing_name, backing_format, trouble);
	if (strcmp(stream->backing_name, backing_name) != 0 ||
		strcmp(stream->backing_format, backing_format) != 0)
		return err_set(&trouble->err, "job '%s' was opened to keep '%s', not '%s'", job,
			stream->backing_name, backing_name);
	if (!stream->has_nothing_to_do) {
		r = find_missing(device, ret_missing, trouble);
		if (r != 0)
			return r;
	}
	if (flush(device, trouble) < 0)
		return -1;
	return switch_chain(device, trouble);
}
