/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a copy order before a byte of it moves.
 *
 * An order comes from imaged through the broker, and both mean well; but a worker writes into a guest's disk, so it does
 * not take their word that the numbers fit together.  What it can't check is whether the clusters are really reserved: only
 * imaged knows that. */
#include "workers/copy_order.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"

/* Whether offset + length can be named with an off_t, and there is something in it. */
static bool is_range(uint64_t offset, uint64_t length)
{
	return length > 0 && offset <= INT64_MAX && length <= (uint64_t)INT64_MAX - offset;
}

static int check_compressed(const struct source_extent *source, size_t index, struct err *err)
{
	uint64_t skip = source->has_skip ? source->skip : 0;

	if (!source->has_stored || !source->has_cluster)
		return err_set(
			err, "source %zu is compressed, but stored or cluster is missing", index);
	if (!is_range(source->offset, source->stored))
		return err_set(err,
			"source %zu: %" PRIu64 " stored bytes at %" PRIu64 " are no range", index,
			source->stored, source->offset);
	if (skip > source->cluster || source->length > source->cluster - skip)
		return err_set(err,
			"source %zu: %" PRIu64 " bytes after %" PRIu64
			" do not lie in a cluster of %" PRIu64,
			index, source->length, skip, source->cluster);
	return 0;
}

static int check_source(
	const struct source_extent *source, size_t index, size_t files_count, struct err *err)
{
	if (source->length == 0 || source->length > COPY_ORDER_BYTES_MAX)
		return err_set(err, "source %zu yields %" PRIu64 " bytes", index, source->length);
	if (source->codec == CODEC_ZERO)
		return 0;

	if (!source->has_file || !source->has_offset)
		return err_set(err, "source %zu names no file and offset", index);
	if (source->file >= files_count)
		return err_set(err, "source %zu is in file %" PRIu64 " of %zu", index, source->file,
			files_count);
	if (source->codec != CODEC_PLAIN)
		return check_compressed(source, index, err);
	if (!is_range(source->offset, source->length))
		return err_set(err, "source %zu: %" PRIu64 " bytes at %" PRIu64 " are no range",
			index, source->length, source->offset);
	return 0;
}

static int check_destination(const struct destination_extent *destination, size_t index,
	uint64_t cluster_bytes, struct err *err)
{
	if (!is_range(destination->offset, destination->length) ||
		destination->length > COPY_ORDER_BYTES_MAX)
		return err_set(err,
			"destination %zu: %" PRIu64 " bytes at %" PRIu64 " are no range", index,
			destination->length, destination->offset);
	if (destination->offset % cluster_bytes || destination->length % cluster_bytes)
		return err_set(err,
			"destination %zu: %" PRIu64 " bytes at %" PRIu64 " are no whole clusters",
			index, destination->length, destination->offset);
	if (destination->offset == 0)
		return err_set(err, "destination %zu would overwrite the header", index);
	return 0;
}

static int by_offset(const void *left, const void *right)
{
	uint64_t l = ((const struct destination_extent *)left)->offset;
	uint64_t r = ((const struct destination_extent *)right)->offset;

	return l < r ? -1 : l > r;
}

static int check_overlaps(const struct copy_order *order, struct err *err)
{
	size_t bytes = order->destinations_count * sizeof *order->destinations;
	CLEANUP_FREE struct destination_extent *sorted = must_calloc(1, bytes);

	memcpy(sorted, order->destinations, bytes);
	qsort(sorted, order->destinations_count, sizeof *sorted, by_offset);
	for (size_t i = 1; i < order->destinations_count; i++) {
		if (sorted[i].offset < sorted[i - 1].offset + sorted[i - 1].length)
			return err_set(err, "destinations overlap at %" PRIu64, sorted[i].offset);
	}
	return 0;
}

/* Checks each extent and adds up what the lists yield. */
static int check_order(
	const struct copy_order *order, size_t files_count, uint64_t *ret_length, struct err *err)
{
	uint64_t from = 0;
	uint64_t into = 0;

	for (size_t i = 0; i < order->sources_count; i++) {
		if (check_source(&order->sources[i], i, files_count, err) < 0)
			return -1;
		from += order->sources[i].length;
	}
	for (size_t i = 0; i < order->destinations_count; i++) {
		if (check_destination(&order->destinations[i], i, order->cluster_bytes, err) < 0)
			return -1;
		into += order->destinations[i].length;
	}
	if (from != into)
		return err_set(err,
			"the sources yield %" PRIu64 " bytes, the destinations take %" PRIu64, from,
			into);
	if (into == 0 || into > COPY_ORDER_BYTES_MAX)
		return err_set(err, "an order of %" PRIu64 " bytes", into);
	if (order->guest_offset > INT64_MAX || into > (uint64_t)INT64_MAX - order->guest_offset)
		return err_set(
			err, "guest offset %" PRIu64 " is past every disk", order->guest_offset);
	*ret_length = into;
	return check_overlaps(order, err);
}

static void *copy_list(const void *items, size_t count, size_t size)
{
	void *copy = must_calloc(count ? count : 1, size);

	if (count)
		memcpy(copy, items, count * size);
	return copy;
}

int copy_order_new(const struct msg_copy_order *message, const struct copy_order_frame *frame,
	struct copy_order **ret_order, struct err *err)
{
	bug_if(frame->cluster_bytes == 0);
	CLEANUP(copy_order_cleanup) struct copy_order *order = must_calloc(1, sizeof *order);

	*order = (struct copy_order){
		.lease = message->lease,
		.join = message->join,
		.guest_offset = message->offset,
		.cluster_bytes = frame->cluster_bytes,
		.detect_zeroes = message->detect_zeroes,
		.sources_count = message->sources_count,
		.destinations_count = message->destinations_count,
	};
	order->sources =
		copy_list(message->sources, message->sources_count, sizeof *order->sources);
	order->destinations = copy_list(
		message->destinations, message->destinations_count, sizeof *order->destinations);
	if (check_order(order, frame->files_count, &order->length, err) < 0)
		return -1;
	*ret_order = steal(&order);
	return 0;
}

void copy_order_free(struct copy_order *order)
{
	if (!order)
		return;
	free(order->sources);
	free(order->destinations);
	free(order);
}
