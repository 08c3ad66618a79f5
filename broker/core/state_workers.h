/* SPDX-License-Identifier: Apache-2.0 */
/* Realms, workers, and what ties a worker to images: joins and leases. */
#ifndef SLUICE_BROKER_CORE_STATE_WORKERS_H
#define SLUICE_BROKER_CORE_STATE_WORKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/list.h"
#include "broker/core/state_common.h"
#include "broker/core/timers.h"
#include "schemas/types.gen.h"

/* Whose devices and workers fit together.  Lives as long as it has a worker or an active device. */
struct realm {
	char name[NAME_SIZE];
	struct list workers;
	struct list devices; /* those with a job that wants workers */
};

#define INCARNATIONS_BEFORE 8

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
	struct id_list stray_joins;   /* it was told to leave them, and has not said that it did */
	struct list leases;
	size_t in_hands;	   /* leases that use its credit */
	uint64_t progress_ms;	   /* when a copying thread of it last got further */
	uint64_t idle_since_ms;	   /* meaningful while in_hands is 0 */
	uint64_t ranges, bytes;	   /* copied so far */
	const struct device *mark; /* of a search under way */
	struct timer timer;	   /* its heartbeat */
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
	bool is_ahead;	     /* lay beyond what was scanned when it was reserved */
	bool has_report;     /* COPIED, or a CLAIMED one that reported already */
	uint64_t reported_bytes;
	struct guest_range *zeroes;
	size_t zeroes_count;
	struct timer timer;
};

#endif
