/* SPDX-License-Identifier: Apache-2.0 */
/* The broker's mind: jobs, devices, workers, leases.  PURE: (state, now, input) -> effects.  It
 * opens nothing, asks no clock, rolls no dice, logs nothing; so whole histories are simulated in
 * a test with a seed.
 *
 * Peers and clients are numbers that the shell gives to connections; a number is never used
 * twice.  Time is struct core_time: monotonic milliseconds for deadlines, real microseconds for
 * timestamps.  Every function appends to `effects`. */
#ifndef SLUICE_BROKER_CORE_CORE_H
#define SLUICE_BROKER_CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/effects.h"
#include "common/attributes.h"
#include "common/err.h"
#include "schemas/imaged_broker.gen.h"
#include "schemas/wire.h"
#include "schemas/worker_broker.gen.h"

struct core;

struct core_time {
	uint64_t now_ms;  /* monotonic */
	uint64_t real_us; /* since 1970 */
};

struct core_options {
	uint64_t peer_timeout_ms; /* a peer is lost so long after its last message, default 5000 */
	uint64_t lease_ms;	  /* a lease without progress is revoked; default 15000 */
	uint64_t heartbeat_ms;	  /* between us and each peer, default 1000 */
	uint64_t event_log;	  /* durable events kept; default 100000 */
	uint64_t new_epoch;	  /* used where the store is new: a random number */
	bool has_speed;		  /* --speed given: replaces the stored budget */
	uint64_t speed;
	uint64_t floor;	    /* of jobs that name none: bytes a second */
	uint64_t map_bytes; /* of a job's work that are known at a time; 0: 512 MiB */
	const char *version; /* "0.1.0" */
};

struct core *core_new(const struct core_options *options);
void core_free(struct core *core);

/* At start: every stored record once, tables in any order; then core_started.  0, or -1 and err
 * (a record that cannot be read, or of a newer format: the broker does not start). */
int MUST_CHECK core_load(struct core *core, enum store_table table, const void *key,
	size_t key_length, const void *bytes, size_t length, struct err *err);
/* All is loaded: draws the generation, resumes jobs.  A new store gets its settings record. */
int MUST_CHECK core_started(
	struct core *core, struct core_time time, struct effects *effects, struct err *err);

/* One client request, as its bytes came (anything at all); answered with exactly one REPLY or
 * QUERY_EVENTS for `client`, now or later. */
void core_client_request(struct core *core, struct core_time time, uint64_t client,
	const void *bytes, size_t length, struct effects *effects);
/* A message from a worker's or imaged's connection, decoded; NULL where it could not be decoded
 * (a stranger is told to say hello, a known peer is treated as lost). */
void core_worker_message(struct core *core, struct core_time time, uint64_t peer,
	const struct worker_to_broker *message, struct effects *effects);
void core_imaged_message(struct core *core, struct core_time time, uint64_t peer,
	const struct imaged_to_broker *message, struct effects *effects);
/* A send to the peer failed: it is gone, or its queue is full. */
void core_peer_unreachable(
	struct core *core, struct core_time time, uint64_t peer, struct effects *effects);
/* Whatever is due; returns when it wants to be called again (monotonic ms). */
uint64_t core_tick(struct core *core, struct core_time time, struct effects *effects);

/* Figures for the reply to query-events. */
uint64_t core_epoch(const struct core *core);
uint64_t core_first_seq(const struct core *core); /* oldest in the store, 0: none */
uint64_t core_last_seq(const struct core *core);

#endif
