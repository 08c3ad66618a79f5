/* SPDX-License-Identifier: Apache-2.0 */
/* Reserve, copy, commit: imaged's part of each copied range.
 *
 * reserve: trims the range to what is still needed, makes tables and clusters ready, says where the bytes come from.
 * commit: maps what nothing has touched since, gives the rest back.  abort: nothing is mapped; the clusters are free at once if the
 * worker itself said that it stopped, else they wait in quarantine (lease.h).
 *
 * All functions run on the device's strand. */
#ifndef SLUICE_IMAGED_RESERVATION_H
#define SLUICE_IMAGED_RESERVATION_H

#include "imaged/device.h"
#include "schemas/imaged_broker.gen.h"

struct reservation_wish {
	const char *job;
	uint64_t join;
	uint64_t offset, length;
};

struct reservation {
	uint64_t lease; /* 0 where length is 0: nothing is left to copy in what was asked for */
	uint64_t offset, length;
	uint64_t skipped; /* bytes before `offset` that need nothing */
	bool detects_zeroes;
	struct source_extent *sources;
	size_t source_count;
	struct destination_extent *destinations;
	size_t destination_count;
};

#define RESERVATION_LATER 1
/* 0; RESERVATION_LATER: whether the job fits at all is still being counted, ask again at once; -1 and trouble.  The lists live in
 * `memory`. */
int MUST_CHECK reservation_make(struct device *device, const struct reservation_wish *wish,
	struct wire_memory *memory, struct reservation *ret_reservation, struct trouble *trouble);

/* Whether the range of the wish is made of clusters of the disk: 0, or -1 and err. */
int MUST_CHECK reservation_check_range(
	const struct device *device, const struct reservation_wish *wish, struct err *err);

/* Where the bytes of a range went. */
struct reservation_outcome {
	uint64_t copied, zeroes, superseded;
};

/* `zeroes`: whole clusters that hold only zeroes and were not written, relative to the lease's beginning. */
int MUST_CHECK reservation_commit(struct device *device, uint64_t lease_id,
	const struct guest_range *zeroes, size_t zero_count,
	struct reservation_outcome *ret_outcome, struct trouble *trouble);
/* Makes what needs it in this range explicit zeroes. */
int MUST_CHECK reservation_zero(struct device *device, const struct reservation_wish *wish,
	struct reservation_outcome *ret_outcome, struct trouble *trouble);

enum reservation_proof { WORKER_MAY_WRITE, WORKER_HAS_STOPPED };

/* Closes the lease if there is one. */
void reservation_abort(struct device *device, uint64_t lease_id, enum reservation_proof proof);
/* All open leases go to quarantine. */
void reservation_revoke_all(struct device *device);
/* Revokes the leases of the join and forgets it, at once or as soon as its byte is free. */
void reservation_end_join(struct device *device, struct join *join, enum reservation_proof proof);

/* Whether something is kept only until this join's lock byte is free. */
bool reservation_is_waiting(struct device *device, const struct join *join);
/* It is free: nobody writes under this join any more. */
void reservation_join_is_gone(struct device *device, struct join *join);

#endif
