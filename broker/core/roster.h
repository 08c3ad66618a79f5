/* SPDX-License-Identifier: Apache-2.0 */
/* The workers that are here, and the realms that they and the devices belong to.  A worker is
 * here from its hello until nothing was heard of it for the time of `--peer-timeout`, its
 * connection is gone, it said goodbye and has nothing left in its hands, or another incarnation
 * took its name. */
#ifndef SLUICE_BROKER_CORE_ROSTER_H
#define SLUICE_BROKER_CORE_ROSTER_H

#include "broker/core/state.h"

struct realm *realm_find(const struct core *core, const char *name);
struct realm *realm_get(struct core *core, const char *name);
/* Frees it if nobody is in it any more. */
void realm_release(struct core *core, struct realm *realm);

struct worker *worker_find(const struct core *core, const char *name);
/* It may be able to take a range now. */
void worker_touch(struct core *core, struct worker *worker);
struct worker *worker_new(struct core *core, const struct msg_worker_hello *hello);
/* Its ranges are given to others. */
void worker_lose(struct core *core, struct worker *worker, const char *reason);
void worker_free(struct core *core, struct worker *worker);
/* Something came from it. */
void worker_heard(struct core *core, struct worker *worker);
void worker_says_goodbye(struct core *core, struct worker *worker);

/* worker_hello.c: it says who it is, and what it has in its hands. */
void worker_hello(struct core *core, uint64_t peer, const struct msg_worker_hello *hello);

/* worker_messages.c: any message from its connection; worker NULL: a stranger. */
void worker_message(struct core *core, uint64_t peer, struct worker *worker,
	const struct worker_to_broker *message);

/* The devices of its realm that have work are joined. */
void worker_wants_joins(struct core *core, struct worker *worker);

/* A peer's number, known from now on, in place of the one before. */
void peer_set(struct core *core, struct peer *peer, uint64_t number);
void peer_clear(struct core *core, struct peer *peer);
/* Its connection lives on as somebody else's. */
void peer_hand_over(struct core *core, struct peer *peer);

#endif
