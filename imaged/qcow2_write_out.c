/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of new clusters go to the disk soon after guests wrote them, a piece at a time.  Left to the next flush they would all
 * go at once: that fills the disk's queue, and a guest's read that needs the disk waits behind it, measured for a quarter of a second
 * after half a gibibyte.
 *
 * Only clusters that a write-back will need on the disk anyhow, and as a rule once: what is changed in place is left to the kernel.
 *
 * Invariant: a piece is sent with the flush lock held.  Waiting for it takes the error of a failed write, which the kernel tells a
 * descriptor once, so it fails the image as a flush would. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_write_back.h"

/* A piece of the file: what a read may have to wait for. */
#define PIECE_BITS 21
/* It pays from so much on. */
#define WRITE_OUT_BYTES (UINT64_C(64) << 20)
/* No more is remembered; the rest is left to the flush. */
#define RUNS_MAX 65536

void qcow2_write_out_note(struct qcow2 *image, uint64_t host)
{
	struct unsent *unsent = &image->writes->unsent;
	struct run_list *pieces = &unsent->pieces;
	uint64_t piece = host >> PIECE_BITS;

	unsent->bytes += image->header.cluster_size;
	if (pieces->count > 0) {
		const struct run *last = &pieces->runs[pieces->count - 1];

		if (piece >= last->first && piece < last->first + last->count)
			return;
	}
	if (pieces->count < RUNS_MAX)
		run_list_add(pieces, piece, 1);
}

bool qcow2_write_out_wanted(const struct qcow2 *image)
{
	return image->writes->unsent.bytes >= WRITE_OUT_BYTES;
}

void qcow2_write_out_begin(struct qcow2 *image)
{
	struct qcow2_writes *writes = image->writes;
	struct run_list sent = writes->sending.pieces;

	sent.count = 0;
	pthread_mutex_lock(&image->lock);
	writes->sending = (struct sending){.pieces = writes->unsent.pieces};
	writes->unsent = (struct unsent){.pieces = sent};
	pthread_mutex_unlock(&image->lock);
}

/* 0, or an errno. */
static int send_piece(const struct qcow2 *image, uint64_t piece)
{
	if (sync_file_range(image->fd, (off64_t)(piece << PIECE_BITS), (off64_t)1 << PIECE_BITS,
		    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
			    SYNC_FILE_RANGE_WAIT_AFTER) == 0)
		return 0;
	/* Some file systems cannot: then all of it is left to the flush. */
	return errno == ENOSYS || errno == EINVAL || errno == ESPIPE ? 0 : errno;
}

int qcow2_write_out_next(struct qcow2 *image, struct err *err)
{
	struct sending *sending = &image->writes->sending;
	struct run *run;
	int number;

	/* A flush takes it along, and would wait long for a lock that is taken again and again. */
	if (sending->next == sending->pieces.count || atomic_load(&image->flushing) > 0)
		return 0;
	run = &sending->pieces.runs[sending->next];
	pthread_mutex_lock(&image->flush_lock);
	number = send_piece(image, run->first++);
	if (--run->count == 0)
		sending->next++;
	if (number != 0) {
		pthread_mutex_lock(&image->lock);
		(void)qcow2_fail(image, number, "cannot write to the disk", err);
		pthread_mutex_unlock(&image->lock);
	}
	pthread_mutex_unlock(&image->flush_lock);
	return number == 0 ? 1 : -1;
}
