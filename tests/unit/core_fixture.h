/* SPDX-License-Identifier: Apache-2.0 */
/* A stage for the broker's core: one honest imaged whose devices are nothing but work, workers
 * that copy at a given pace, and the test as the only client.  Nothing is late and nothing
 * fails; the clock jumps from one thing to the next. */
#ifndef SLUICE_TESTS_UNIT_CORE_FIXTURE_H
#define SLUICE_TESTS_UNIT_CORE_FIXTURE_H

#include "broker/core/core.h"
#include "schemas/client_broker.gen.h"
#include "schemas/wire.h"

#define STAGE_DEVICES 8
#define STAGE_WORKERS 8
#define STAGE_ORDERS  64
#define STAGE_ASKED   256 /* reservations whose ranges are kept */
#define STAGE_RECORDS 64
#define STAGE_MAPPED  64
#define STAGE_CLUSTER 65536
#define STAGE_IMAGED  1 /* peer */
#define STAGE_WORKER  2 /* peer of the first worker */

struct stage_device {
	char name[16], file[32];
	uint64_t size, copied; /* bytes */
	uint64_t run_bytes;    /* longest run of a page; 0: any */
};

struct stage_worker {
	char name[16];
	uint64_t slots, speed; /* bytes per second of one slot */
	uint64_t joins[STAGE_DEVICES];
	uint64_t in_hands, most_in_hands;
	uint64_t busy_until_ms[8];
};

struct stage_order {
	uint64_t lease, worker, device, offset, length, due_ms, took_ms; /* lease 0: free */
};

struct stage_record { /* of the store; length 0: free */
	enum store_table table;
	unsigned char key[EFFECT_KEY_MAX];
	size_t key_length;
	unsigned char bytes[4096];
	size_t length;
};

struct stage {
	struct core_options options;
	struct core *core;
	uint64_t now_ms, tick_ms;
	struct effects waiting;
	struct stage_device devices[STAGE_DEVICES];
	struct stage_worker workers[STAGE_WORKERS];
	struct stage_order orders[STAGE_ORDERS];
	size_t devices_count, workers_count;
	uint64_t last_id, last_client, ranges, incarnation;
	uint64_t longest_range, latest_range;
	struct guest_range
		asked[STAGE_ASKED]; /* of imaged, the first ones since asked_count was 0 */
	size_t asked_count;
	uint64_t holds_from; /* reservations from there on are not answered; 0: all are */
	bool holds_pages;    /* pages of maps are not told */
	size_t pages_asked;
	bool notes_mapped; /* what is copied from now on shows in pages of maps */
	struct guest_range mapped[STAGE_MAPPED];
	size_t mapped_count;
	struct stage_record records[STAGE_RECORDS]; /* all but events and pages of maps */
	unsigned char reply[65536];
	size_t reply_length;
};

struct core_time stage_time(const struct stage *stage);
/* Until nothing follows from what happened. */
void stage_settle(struct stage *stage);
void stage_run(struct stage *stage, uint64_t ms);
void stage_begin(struct stage *stage, const struct core_options *options);
void stage_end(struct stage *stage);
void stage_add_device(struct stage *stage, uint64_t size, uint64_t run_bytes);
/* The broker and its imaged die and begin anew with what is in the store; workers are gone. */
void stage_restart(struct stage *stage);
/* After all devices are there. */
void stage_add_imaged(struct stage *stage);
/* Its connection breaks. */
void stage_lose_worker(struct stage *stage, uint64_t worker);
void stage_add_worker(struct stage *stage, uint64_t slots, uint64_t speed);
/* imaged's report of 100 ms of the device's guests. */
void stage_guest(struct stage *stage, const char *device, uint64_t busy_permille,
	const struct guest_range *wanted, size_t count);
/* Asks with packed arguments (NULL: none); what is answered at once is in stage->reply. */
void stage_ask(struct stage *stage, const char *command, const struct wire_buffer *arguments);
void stage_stream(struct stage *stage, const struct cmd_block_stream *arguments);
/* The class of the error in the last reply; "" where it is none, NULL where there is no reply. */
const char *stage_error(const struct stage *stage, const char **ret_desc);

#endif
