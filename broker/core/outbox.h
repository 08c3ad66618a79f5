/* SPDX-License-Identifier: Apache-2.0 */
/* How the core says what it wants done: messages packed into effects, records into the store. */
#ifndef SLUICE_BROKER_CORE_OUTBOX_H
#define SLUICE_BROKER_CORE_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/core.h"

struct worker;
struct imaged;

/* To a peer by its number; a number of 0 is nobody, and nothing is sent. */
void send_to_worker_peer(struct core *core, uint64_t peer, const struct broker_to_worker *message);
void send_to_worker(
	struct core *core, const struct worker *worker, const struct broker_to_worker *message);
void send_to_imaged_peer(struct core *core, uint64_t peer, const struct broker_to_imaged *message);
void send_to_imaged(
	struct core *core, const struct imaged *imaged, const struct broker_to_imaged *message);
/* Only after all that was asked to be stored is committed. */
void send_to_imaged_settled(
	struct core *core, const struct imaged *imaged, const struct broker_to_imaged *message);
void forget_peer(struct core *core, uint64_t peer);

/* A key of one or two numbers, as be64 each. */
struct store_key {
	unsigned char bytes[16];
	size_t length;
};
struct store_key store_key_of(uint64_t number);
struct store_key store_key_of_two(uint64_t first, uint64_t second);

/* Stores what stands in core->buffer. */
void store_put(struct core *core, enum store_table table, const void *key, size_t key_length);
void store_delete(struct core *core, enum store_table table, const void *key, size_t key_length);
void store_delete_prefix(
	struct core *core, enum store_table table, const void *key, size_t key_length);

#endif
