/* SPDX-License-Identifier: Apache-2.0 */
/* A join: one worker that holds one device's leaf open and locked, by imaged's leave.
 *
 *     PREPARING -prepared-> JOINING -joined-> CONFIRMING -confirmed-> USABLE -> LEAVING -left-> gone
 *         |                    |                  |
 *         '--------------------'------------------'--refused--> REFUSED, tried again later
 *
 * A device that has a job with work for workers wants each worker of its realm; two seconds
 * after it has none, they leave. UNMATCHED is a join that an imaged named after a restart of the
 * broker and whose worker has not come yet. */
#ifndef SLUICE_BROKER_CORE_JOINS_H
#define SLUICE_BROKER_CORE_JOINS_H

#include "broker/core/state.h"

struct join *join_find(const struct core *core, uint64_t id);
/* Begins one, unless there is one already or the worker has as many as it may. */
void join_begin(struct core *core, struct device *device, struct worker *worker);
/* For all workers of the device's realm. */
void joins_begin(struct core *core, struct device *device);

/* imaged's answers. -1 and err: imaged is not to be believed. */
int MUST_CHECK join_prepared(struct core *core, struct join *join,
	const struct msg_join_prepared *prepared, struct err *err);
void join_confirmed(struct core *core, struct join *join);
void join_refused_by_imaged(struct core *core, struct join *join);
/* The worker's answers. */
void join_joined(struct core *core, struct worker *worker, const struct msg_joined *joined);
void join_refused_by_worker(
	struct core *core, struct worker *worker, const struct msg_join_refused *refused);
void join_left(struct core *core, struct worker *worker, uint64_t id);

/* Tells the worker to let go. */
void join_leave(struct core *core, struct join *join);
void joins_leave(struct core *core, struct device *device);
/* Tells a worker to let go of what we do not know (any more); again with each heartbeat until it
 * did. */
void join_tell_to_leave(struct core *core, struct worker *worker, uint64_t id);
/* Tells imaged that it is over. */
enum join_end { JOIN_END_LEFT, JOIN_END_LOST };
void join_tell_end(struct core *core, struct imaged *imaged, uint64_t id, enum join_end end);
void join_free(struct core *core, struct join *join);
void joins_of_worker_lost(struct core *core, struct worker *worker);
/* Its worker takes no more orders: it is not counted on, but goes by itself. */
void joins_of_worker_going(struct core *core, struct worker *worker);
/* imaged is away: those not shown to it yet are void. */
void joins_of_imaged_away(struct core *core, struct imaged *imaged);

/* Named by an imaged after a restart; worker NULL: it is awaited. */
struct join *join_new_known(struct core *core, struct device *device, const struct open_join *open,
	struct worker *worker);
/* The awaited worker is here and holds it. */
void join_match(struct core *core, struct join *join, struct worker *worker);
/* One side does not have it any more: close it at the other, and begin anew if it is still
 * wanted. */
void join_close(struct core *core, struct join *join);

#endif
