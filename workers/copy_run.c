/* SPDX-License-Identifier: Apache-2.0 */
/* How bytes get from the layers into the leaf.
 *
 *      sources ──fill──▶ buffer of about 1 MiB ──zero test per cluster──▶ runs of data ──pwrite──▶ reserved clusters
 *                                                                    └──▶ runs of zeroes, only noted
 *
 * Write-back of each megabyte is started as soon as it is written, so that the one fdatasync at the end finds little to do:
 * measured, that is worth a third of the time, and flushing in between costs more than it brings.  A run is complete
 * only when that fdatasync succeeded; after a failed one nothing is tried again, because the kernel has forgotten which
 * pages it lost.
 *
 * Invariant: an order that is reported as copied was told of every write to the disk that failed since its first one.  The kernel
 * tells each open file description once, and others flush the leaf, too: each order has one of its own, opened before it writes. */
#include "workers/copy_run.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/decompress.h"
#include "common/io.h"
#include "common/zero_test.h"

#define WRITEBACK_BYTES ((uint64_t)1 << 20) /* start write-back when so much lies in one piece */
/* At most so much in one write: measured on ext4, writes of 2 MiB and more take four times as long altogether. */
#define WRITE_BYTES_MAX	  ((size_t)1 << 20)
#define STORED_BYTES_MAX  ((size_t)4 << 20) /* limits of the schema */
#define CLUSTER_BYTES_MAX ((size_t)2 << 20)

struct copy_machine {
	size_t buffer_bytes;
	unsigned char *buffer; /* of buffer_bytes, or of one cluster where that is more */
	size_t buffer_room;
	struct decompressor *decompressor; /* this and the next two: made when first needed */
	unsigned char *stored;
	unsigned char *cluster;		 /* what the stream below yielded */
	struct source_extent cluster_of; /* length 0: nothing is cached */
};

/* One run in progress. */
struct copying {
	struct copy_machine *machine;
	const struct copy_order *order;
	const struct copy_files *files;
	struct copy_control *control;
	struct copy_outcome *outcome;
	size_t source;		   /* the piece that comes next ... */
	uint64_t source_done;	   /* ... and what was taken of it */
	size_t destination;	   /* the extent that is written next ... */
	uint64_t destination_done; /* ... and what was passed of it */
	uint64_t position;	   /* bytes of the range that went through the buffer */
	uint64_t dirty_offset;	   /* written in the leaf, write-back not started yet */
	uint64_t dirty_length;
	int told_fd; /* the leaf once more, for the flush */
};

struct copy_machine *copy_machine_new(size_t buffer_bytes)
{
	struct copy_machine *machine = must_calloc(1, sizeof *machine);

	bug_if(buffer_bytes == 0);
	machine->buffer_bytes = buffer_bytes;
	return machine;
}

void copy_machine_free(struct copy_machine *machine)
{
	if (!machine)
		return;
	decompressor_free(machine->decompressor);
	free(machine->stored);
	free(machine->cluster);
	free(machine->buffer);
	free(machine);
}

/* A buffer of whole clusters. */
static size_t prepare_buffer(struct copy_machine *machine, uint32_t cluster_bytes)
{
	size_t clusters = machine->buffer_bytes / cluster_bytes;
	size_t wanted = (clusters ? clusters : 1) * cluster_bytes;

	if (machine->buffer_room < wanted) {
		void *buffer = NULL;

		free(machine->buffer);
		bug_if(posix_memalign(&buffer, 4096, wanted) != 0);
		machine->buffer = buffer;
		machine->buffer_room = wanted;
	}
	return wanted;
}

static void prepare_decompression(struct copy_machine *machine)
{
	if (machine->decompressor)
		return;
	machine->decompressor = decompressor_new();
	machine->stored = must_calloc(1, STORED_BYTES_MAX);
	machine->cluster = must_calloc(1, CLUSTER_BYTES_MAX);
}

/* Fills in where it failed; the caller has filled in err.  Returns -1. */
static int fail(struct copying *copying, enum operation operation, const char *path,
	uint64_t position, uint64_t length)
{
	struct copy_outcome *outcome = copying->outcome;

	outcome->end = COPY_END_FAILED;
	outcome->failure.operation = operation;
	outcome->failure.path = path;
	outcome->failure.guest_offset = copying->order->guest_offset + position;
	outcome->failure.length = length;
	return -1;
}

static int fail_errno(struct copying *copying, enum operation operation, const char *path,
	uint64_t position, uint64_t length, int number)
{
	err_set_errno(
		&copying->outcome->failure.err, number, "%s '%s'", operation_name(operation), path);
	return fail(copying, operation, path, position, length);
}

/* A source that does not hold what it should. */
static int fail_source(struct copying *copying, const char *path, uint64_t position,
	uint64_t length, uint64_t file_offset, const char *why)
{
	struct err *err = &copying->outcome->failure.err;

	err_set(err, "read '%s' at %" PRIu64 ": %s", path, file_offset, why);
	err->number = EIO;
	return fail(copying, OPERATION_READ, path, position, length);
}

static int read_plain(struct copying *copying, const struct copy_file *file, uint64_t file_offset,
	unsigned char *buffer, size_t length, uint64_t position)
{
	if (pread_full(file->fd, buffer, length, file_offset) == 0)
		return 0;
	if (errno == ENODATA)
		return fail_source(copying, file->path, position, length, file_offset,
			"unexpected end of file");
	return fail_errno(copying, OPERATION_READ, file->path, position, length, errno);
}

static bool is_same_stream(const struct source_extent *left, const struct source_extent *right)
{
	return left->length > 0 && left->codec == right->codec && left->file == right->file &&
	       left->offset == right->offset && left->stored == right->stored &&
	       left->cluster == right->cluster;
}

static enum decompress_codec codec_of(const struct source_extent *source)
{
	return source->codec == CODEC_ZSTD ? DECOMPRESS_ZSTD : DECOMPRESS_DEFLATE;
}

/* Makes machine->cluster what `source` yields; several pieces may come from one stream. */
static int load_cluster(struct copying *copying, const struct copy_file *file,
	const struct source_extent *source, uint64_t position)
{
	struct copy_machine *machine = copying->machine;
	struct err why;

	prepare_decompression(machine);
	if (is_same_stream(&machine->cluster_of, source))
		return 0;
	bug_if(source->stored > STORED_BYTES_MAX || source->cluster > CLUSTER_BYTES_MAX);
	machine->cluster_of.length = 0;

	int64_t stored = pread_up_to(file->fd, machine->stored, source->stored, source->offset);
	if (stored < 0)
		return fail_errno(
			copying, OPERATION_READ, file->path, position, source->length, errno);
	if (stored == 0)
		return fail_source(copying, file->path, position, source->length, source->offset,
			"unexpected end of file");
	if (decompress(machine->decompressor, codec_of(source), machine->stored, (size_t)stored,
		    machine->cluster, source->cluster, &why) < 0)
		return fail_source(
			copying, file->path, position, source->length, source->offset, why.text);
	machine->cluster_of = *source;
	return 0;
}

/* Takes `length` bytes of the current piece, which has as many left. */
static int fill_piece(
	struct copying *copying, unsigned char *buffer, size_t length, uint64_t position)
{
	const struct source_extent *source = &copying->order->sources[copying->source];
	uint64_t done = copying->source_done;

	if (source->codec == CODEC_ZERO) {
		memset(buffer, 0, length);
		return 0;
	}
	const struct copy_file *file = &copying->files->sources[source->file];
	if (source->codec == CODEC_PLAIN)
		return read_plain(copying, file, source->offset + done, buffer, length, position);
	if (load_cluster(copying, file, source, position) < 0)
		return -1;
	memcpy(buffer, copying->machine->cluster + (source->has_skip ? source->skip : 0) + done,
		length);
	return 0;
}

/* Takes the next `length` bytes of the range into the buffer. */
static int fill(struct copying *copying, size_t length)
{
	size_t filled = 0;

	while (filled < length) {
		const struct source_extent *source = &copying->order->sources[copying->source];
		uint64_t left = source->length - copying->source_done;
		size_t part = left < length - filled ? (size_t)left : length - filled;

		if (fill_piece(copying, copying->machine->buffer + filled, part,
			    copying->position + filled) < 0)
			return -1;
		filled += part;
		copying->source_done += part;
		if (copying->source_done == source->length) {
			copying->source++;
			copying->source_done = 0;
		}
	}
	return 0;
}

/* Lets the kernel begin to write what lies dirty.  Its failure, if it is one, shows again at the flush. */
static void start_writeback(struct copying *copying)
{
	if (copying->dirty_length)
		sync_file_range(copying->files->leaf.fd, (off64_t)copying->dirty_offset,
			(off64_t)copying->dirty_length, SYNC_FILE_RANGE_WRITE);
	copying->dirty_length = 0;
}

static void note_dirty(struct copying *copying, uint64_t offset, uint64_t length)
{
	if (copying->dirty_length && copying->dirty_offset + copying->dirty_length != offset)
		start_writeback(copying);
	if (!copying->dirty_length)
		copying->dirty_offset = offset;
	copying->dirty_length += length;
	if (copying->dirty_length >= WRITEBACK_BYTES)
		start_writeback(copying);
}

/* Moves on in the destinations; `length` is at most what the current extent has left. */
static void pass_destination(struct copying *copying, uint64_t length)
{
	copying->destination_done += length;
	if (copying->destination_done ==
		copying->order->destinations[copying->destination].length) {
		copying->destination++;
		copying->destination_done = 0;
	}
}

static uint64_t destination_left(const struct copying *copying)
{
	return copying->order->destinations[copying->destination].length -
	       copying->destination_done;
}

static void skip_destinations(struct copying *copying, uint64_t length)
{
	while (length > 0) {
		uint64_t left = destination_left(copying);
		uint64_t part = left < length ? left : length;

		pass_destination(copying, part);
		length -= part;
	}
}

static bool is_told_to_stop(struct copying *copying)
{
	if (!atomic_load_explicit(&copying->control->stop, memory_order_relaxed))
		return false;
	copying->outcome->end = COPY_END_STOPPED;
	return true;
}

/* 0, or -1: it failed or was told to stop, as the outcome says. */
static int write_run(
	struct copying *copying, const unsigned char *bytes, size_t length, uint64_t position)
{
	const struct copy_file *leaf = &copying->files->leaf;

	while (length > 0) {
		const struct destination_extent *extent =
			&copying->order->destinations[copying->destination];
		uint64_t offset = extent->offset + copying->destination_done;
		uint64_t left = destination_left(copying);
		size_t part = left < length ? (size_t)left : length;

		part = part < WRITE_BYTES_MAX ? part : WRITE_BYTES_MAX;
		if (is_told_to_stop(copying))
			return -1;
		if (pwrite_full(leaf->fd, bytes, part, offset) < 0)
			return fail_errno(
				copying, OPERATION_WRITE, leaf->path, position, part, errno);
		note_dirty(copying, offset, part);
		pass_destination(copying, part);
		copying->outcome->bytes_written += part;
		bytes += part;
		length -= part;
		position += part;
	}
	return 0;
}

/* False: the report is full, so these zeroes have to be written. */
static bool note_zeroes(struct copying *copying, uint64_t position, uint64_t length)
{
	struct copy_outcome *outcome = copying->outcome;
	size_t count = outcome->zeroes_count;

	if (count > 0) {
		struct guest_range *last = &outcome->zeroes[count - 1];
		if (last->offset + last->length == position) {
			last->length += length;
			return true;
		}
	}
	if (count == COPY_ZEROES_MAX)
		return false;
	outcome->zeroes[outcome->zeroes_count++] =
		(struct guest_range){.offset = position, .length = length};
	return true;
}

/* How many bytes from `start` on are clusters of the same kind as the first. */
static size_t same_kind(
	const unsigned char *buffer, size_t start, size_t end, size_t cluster, bool *ret_is_zero)
{
	bool is_zero = bytes_are_zero(buffer + start, cluster);
	size_t at = start + cluster;

	while (at < end && bytes_are_zero(buffer + at, cluster) == is_zero)
		at += cluster;
	*ret_is_zero = is_zero;
	return at - start;
}

/* Puts what is in the buffer into its place. */
static int empty(struct copying *copying, size_t length)
{
	const unsigned char *buffer = copying->machine->buffer;
	size_t cluster = copying->order->cluster_bytes;

	if (!copying->order->detect_zeroes)
		return write_run(copying, buffer, length, copying->position);
	for (size_t at = 0; at < length;) {
		bool is_zero;
		size_t run = same_kind(buffer, at, length, cluster, &is_zero);

		if (is_zero && note_zeroes(copying, copying->position + at, run))
			skip_destinations(copying, run);
		else if (write_run(copying, buffer + at, run, copying->position + at) < 0)
			return -1;
		at += run;
	}
	return 0;
}

/* Tells the kernel what will be read soon, so that a cold source is read while the last piece is written. */
static void announce_reads(const struct copying *copying, size_t length)
{
	const struct copy_order *order = copying->order;

	if (copying->source >= order->sources_count)
		return;
	const struct source_extent *source = &order->sources[copying->source];
	if (source->codec != CODEC_PLAIN)
		return;
	uint64_t left = source->length - copying->source_done;
	posix_fadvise(copying->files->sources[source->file].fd,
		(off_t)(source->offset + copying->source_done),
		(off_t)(left < length ? left : length), POSIX_FADV_WILLNEED);
}

static int make_durable(struct copying *copying)
{
	const struct copy_file *leaf = &copying->files->leaf;

	if (copying->outcome->bytes_written == 0)
		return 0;
	if (fdatasync(copying->told_fd) == 0)
		return 0;
	return fail_errno(copying, OPERATION_FLUSH, leaf->path, 0, copying->order->length, errno);
}

void copy_run(struct copy_machine *machine, const struct copy_order *order,
	const struct copy_files *files, struct copy_control *control,
	struct copy_outcome *ret_outcome)
{
	CLEANUP_CLOSE int told_fd = open_once_more(files->leaf.fd, O_RDONLY | O_CLOEXEC);
	struct copying copying = {
		.told_fd = told_fd,
		.machine = machine,
		.order = order,
		.files = files,
		.control = control,
		.outcome = ret_outcome,
	};
	size_t room = prepare_buffer(machine, order->cluster_bytes);

	machine->cluster_of.length = 0; /* another order's file may have had this number */
	ret_outcome->end = COPY_END_COPIED;
	ret_outcome->bytes_written = 0;
	ret_outcome->zeroes_count = 0;
	if (told_fd < 0) {
		(void)fail_errno(
			&copying, OPERATION_FLUSH, files->leaf.path, 0, order->length, errno);
		return;
	}
	while (copying.position < order->length) {
		uint64_t left = order->length - copying.position;
		size_t length = left < room ? (size_t)left : room;

		if (is_told_to_stop(&copying) || fill(&copying, length) < 0)
			return;
		announce_reads(&copying, room);
		if (empty(&copying, length) < 0)
			return;
		copying.position += length;
		atomic_store_explicit(&control->bytes_done, copying.position, memory_order_relaxed);
	}
	if (!is_told_to_stop(&copying))
		(void)make_durable(&copying);
}
