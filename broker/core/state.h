/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that the core knows, and who points at whom.  Only files of this folder include it.
 *
 *     realm -- worker -- join -- device -- imaged          a worker joins a device's leaf, then gets leases there
 *                   \     |     /    |
 *                    `- lease -'    job                    a lease is a range of a job in a worker's hands
 *
 * How a step works: an input changes what it is about and *touches* who may have something to do now; at the end of the
 * step each touched object looks at itself and does what is next (`device_advance`, `job_advance`, `worker_advance`).  So a
 * handler need not know what follows from what it did, and a message that never came is made up for by looking again.
 * What changed durably is stored once, at the very end of the step.
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
#include "broker/core/timers.h"
#include "broker/core/work_map.h"
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
#define INCARNATIONS_BEFORE  8

#define NAME_SIZE 65 /* bytes of a name with its NUL */

/* Whose devices and workers fit together.  Lives as long as it has a worker or an active device. */
struct realm {
	char name[NAME_SIZE];
	struct list workers;
	struct list devices; /* those with a job that wants workers */
};

/* Who is at the other end of a connection; `number` 0: nobody now. */
struct peer {
	uint64_t number;
	struct worker *worker; /* one of the two */
	struct imaged *imaged;
	uint64_t heard_ms;
};

/* A few numbers. */
struct id_list {
	uint64_t *ids;
	size_t count, capacity;
};
bool id_list_has(const struct id_list *list, uint64_t id);
void id_list_add(struct id_list *list, uint64_t id);
void id_list_remove(struct id_list *list, uint64_t id);
void id_list_done(struct id_list *list);

struct worker {
	char name[NAME_SIZE];
	char host[NAME_SIZE];
	uint64_t incarnation;
	uint64_t before[INCARNATIONS_BEFORE]; /* whom it took the name from, the latest first */
	uint64_t slots;
	struct peer peer;
	struct realm *realm;
	struct list in_realm, in_touched;
	bool says_goodbye; /* gets no more orders */
	struct list joins; /* in the order of their making */
	size_t joins_count;
	struct id_list claimed_joins; /* it holds them, and an imaged may yet name them */
	struct id_list
		stray_joins; /* it was told to leave them, and has not said yet that it did */
	struct list leases;
	size_t in_hands;	   /* leases that use its credit */
	uint64_t progress_ms;	   /* when a copying thread of it last got further */
	uint64_t idle_since_ms;	   /* meaningful while in_hands is 0 */
	uint64_t ranges, bytes;	   /* copied so far */
	const struct device *mark; /* of a search under way */
	struct timer timer;	   /* its heartbeat */
};

struct imaged {
	char name[NAME_SIZE];
	char host[NAME_SIZE];
	char realm[NAME_SIZE];
	uint64_t incarnation;
	struct peer peer; /* number 0: away */
	struct list in_core;
	struct list devices;
	struct list requests; /* all that it owes an answer */
	struct list leases;
	struct list gone_devices; /* struct gone_device: detached by force while it was away */
	uint64_t hellos;	  /* counts */
	uint64_t challenger;	  /* peer that claims this name as another incarnation; 0: none */
	uint64_t challenger_incarnation;
	uint64_t challenged_ms;
	struct timer timer;
};

struct gone_device {
	struct list in_imaged;
	uint64_t incarnation;
	char name[NAME_SIZE];
};

struct device {
	struct record_device record; /* owns its strings */
	char *nbd;
	bool is_accepted; /* stored; else a device-attach waits for imaged */
	bool is_online;
	bool is_read_only;
	bool has_failed; /* imaged said so; must be attached anew */
	bool is_detaching;
	bool is_offline_announced;
	uint64_t detaching_since_ms;
	struct imaged *imaged;
	struct realm *realm; /* set while it wants workers */
	struct job *job;     /* the active one, or one that waits to be accepted */
	struct list in_imaged, in_realm, in_touched;
	struct list requests; /* ATTACH, DETACH */
	uint64_t hello;	      /* number of its imaged's hello that named it last */
	struct list waiters;  /* clients */
	struct list joins;
	size_t usable_joins;
	uint64_t idle_since_ms; /* since when no job wants workers */
	uint64_t retry_ms;	/* not attached again before */
	uint64_t retry_delay_ms;
	char *trouble; /* why attaching failed last; NULL: it did not */
	struct timer timer;
};

enum join_state {
	JOIN_PREPARING,	 /* imaged draws it */
	JOIN_JOINING,	 /* the worker opens files */
	JOIN_CONFIRMING, /* imaged compares */
	JOIN_USABLE,
	JOIN_LEAVING,	/* the worker lets go */
	JOIN_REFUSED,	/* nothing is open; tried again later */
	JOIN_UNMATCHED, /* imaged has it open; its worker is awaited */
};

struct join {
	uint64_t id; /* 0 while PREPARING or REFUSED */
	enum join_state state;
	struct device *device;
	struct worker *worker; /* NULL: UNMATCHED */
	char worker_name[NAME_SIZE];
	uint64_t worker_incarnation;
	struct list in_device, in_worker;
	struct list requests; /* PREPARE_JOIN, CONFIRM_JOIN */
	uint64_t hello;	      /* number of its imaged's hello that named it last */
	uint64_t range_bytes; /* how much it takes at a time, as far as is known */
	uint64_t retry_delay_ms;
	struct timer timer;
};

enum lease_state {
	LEASE_RESERVING, /* imaged is asked for clusters; no id yet */
	LEASE_COPYING,	 /* the order was sent */
	LEASE_COPIED,	 /* the worker reported; imaged maps */
	LEASE_REVOKED,	 /* the worker was told to stop, and has not said yet that it did */
	LEASE_ORPHANED,	 /* imaged has it open; its worker is awaited */
	LEASE_CLAIMED,	 /* a worker has it; its imaged is awaited */
};

struct lease {
	uint64_t id;
	enum lease_state state;
	struct job *job;	     /* NULL: CLAIMED, or the job is over */
	struct imaged *imaged;	     /* NULL: CLAIMED */
	struct worker *worker;	     /* NULL: ORPHANED, or the worker is lost */
	struct join *join;	     /* NULL where that is over */
	char worker_name[NAME_SIZE]; /* of an ORPHANED one */
	uint64_t worker_incarnation;
	struct list in_job, in_imaged, in_worker;
	struct list requests; /* RESERVE, COMMIT */
	uint64_t hello;	      /* number of its imaged's hello that named it last */
	struct guest_range range;
	uint64_t charged;    /* bytes taken from the buckets */
	uint64_t renewed_ms; /* order sent, or its last progress */
	bool has_started;    /* made progress */
	bool has_report;     /* COPIED, or a CLAIMED one that reported already */
	uint64_t reported_bytes;
	struct guest_range *zeroes;
	size_t zeroes_count;
	struct timer timer;
};

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
	bool is_released; /* closed there, so that the device can be attached anew; it goes on after that */
	bool is_changed, is_progress_changed;
	struct device *device;
	struct list in_touched, in_changed;
	struct list requests; /* OPEN_JOB, MAP, ZERO, FINISH, CLOSE_JOB */
	struct list leases;   /* all but REVOKED and CLAIMED ones */
	struct list waiters;  /* clients */
	struct work_map map;
	struct list pages; /* struct page: those of the map that stand in the store */
	struct bucket bucket;
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

enum request_kind {
	REQUEST_ATTACH,
	REQUEST_DETACH,
	REQUEST_PLAN,
	REQUEST_ALLOCATION,
	REQUEST_OPEN_JOB,
	REQUEST_MAP,
	REQUEST_PREPARE_JOIN,
	REQUEST_CONFIRM_JOIN,
	REQUEST_END_JOIN,
	REQUEST_RESERVE,
	REQUEST_ZERO,
	REQUEST_COMMIT,
	REQUEST_ABORT,
	REQUEST_FINISH,
	REQUEST_CLOSE_JOB,
};

/* What imaged owes an answer to.  At most one owner is set; none: nobody cares any more. */
struct request {
	uint64_t number;
	enum request_kind kind;
	struct imaged *imaged;
	struct list in_imaged, of_owner;
	struct device *device;
	struct job *job;
	struct join *join;
	struct lease *lease;
	struct query *query;
	struct guest_range range; /* of ZERO, RESERVE, ALLOCATION */
	bool is_lost;		  /* its connection broke: the answer may still come, or not */
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
	struct job *starting;	    /* the job, until it is accepted; not in the store before */
	struct list in_ended;
};

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

/* A name that was checked where it came in. */
void name_copy(char *ret_name, const char *name);
/* An owned copy, or NULL of NULL. */
char *text_copy(const char *text) MUST_CHECK;

#endif
