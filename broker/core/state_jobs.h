/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs, their tokens, and clients that wait. */
#ifndef SLUICE_BROKER_CORE_STATE_JOBS_H
#define SLUICE_BROKER_CORE_STATE_JOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/bucket.h"
#include "broker/core/list.h"
#include "broker/core/meter.h"
#include "broker/core/pace.h"
#include "broker/core/state_common.h"
#include "broker/core/timers.h"
#include "broker/core/wanted.h"
#include "broker/core/work_map.h"
#include "schemas/client_broker.gen.h"
#include "schemas/records.gen.h"

struct waiter {
	struct list in_list;
	uint64_t client;
	struct wire_bytes id; /* owned */
};

struct job {
	struct record_job record; /* owns its strings */
	struct record_job_progress progress;
	struct wire_bytes arguments; /* owned; as asked for, packed */
	bool is_accepted;	     /* stored; else a block_stream waits for imaged */
	bool is_open;		     /* imaged has it open */
	bool is_released;	     /* closed there until the device is attached anew */
	bool is_changed, is_progress_changed;
	struct device *device;
	struct list in_touched, in_changed;
	struct list requests; /* OPEN_JOB, MAP, ZERO, FINISH, CLOSE_JOB */
	struct list leases;   /* all but REVOKED and CLAIMED ones */
	struct list waiters;  /* clients */
	struct work_map map;
	struct list pages; /* struct page: those of the map that stand in the store */
	struct wanted wanted;
	struct bucket bucket;
	struct pace pace;
	struct meter meter;
	uint64_t virtual_bytes; /* of the fair share */
	unsigned refusals;	/* of imaged in a row */
	unsigned finish_tries;
	uint64_t hold_until_ms;	   /* nothing is asked of imaged before */
	uint64_t lacking_since_ms; /* since when `lacks` */
	bool lacks_something;
	enum stall_reason lacks;
	uint64_t told_ms;   /* last BLOCK_JOB_PROGRESS */
	bool has_news;	    /* since then */
	uint64_t stored_ms; /* last put of progress */
	uint64_t pages_stored_ms;
	struct timer timer;
};

/* A page of a job's map as the store knows it. */
struct page {
	struct list in_job;
	uint64_t offset, end;
	bool is_changed;
};

/* A client's question that imaged answers. */
struct query {
	struct waiter waiter;
	char device[NAME_SIZE];
	uint64_t end; /* ALLOCATION: where it ends */
	struct allocation_run *runs;
	size_t runs_count, runs_capacity;
};

struct token {
	char *text;
	struct record_token record; /* owns its arguments */
	struct job *starting;	    /* the job, until it is accepted and stored */
	struct list in_ended;
};

#endif
