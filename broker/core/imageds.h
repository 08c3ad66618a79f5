/* SPDX-License-Identifier: Apache-2.0 */
/* The imageds: those that are here, and those whose devices are in the store while they are
 * away. */
#ifndef SLUICE_BROKER_CORE_IMAGEDS_H
#define SLUICE_BROKER_CORE_IMAGEDS_H

#include "broker/core/state.h"

struct imaged *imaged_find(const struct core *core, const char *name);
/* One that is away.  NULL: there are too many. */
struct imaged *imaged_get(struct core *core, const char *name);
bool imaged_is_here(const struct imaged *imaged);
/* How many are here; *ret_one is one of them. */
size_t imageds_here(const struct core *core, struct imaged **ret_one);
/* Its devices are offline; what it was asked is lost. */
void imaged_lose(struct core *core, struct imaged *imaged, const char *reason);
/* Forgets one that is away and has nothing. */
void imaged_release(struct core *core, struct imaged *imaged);
void imaged_free(struct core *core, struct imaged *imaged);
/* What was asked and is not answered gets no answer any more. */
void imaged_session_lost(struct core *core, struct imaged *imaged);
/* A device that was detached by force: it is not taken from this incarnation again. */
void imaged_note_gone(struct imaged *imaged, const char *device);
bool imaged_take_gone(struct imaged *imaged, const char *device);

/* imaged_hello.c */
void imaged_hello(struct core *core, uint64_t peer, const struct msg_imaged_hello *hello);
/* The claim on its name is decided: it spoke, it is gone, or its time is over. */
void imaged_decide_challenge(struct core *core, struct imaged *imaged);

/* imaged_answers.c: any message from its connection; imaged NULL: a stranger. */
void imaged_message(struct core *core, uint64_t peer, struct imaged *imaged,
	const struct imaged_to_broker *message);

#endif
