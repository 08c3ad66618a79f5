/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to clients.  Each request gets exactly one, at once or when imaged has answered; all
 * are settled: what they say is in the store before they leave. */
#ifndef SLUICE_BROKER_CORE_REPLIES_H
#define SLUICE_BROKER_CORE_REPLIES_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/core/list.h"
#include "common/attributes.h"
#include "schemas/errors.gen.h"
#include "schemas/wire.h"

struct core;
struct msg_image_error;
struct waiter;

/* Whom to answer.  `id` is borrowed. */
struct asker {
	uint64_t client;
	struct wire_bytes id;
};

#define REFUSAL_DESC_MAX 2000

/* Why a request is not carried out; the names in `desc` go into `data`.  NULL: not named. */
struct refusal {
	enum error_class class;
	char desc[REFUSAL_DESC_MAX];
	const char *device, *job_id, *argument, *file, *msg;
};

/* `value` is the packed return. */
void reply_return(struct core *core, struct asker asker, struct wire_bytes value);
void reply_empty(struct core *core, struct asker asker);
void reply_refusal(struct core *core, struct asker asker, const struct refusal *refusal);
/* A GenericError. */
void reply_error(struct core *core, struct asker asker, const char *format, ...) PRINTF_LIKE(3, 4);

void reply_bad_argument(struct core *core, struct asker asker, const char *argument,
	const char *format, ...) PRINTF_LIKE(4, 5);
void reply_device_not_found(struct core *core, struct asker asker, const char *device);
/* `why` may be NULL. */
void reply_device_in_use(struct core *core, struct asker asker, const char *device,
	const char *file, const char *why);
void reply_device_offline(
	struct core *core, struct asker asker, const char *device, const char *imaged);
/* What imaged said. */
void reply_image_error(struct core *core, struct asker asker, const char *device,
	const struct msg_image_error *error);

/* Who waits: counted, and the count is limited.  NULL: too many wait, and the asker was told so. */
struct waiter *waiter_new(struct core *core, struct asker asker) MUST_CHECK;
/* Fills in one that stands inside another struct. */
void waiter_init(struct core *core, struct waiter *waiter, struct asker asker);
void waiter_done(struct core *core, struct waiter *waiter);
bool may_wait(struct core *core, struct asker asker);
struct asker asker_of(const struct waiter *waiter);
/* Takes the first one out of a list of them and frees it, handing its asker over; the id is in
 * core->memory. */
bool waiters_take(struct core *core, struct list *waiters, struct asker *ret_asker);

#endif
