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

/* With the image's lock held: whether one is due in the background. */
bool qcow2_write_back_is_due(const struct qcow2 *image);

/* Gives back what was forgotten before the call, after a grace period (qcow2_forget.c): the caller is in no guest's request.
 * 0, or -1 and err: the image has failed. */
int MUST_CHECK qcow2_forget(struct qcow2 *image, struct err *err);

/* Nothing is forgotten, and nobody writes back until it is released: counts and references stand still but for what jobs map.
 * The caller is in no guest's request.  0, or -1 and err, and then nothing is held. */
int MUST_CHECK qcow2_write_back_hold(struct qcow2 *image, struct err *err);
void qcow2_write_back_release(struct qcow2 *image);

#endif
