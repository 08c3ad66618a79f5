/* SPDX-License-Identifier: Apache-2.0 */
/* Packs messages and records, and appends the effects. */
#include "broker/core/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "broker/core/state.h"
#include "common/check.h"

static void attach_bytes(struct effect *effect, const struct wire_buffer *buffer)
{
	effect->bytes = must_calloc(1, buffer->length ? buffer->length : 1);
	memcpy(effect->bytes, buffer->bytes, buffer->length);
	effect->length = buffer->length;
}

void send_to_worker_peer(struct core *core, uint64_t peer, const struct broker_to_worker *message)
{
	struct effect *effect;

	if (peer == 0)
		return;
	wire_buffer_clear(&core->buffer);
	broker_to_worker_encode(message, &core->buffer);
	effect = effects_add(core->effects, EFFECT_SEND_WORKER, false);
	effect->peer = peer;
	attach_bytes(effect, &core->buffer);
}

void send_to_worker(
	struct core *core, const struct worker *worker, const struct broker_to_worker *message)
{
	send_to_worker_peer(core, worker->peer.number, message);
}

static void send_imaged(
	struct core *core, uint64_t peer, const struct broker_to_imaged *message, bool settled)
{
	struct effect *effect;

	if (peer == 0)
		return;
	wire_buffer_clear(&core->buffer);
	broker_to_imaged_encode(message, &core->buffer);
	effect = effects_add(core->effects, EFFECT_SEND_IMAGED, settled);
	effect->peer = peer;
	attach_bytes(effect, &core->buffer);
}

void send_to_imaged_peer(struct core *core, uint64_t peer, const struct broker_to_imaged *message)
{
	send_imaged(core, peer, message, false);
}

void send_to_imaged(
	struct core *core, const struct imaged *imaged, const struct broker_to_imaged *message)
{
	send_imaged(core, imaged->peer.number, message, false);
}

void send_to_imaged_settled(
	struct core *core, const struct imaged *imaged, const struct broker_to_imaged *message)
{
	send_imaged(core, imaged->peer.number, message, true);
}

void forget_peer(struct core *core, uint64_t peer)
{
	effects_add(core->effects, EFFECT_FORGET_PEER, false)->peer = peer;
}

static void put_be64(unsigned char *bytes, uint64_t number)
{
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)(number >> (56 - 8 * i));
}

struct store_key store_key_of(uint64_t number)
{
	struct store_key key = {.length = 8};

	put_be64(key.bytes, number);
	return key;
}

struct store_key store_key_of_two(uint64_t first, uint64_t second)
{
	struct store_key key = {.length = 16};

	put_be64(key.bytes, first);
	put_be64(key.bytes + 8, second);
	return key;
}

static struct effect *store_effect(struct core *core, enum effect_kind kind, enum store_table table,
	const void *key, size_t key_length)
{
	struct effect *effect = effects_add(core->effects, kind, false);

	bug_if(key_length > sizeof(effect->key));
	effect->table = table;
	memcpy(effect->key, key, key_length);
	effect->key_length = key_length;
	return effect;
}

void store_put(struct core *core, enum store_table table, const void *key, size_t key_length)
{
	attach_bytes(store_effect(core, EFFECT_STORE_PUT, table, key, key_length), &core->buffer);
}

void store_delete(struct core *core, enum store_table table, const void *key, size_t key_length)
{
	store_effect(core, EFFECT_STORE_DELETE, table, key, key_length);
}

void store_delete_prefix(
	struct core *core, enum store_table table, const void *key, size_t key_length)
{
	store_effect(core, EFFECT_STORE_DELETE_PREFIX, table, key, key_length);
}
