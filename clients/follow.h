/* SPDX-License-Identifier: Apache-2.0 */
/* Follows a job to its end and shows how far it is. */
#ifndef SLUICE_CLIENTS_FOLLOW_H
#define SLUICE_CLIENTS_FOLLOW_H

#include <jansson.h>

#include "clients/progress_bar.h"
#include "clients/subscribe.h"
#include "common/attributes.h"

enum follow_end {
	FOLLOW_ENDED,  /* *ret_event is the job's BLOCK_JOB_COMPLETED or BLOCK_JOB_CANCELLED */
	FOLLOW_SIGNAL, /* Ctrl-C or SIGTERM; the job goes on */
	FOLLOW_CHILD,  /* a watched process ended */
	FOLLOW_DEADLINE,
};

/* The subscriber must have been started with the number of an event before the job.  `deadline_ms` UINT64_MAX: none. */
enum follow_end MUST_CHECK follow_job(struct subscriber *subscriber, const char *job,
	struct progress_bar *bar, uint64_t deadline_ms, json_t **ret_event);

/* The event's data with `seconds` since started_ms added: what `--json` prints at the end. */
json_t *follow_summary(const json_t *event, uint64_t started_ms);
/* 0: it ended well; else 1 and one line on stderr that says why not. */
int follow_status(const json_t *event);

#endif
