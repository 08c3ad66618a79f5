/* SPDX-License-Identifier: Apache-2.0 */
/* A named live image: its chain, who may write to it, and what is reserved in it.
 *
 * Who may do what: requests of the broker run on the device's strand, one at a time, and own everything that is not said to be
 * guarded.  The control thread reads what `lock` guards (for its hello).  Guests' threads (guest.h) are inside `gate` while they use
 * `live`, the leaf's engine (it locks itself) and device_touch.  `lock` is never held across I/O.
 *
 *   closed ──attach──▶ open ──a flush or metadata write fails──▶ failed
 *      ▲───────────────detach / attach anew──────────────────────────┘
 *
 * An open device can't be detached under a guest.  A failed one can: what its guests ask is held back from then on, until it is
 * attached anew or too long a time has passed. */
#ifndef SLUICE_IMAGED_DEVICE_H
#define SLUICE_IMAGED_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/roots.h"
#include "imaged/description.h"
#include "imaged/guest_activity.h"
#include "imaged/gate.h"
#include "imaged/join.h"
#include "imaged/lease.h"
#include "imaged/live_chain.h"
#include "imaged/raw_flushes.h"
#include "imaged/strand.h"
#include "imaged/trouble.h"

#define DEVICE_NAME_MAX 64
/* Clusters of workers that were lost and not yet proved to be gone: at this many bytes no more is reserved. */
#define DEVICE_QUARANTINE_MAX (UINT64_C(1) << 30)

struct device_host;
struct keeper;
struct stream;
struct write_log;

/* Which file a device has; guarded by the host's lock. */
struct device_file {
	bool is_claimed;
	dev_t device;
	ino_t inode;
	dev_t block_device; /* 0: a regular file */
};

enum device_phase { DEVICE_CLOSED, DEVICE_OPEN, DEVICE_FAILED };

struct device {
	struct device_host *host;
	char name[DEVICE_NAME_MAX + 1];
	struct strand *strand;
	uint64_t first_id; /* ids of joins and leases: this and up, never used twice */
	atomic_uint_fast64_t ids_drawn;
	struct device_file file;
	unsigned requests;		/* the control thread's: posted and not yet answered */
	atomic_bool needs_tidying;	/* something waits for a lock byte to become free */
	atomic_bool is_tidying;		/* a device_tidy is posted */
	struct guest_activity activity; /* guards itself */
	uint64_t guests_seen_ms;   /* the control thread's, and the two next: last look at activity */
	bool has_told_load;	   /* the broker does not know yet that the guest is silent */
	struct guest_load unheard; /* of the last look while no job was open */

	unsigned guests;    /* clients connected; guarded by the host's lock, as is the next */
	bool admits_guests; /* more may come */
	struct gate gate;   /* each of their requests is inside; what follows changes only while it is closed */
	bool is_served;	    /* `live` is there */
	uint64_t guest_size;
	struct device_file guest_file; /* which it is: a guest stays with the file that it was connected to */
	uint64_t failures; /* how often it was closed after what guests were answered for may have been lost */
	atomic_uint_fast64_t held_until_ms; /* the strand keeps the gate closed, at most so long; 0: it does not */
	int raw_fd; /* a raw leaf that guests write to; -1: there is none */
	struct raw_flushes raw_flushes;
	atomic_bool has_raw_failed;	    /* a flush of it failed: nothing more is written until it is opened anew */
	pthread_mutex_t writes_lock;	    /* who begins writes */
	atomic_bool has_writes;		    /* they are begun (device_writes.h), and these are there: */
	struct write_log *write_log;
	struct keeper *keeper;
	bool keeps_log;		    /* when it is closed */
	atomic_bool copies_on_read; /* as attached */
	atomic_bool is_suspect;		    /* a guest's request failed: the strand is to see whether the device did */
	atomic_uint_fast64_t complained_ms; /* when a guest's error was last logged */

	enum device_phase phase;
	struct live_chain live;	   /* unless closed; so are all below */
	struct qcow2 *leaf;	   /* NULL: a raw leaf, or read-only */
	struct lease_table leases; /* guards itself */
	uint64_t *
		late_bytes; /* lock bytes of workers of an earlier life, held when the leaf was opened */
	size_t late_count;

	pthread_mutex_t lock;		 /* guards what follows: the strand alone changes it */
	struct description *description; /* NULL: closed */
	bool has_failed;		 /* the phase, for who only has the lock */
	struct join_table joins;
	struct stream *stream; /* the job; NULL: none */
};

struct device_attach {
	const char *file;
	const char *format; /* NULL: by the magic */
	bool copy_on_read, read_only;
};

struct device *device_new(struct device_host *host, const char *name);
/* Nothing is posted for it.  Closes it on its strand if that was not done, and waits for that. */
void device_free(struct device *device);
/* Any thread: lets the strand close it. */
void device_post_close(struct device *device);

/* On the strand, like all below.  Attaching the same file again is done already; a failed device is opened anew. 0, or -1 and
 * trouble. */
int MUST_CHECK device_attach(
	struct device *device, const struct device_attach *attach, struct trouble *trouble);
/* Gives back what is not used, closes.  0 (also when it was closed), or -1 while it is good and a job is open on it, a guest is
 * connected, or what guests wrote finds no room or cannot be flushed. */
int MUST_CHECK device_detach(struct device *device, struct trouble *trouble);
/* Once held_until_ms is over: guests of a device that was not attached anew get errors instead of waiting. */
void device_stop_holding(struct device *device);
/* Without asking: revokes everything and closes.  The gate is closed, or no guest is there. */
void device_close(struct device *device);

/* 0 if the device is open; -1 and err if it is closed or has failed. */
int MUST_CHECK device_check_open(const struct device *device, struct err *err);
/* Inside the gate, too: whether the engine gave the image up. */
bool device_has_failed(struct device *device);
/* Whether it did since this was last asked: then err says so, once. */
bool device_notice_failure(struct device *device, struct err *err);
/* Makes the description anew after the chain changed. */
void device_describe(struct device *device);
/* Gives zone space that is not used back to the file system, and what leaked in an earlier life if nobody can write there. */
void device_trim(struct device *device);
/* The same, unless guests are connected: they would wait for new space.  It is done when the last has left. */
void device_trim_if_idle(struct device *device);
/* Ends quarantines whose lock byte has become free; sets needs_tidying. */
void device_tidy(struct device *device);

uint64_t device_draw_id(struct device *device);
/* Any thread: whether it drew this id. */
bool device_has_drawn(const struct device *device, uint64_t id);

/* Any thread: whether something a guest asked for may be logged as gone wrong: not more often than once a second. */
bool device_may_complain(struct device *device);
/* Any thread: the guest begins to change these bytes; no reservation made before may be mapped there. */
void device_touch(struct device *device, uint64_t offset, uint64_t length);

#endif
