/* SPDX-License-Identifier: Apache-2.0 */
/* Imageds, the devices that they hold, and what they were asked. */
#ifndef SLUICE_BROKER_CORE_STATE_IMAGES_H
#define SLUICE_BROKER_CORE_STATE_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/list.h"
#include "broker/core/state_common.h"
#include "broker/core/timers.h"
#include "schemas/records.gen.h"

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
	uint64_t challenger;	  /* peer that claims this name as a new incarnation; 0: none */
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

#endif
