/* SPDX-License-Identifier: Apache-2.0 */
/* Brings pending entries (qcow2_pending.h) into the file in the order that a power cut may interrupt anywhere:
 *
 *   the header's hint names what may leak; new L2 tables, and the bytes that the entries point to      flush
 *   the entries                                                                                        flush
 *   what they replaced is forgotten: given back once nobody can be using it any more
 *
 * One at a time; who asks meanwhile gets the next turn, and all who wait share it. */
#ifndef SLUICE_IMAGED_QCOW2_WRITE_BACK_H
#define SLUICE_IMAGED_QCOW2_WRITE_BACK_H

#include "imaged/qcow2_write.h"

enum write_back {
	WRITE_BACK_LAZY,    /* the entries are in the file, which makes room in the pending map */
	WRITE_BACK_DURABLE, /* all that was acknowledged before the call is durable: a guest's flush */
};

/* 0; -1 and err: a failed flush or metadata write has failed the image; for lack of space nothing is lost and it may be asked for
 * again. */
int MUST_CHECK qcow2_write_back(struct qcow2 *image, enum write_back how, struct err *err);

/* Around the image's taking of writes. */
void qcow2_write_out_open(struct qcow2 *image);
void qcow2_write_out_close(struct qcow2 *image);
/* With the image's lock held: the bytes of a new cluster at this offset in the file are to be sent to the disk. */
void qcow2_write_out_note(struct qcow2 *image, uint64_t host);
/* With the image's lock held: a flush begins, which takes along all that was noted. */
void qcow2_write_out_is_flushed(struct qcow2 *image);
/* With the image's lock held: whether so much was noted that it is time to begin. */
bool qcow2_write_out_wanted(const struct qcow2 *image);
/* Takes what was noted, for qcow2_write_out_next; false: it is not time.  One thread calls the two, with no lock held. */
bool qcow2_write_out_begin(struct qcow2 *image);
/* Sends a piece of 2 MiB and waits until it is there, or has failed; false: nothing is left. */
bool qcow2_write_out_next(struct qcow2 *image);

/* Gives back what was forgotten before the call, after a grace period (qcow2_forget.c): the caller is in no guest's request.
 * 0, or -1 and err: the image has failed. */
int MUST_CHECK qcow2_forget(struct qcow2 *image, struct err *err);

/* Nothing is forgotten, and nobody writes back until it is released: counts and references stand still but for what jobs map.
 * The caller is in no guest's request.  0, or -1 and err, and then nothing is held. */
int MUST_CHECK qcow2_write_back_hold(struct qcow2 *image, struct err *err);
void qcow2_write_back_release(struct qcow2 *image);

#endif
