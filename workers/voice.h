/* SPDX-License-Identifier: Apache-2.0 */
/* What the worker says to the broker: packs it, sends it if somebody listens, and keeps a report on a lease until it is
 * acknowledged.  What can't be sent is not lost for good: the link goes down, and the next hello tells all that matters. */
#ifndef SLUICE_WORKERS_VOICE_H
#define SLUICE_WORKERS_VOICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/link.h"
#include "schemas/wire.h"
#include "schemas/worker_broker.gen.h"
#include "workers/copy_threads.h"
#include "workers/joins.h"
#include "workers/reports.h"

struct voice {
	struct link *link;
	struct reports *reports;
	struct wire_buffer out;
};

/* `link` may be set later, before the first word. */
void voice_init(struct voice *voice);
void voice_done(struct voice *voice);

/* Things that need no answer. */
void voice_say(struct voice *voice, const struct worker_to_broker *message);
void voice_say_progress(struct voice *voice, uint64_t lease, uint64_t bytes);
void voice_say_joined(struct voice *voice, const struct join *join, const char *boot_id);
void voice_say_join_refused(struct voice *voice, uint64_t join, const struct err *err);
void voice_say_left(struct voice *voice, uint64_t join);
/* Not a report: of a lease that this worker does not hold. */
void voice_say_not_held(struct voice *voice, uint64_t lease);

/* Reports: nothing may be written under the lease any more. */
void voice_report_stopped(struct voice *voice, uint64_t lease);
/* How a task ended. */
void voice_report_end(struct voice *voice, const struct copy_task *task);
void voice_report_malformed(struct voice *voice, const struct msg_copy_order *order,
	const char *leaf, const struct err *err);
/* Says the report on the lease once more.  False: there is none. */
bool voice_repeat(struct voice *voice, uint64_t lease);
/* Says all of them once more. */
void voice_repeat_all(struct voice *voice);

#endif
