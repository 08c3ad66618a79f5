/* SPDX-License-Identifier: Apache-2.0 */
/* What imageds owe answers to.  Numbers are never used twice, not by later lives of the broker
 * either (the generation stands in their upper bits), so a late answer can only meet its own
 * question or none. */
#ifndef SLUICE_BROKER_CORE_REQUESTS_H
#define SLUICE_BROKER_CORE_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/core/state.h"

/* A new one without an owner; the caller sends it under its number. */
struct request *request_new(struct core *core, struct imaged *imaged, enum request_kind kind);
/* The owner is one of these, and gets a link in its list. */
struct request *request_for_device(
	struct core *core, struct device *device, enum request_kind kind);
struct request *request_for_job(struct core *core, struct job *job, enum request_kind kind);
struct request *request_for_join(struct core *core, struct join *join, enum request_kind kind);
struct request *request_for_lease(struct core *core, struct lease *lease, enum request_kind kind);
void request_free(struct core *core, struct request *request);
/* The one that imaged answers with this number, or NULL. */
struct request *request_find(const struct core *core, const struct imaged *imaged, uint64_t number);
/* Is one of that kind on its way? */
bool requests_have(const struct list *requests, enum request_kind kind);
/* The owner goes: answers to these are nobody's. */
void requests_disown(struct list *requests);

#endif
