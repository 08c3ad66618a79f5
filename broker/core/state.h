/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that the core knows, and who points at whom.  Only files of this folder include it.
 *
 *     realm -- worker -- join -- device -- imaged     a worker joins a device's leaf, then gets
 *                   \     |     /    |              leases there; a lease is a range of a job
 *                    `- lease -'    job              in a worker's hands
 *
 * How a step works: an input changes what it is about and *touches* who may have something to do
 * now; at the end of the step each touched object looks at itself and does what is next
 * (`device_advance`, `job_advance`, `scheduler_run`).  So a handler need not know what follows
 * from what it did, and a message that never came is made up for by looking again. What changed
 * durably is stored once, at the very end of the step.
 *
 * `core->now` and `core->effects` are those of the step under way. */
#ifndef SLUICE_BROKER_CORE_STATE_H
#define SLUICE_BROKER_CORE_STATE_H

#include "broker/core/bucket.h"
#include "broker/core/core.h"
#include "broker/core/event_log.h"
#include "broker/core/index.h"
#include "broker/core/list.h"
#include "broker/core/meter.h"
#include "broker/core/state_images.h"
#include "broker/core/state_jobs.h"
#include "broker/core/state_workers.h"
#include "broker/core/timers.h"
#include "schemas/client_broker.gen.h"
#include "schemas/errors.gen.h"
#include "schemas/records.gen.h"

/* Limits; what happens at each stands where it is checked. */
#define DEVICES_MAX	     10000
#define JOBS_MAX	     10000
#define WORKERS_MAX	     4096
#define IMAGEDS_MAX	     1024
#define WAITING_REQUESTS_MAX 10000
#define JOINS_OF_WORKER_MAX  1024
#define TOKENS_MAX	     100000

struct core {
	struct core_options options;
	char *version;
	struct core_time now;
	struct effects *effects;
	struct wire_buffer buffer, data_buffer; /* for encoding */
	struct wire_memory memory;		/* reset with each step */

	uint64_t epoch, generation;
	uint64_t last_job;
	bool has_settings, has_settings_changed;
	struct event_log log;
	uint64_t started_ms;

	struct index peers;	      /* number -> struct peer */
	struct index realms;	      /* name */
	struct index workers;	      /* name */
	struct index imageds;	      /* name */
	struct index devices;	      /* name */
	struct index jobs;	      /* id */
	struct index loaded_progress; /* a job's number; only while the store is read */
	struct index joins;	      /* id */
	struct index leases;	      /* id */
	struct index requests;	      /* number */
	struct index tokens;	      /* text */
	struct list ended_tokens;     /* by the seq of their end */
	struct list all_imageds;
	uint64_t last_request;
	size_t waiting_requests;

	struct list touched_devices, touched_jobs, touched_workers;
	struct list changed_jobs;
	struct timers timers;
	struct timer heartbeat_timer, budget_timer;
	struct bucket bucket; /* the budget over all jobs */
	struct meter meter;
	uint64_t virtual_bytes; /* of the job that was served last */
	uint64_t refused_joins; /* counts */
};

#endif
