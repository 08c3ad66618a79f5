/* SPDX-License-Identifier: Apache-2.0 */
/* Through it every request of a guest enters a device, and leaves when it is answered.
 *
 * Closing it holds new requests back and waits until those inside have left.  Without closing, one can wait for a grace period:
 * until all that were inside at the call have left, while new ones come and go.
 *
 *   epoch even:  enter -> inside[0]      grace: epoch + 1, wait until inside[0] is 0
 *   epoch odd:   enter -> inside[1]             (whoever looked anything up before is gone then)
 *
 * Entering and leaving are a few atomic operations; nobody who is inside may wait for the gate. */
#ifndef SLUICE_IMAGED_GATE_H
#define SLUICE_IMAGED_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/attributes.h"

struct gate_side {
	atomic_uint inside;
	char apart[60]; /* each on a cache line of its own */
};

struct gate {
	struct gate_side sides[2];
	atomic_uint epoch;
	atomic_uint closings; /* not opened again */
	atomic_uint waiters;  /* threads that wait for somebody to leave */
	pthread_mutex_t lock; /* for waiting */
	pthread_cond_t left;  /* somebody left, and it mattered */
	pthread_cond_t opened;
	pthread_mutex_t grace; /* one grace period at a time */
};

void gate_init(struct gate *gate);
/* Nobody is inside, and nobody waits. */
void gate_done(struct gate *gate);

/* Waits while the gate is closed.  What it returns is given to gate_leave. */
unsigned MUST_CHECK gate_enter(struct gate *gate);
void gate_leave(struct gate *gate, unsigned side);

/* Holds new requests back and waits for those inside, at most so long.  False: some are still there, and the gate is as it was.
 * Closing may be done several times; the gate is open when each was undone. */
bool MUST_CHECK gate_close(struct gate *gate, uint64_t timeout_ms);
void gate_open(struct gate *gate);

/* Until every request that was inside at the call has left. */
void gate_wait_grace(struct gate *gate);

#endif
