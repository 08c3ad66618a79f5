/* SPDX-License-Identifier: Apache-2.0 */
/* Two hash tables with chains over the same entries, by number and by address, and a list from the most to the least
 * recently used.  Peers choose their routing ids, so the address is hashed with a secret of this process. */
#include "broker/peers.h"

#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/random.h"

struct entry {
	uint64_t number;
	struct entry *next_by_number, *next_by_address;
	struct entry *newer, *older;
	bool has_address_chain;
	uint64_t hash;
	size_t length;
	unsigned char bytes[];
};

struct peers {
	uint64_t *next_number;
	uint64_t secret;
	size_t most, count, buckets; /* buckets: a power of two */
	struct entry **by_number, **by_address;
	struct entry *newest, *oldest;
};

struct peers *peers_new(size_t most, uint64_t *next_number)
{
	struct peers *peers = must_calloc(1, sizeof(*peers));

	peers->next_number = next_number;
	peers->secret = random_id();
	peers->most = most;
	peers->buckets = 64;
	while (peers->buckets < most)
		peers->buckets *= 2;
	peers->by_number = must_calloc(peers->buckets, sizeof(*peers->by_number));
	peers->by_address = must_calloc(peers->buckets, sizeof(*peers->by_address));
	return peers;
}

void peers_free(struct peers *peers)
{
	struct entry *entry;

	if (!peers)
		return;
	for (entry = peers->newest; entry;) {
		struct entry *older = entry->older;

		free(entry);
		entry = older;
	}
	free(peers->by_number);
	free(peers->by_address);
	free(peers);
}

static uint64_t hash_of(const struct peers *peers, const unsigned char *bytes, size_t length)
{
	uint64_t hash = peers->secret;

	for (size_t i = 0; i < length; i++) {
		hash = (hash ^ bytes[i]) * 0x9e3779b97f4a7c15ULL;
		hash ^= hash >> 29;
	}
	return hash;
}

static struct entry **bucket(const struct peers *peers, struct entry **table, uint64_t hash)
{
	return &table[hash & (peers->buckets - 1)];
}

static void take_out_of_use(struct peers *peers, struct entry *entry)
{
	*(entry->newer ? &entry->newer->older : &peers->newest) = entry->older;
	*(entry->older ? &entry->older->newer : &peers->oldest) = entry->newer;
}

static void put_into_use(struct peers *peers, struct entry *entry)
{
	entry->newer = NULL;
	entry->older = peers->newest;
	*(peers->newest ? &peers->newest->newer : &peers->oldest) = entry;
	peers->newest = entry;
}

static void forget(struct peers *peers, struct entry *entry)
{
	struct entry **link = bucket(peers, peers->by_number, entry->number);

	while (*link != entry)
		link = &(*link)->next_by_number;
	*link = entry->next_by_number;
	if (entry->has_address_chain) {
		link = bucket(peers, peers->by_address, entry->hash);
		while (*link != entry)
			link = &(*link)->next_by_address;
		*link = entry->next_by_address;
	}
	take_out_of_use(peers, entry);
	peers->count--;
	free(entry);
}

static struct entry *add(struct peers *peers, const void *bytes, size_t length)
{
	struct entry *entry = must_calloc(1, sizeof(*entry) + length);
	struct entry **chain;

	if (peers->count == peers->most)
		forget(peers, peers->oldest);
	entry->number = ++*peers->next_number;
	entry->length = length;
	if (length)
		memcpy(entry->bytes, bytes, length);
	chain = bucket(peers, peers->by_number, entry->number);
	entry->next_by_number = *chain;
	*chain = entry;
	put_into_use(peers, entry);
	peers->count++;
	return entry;
}

uint64_t peers_number(struct peers *peers, const void *bytes, size_t length)
{
	uint64_t hash = hash_of(peers, bytes, length);
	struct entry **chain = bucket(peers, peers->by_address, hash);
	struct entry *entry;

	for (entry = *chain; entry; entry = entry->next_by_address) {
		if (entry->length != length || memcmp(entry->bytes, bytes, length) != 0)
			continue;
		take_out_of_use(peers, entry);
		put_into_use(peers, entry);
		return entry->number;
	}
	entry = add(peers, bytes, length);
	entry->hash = hash;
	entry->has_address_chain = true;
	entry->next_by_address = *chain;
	*chain = entry;
	return entry->number;
}

uint64_t peers_add(struct peers *peers, const void *bytes, size_t length)
{
	return add(peers, bytes, length)->number;
}

static struct entry *find(const struct peers *peers, uint64_t number)
{
	struct entry *entry = *bucket(peers, peers->by_number, number);

	while (entry && entry->number != number)
		entry = entry->next_by_number;
	return entry;
}

bool peers_find(struct peers *peers, uint64_t number, struct peer_address *ret_address)
{
	const struct entry *entry = find(peers, number);

	if (!entry)
		return false;
	*ret_address = (struct peer_address){entry->bytes, entry->length};
	return true;
}

void peers_forget(struct peers *peers, uint64_t number)
{
	struct entry *entry = find(peers, number);

	if (entry)
		forget(peers, entry);
}

size_t peers_count(const struct peers *peers)
{
	return peers->count;
}
