/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whoever is told of a failed write fails the image.  Waiting for a piece takes the error, which the kernel tells each open
 * file description once, and one that is opened later not at all: after the death of this process a flush would succeed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/io.h"
#include "common/log.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_write_out.h"

/* A piece of the file: what a read may have to wait for. */
#define PIECE_BITS 21
/* So much is left to a flush. */
#define WRITE_OUT_BYTES (UINT64_C(16) << 20)
/* No more is remembered; the rest is left to the flush. */
#define RUNS_MAX 65536

/* Of a description of its own: flushes need not wait for a piece to be told what became of theirs.  Without flags the call does
 * nothing but succeed where it is known. */
void qcow2_write_out_open(struct qcow2 *image)
{
	struct write_out *out = &image->writes->out;

	out->fd = open_once_more(image->fd, O_RDONLY | O_CLOEXEC);
	if (out->fd >= 0 && sync_file_range(out->fd, 0, 1, 0) == 0)
		return;
	log_warn("%s: what guests write goes to the disk with flushes only: %s", image->path,
		err_number_name(errno));
	if (out->fd >= 0)
		close(out->fd);
	out->fd = -1;
}

void qcow2_write_out_close(struct qcow2 *image)
{
	struct write_out *out = &image->writes->out;

	if (out->fd >= 0)
		close(out->fd);
	free(out->noted.runs);
	free(out->taken.runs);
}

void qcow2_write_out_note(struct qcow2 *image, uint64_t host)
{
	struct write_out *out = &image->writes->out;
	uint64_t piece = host >> PIECE_BITS;

	if (out->fd < 0)
		return;
	out->bytes += image->header.cluster_size;
	if (out->noted.count > 0) {
		const struct run *last = &out->noted.runs[out->noted.count - 1];

		if (piece >= last->first && piece < last->first + last->count)
			return;
	}
	if (out->noted.count < RUNS_MAX)
		run_list_add(&out->noted, piece, 1);
}

void qcow2_write_out_is_flushed(struct qcow2 *image)
{
	struct write_out *out = &image->writes->out;

	out->noted.count = out->taken.count = out->next = 0;
	out->bytes = 0;
	out->has_begun = false;
}

bool qcow2_write_out_wanted(const struct qcow2 *image)
{
	return image->writes->out.bytes >= WRITE_OUT_BYTES;
}

bool qcow2_write_out_is_done(const struct qcow2 *image)
{
	return image->writes->out.has_begun && !qcow2_write_out_wanted(image);
}

bool qcow2_write_out_begin(struct qcow2 *image)
{
	struct write_out *out = &image->writes->out;
	bool is_wanted;

	pthread_mutex_lock(&image->lock);
	is_wanted = qcow2_write_out_wanted(image);
	if (is_wanted) {
		struct run_list sent = out->taken;

		sent.count = 0;
		out->taken = out->noted;
		out->next = 0;
		out->noted = sent;
		out->bytes = 0;
		out->has_begun = true;
	}
	pthread_mutex_unlock(&image->lock);
	return is_wanted;
}

static bool take_piece(struct write_out *out, uint64_t *ret_piece)
{
	struct run *run;

	if (out->next == out->taken.count)
		return false;
	run = &out->taken.runs[out->next];
	*ret_piece = run->first++;
	if (--run->count == 0)
		out->next++;
	return true;
}

/* 0, or an errno. */
static int send_piece(const struct write_out *out, uint64_t piece)
{
	int r = sync_file_range(out->fd, (off64_t)(piece << PIECE_BITS), (off64_t)1 << PIECE_BITS,
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);

	return r < 0 ? errno : 0;
}

int qcow2_write_out_next(struct qcow2 *image, struct err *err)
{
	struct write_out *out = &image->writes->out;
	bool is_there;
	uint64_t piece;
	int number;

	pthread_mutex_lock(&image->lock);
	is_there = !image->failed && take_piece(out, &piece);
	pthread_mutex_unlock(&image->lock);
	if (!is_there)
		return 0;
	number = send_piece(out, piece);
	if (number == 0)
		return 1;
	pthread_mutex_lock(&image->lock);
	qcow2_fail(image, number, "cannot write to the disk", err);
	pthread_mutex_unlock(&image->lock);
	return -1;
}
