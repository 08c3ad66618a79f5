/* SPDX-License-Identifier: Apache-2.0 */
/* What the core wants done, in order.  The core decides; whoever called it performs: store,
 * commit, send, publish.
 *
 * Two classes.  A *prompt* effect (range traffic: reserve, copy, commit, abort, join) promises
 * nothing durable and may be performed at once.  A *settled* effect (a reply, an event, a
 * request to finish) may be performed only after everything that the core asked to store up to
 * that moment is committed; settled effects keep their order among themselves, whatever step
 * they came from.  Store effects of one step are one transaction (of which several may be
 * committed together).
 *
 * Memory: an effect owns its bytes; effects_clear frees all. */
#ifndef SLUICE_BROKER_CORE_EFFECTS_H
#define SLUICE_BROKER_CORE_EFFECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum store_table { /* one LMDB database each; keys as schemas/records.toml says */
	STORE_SETTINGS,
	STORE_DEVICES,
	STORE_JOBS,
	STORE_PROGRESS,
	STORE_MAP_PAGES,
	STORE_EVENTS,
	STORE_TOKENS,
	STORE_TABLES /* how many */
};

enum effect_kind {
	EFFECT_SEND_WORKER,	    /* peer, bytes: one message of the worker's conversation */
	EFFECT_SEND_IMAGED,	    /* peer, bytes */
	EFFECT_REPLY,		    /* client, bytes: the whole packed reply map */
	EFFECT_PUBLISH,		    /* topic, bytes: both frames of an event */
	EFFECT_STORE_PUT,	    /* table, key, bytes */
	EFFECT_STORE_DELETE,	    /* table, key */
	EFFECT_STORE_DELETE_PREFIX, /* table, key: every record whose key begins so */
	/* client, bytes: a packed query-events request (id and arguments), answered from the
	 * store */
	EFFECT_QUERY_EVENTS,
	EFFECT_FORGET_PEER, /* peer: its connection means nothing any more */
};

#define EFFECT_KEY_MAX	 160
#define EFFECT_TOPIC_MAX 192

struct effect {
	enum effect_kind kind;
	bool settled;  /* see above; always for REPLY, PUBLISH and QUERY_EVENTS */
	uint64_t peer; /* or the client's handle */
	enum store_table table;
	unsigned char key[EFFECT_KEY_MAX];
	size_t key_length;
	char topic[EFFECT_TOPIC_MAX];
	unsigned char *bytes;
	size_t length;
};

struct effects {
	struct effect *items;
	size_t count, capacity;
};

void effects_init(struct effects *effects);
void effects_done(struct effects *effects);  /* frees all */
void effects_clear(struct effects *effects); /* empties, keeps the room */
/* A new effect at the end, zeroed but for kind and settled; the pointer lives until the next
 * add. */
struct effect *effects_add(struct effects *effects, enum effect_kind kind, bool settled);

#endif
