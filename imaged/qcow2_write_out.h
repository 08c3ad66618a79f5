/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of new clusters go to the disk soon after guests wrote them, a piece at a time.  Left to the next flush they would all
 * go at once: that fills the disk's queue, and a guest's read that needs the disk waits behind it, measured for a quarter of a second
 * after half a gibibyte.
 *
 * A help, no promise: what is durable is for the flush to say, and it takes along what was not sent.  What is changed in place is left
 * to the kernel and to flushes. */
#ifndef SLUICE_IMAGED_QCOW2_WRITE_OUT_H
#define SLUICE_IMAGED_QCOW2_WRITE_OUT_H

#include "imaged/qcow2_write.h"

/* Around the image's taking of writes. */
void qcow2_write_out_open(struct qcow2 *image);
void qcow2_write_out_close(struct qcow2 *image);

/* With the image's lock held: the bytes of a new cluster at this offset in the file are to be sent to the disk. */
void qcow2_write_out_note(struct qcow2 *image, uint64_t host);
/* With the image's lock held: a flush begins, which takes along all that was noted. */
void qcow2_write_out_is_flushed(struct qcow2 *image);
/* With the image's lock held: whether so much was noted that it is time to begin. */
bool qcow2_write_out_wanted(const struct qcow2 *image);
/* With the image's lock held: whether all but a little was sent of what was noted since the last flush, and that was much. */
bool qcow2_write_out_is_done(const struct qcow2 *image);

/* Takes what was noted, for qcow2_write_out_next; false: it is not time.  One thread calls the two, with no lock held. */
bool qcow2_write_out_begin(struct qcow2 *image);
/* Sends a piece of 2 MiB and waits until it is there.  1; 0: nothing is left; -1 and err: the image has failed. */
int MUST_CHECK qcow2_write_out_next(struct qcow2 *image, struct err *err);

#endif
