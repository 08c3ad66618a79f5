/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers for addresses.  A connection (or a request that waits for its reply) has an address, bytes that only the socket
 * understands; the core knows it by a number that is never used twice.
 *
 * At most so many are known; the one unused for longest is forgotten for a new one.  Who is forgotten gets a new number with its next
 * message: the core then asks it to say hello. */
#ifndef SLUICE_BROKER_PEERS_H
#define SLUICE_BROKER_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct peers;

struct peer_address { /* lives until the peer is forgotten */
	const unsigned char *bytes;
	size_t length;
};

/* `next_number` is shared by all tables whose numbers may not meet. */
struct peers *peers_new(size_t most, uint64_t *next_number);
void peers_free(struct peers *peers);

/* The number of that address, a new one if it has none. */
uint64_t peers_number(struct peers *peers, const void *bytes, size_t length);
/* A new number, even if the address has one already: for requests, each of which is answered by itself. */
uint64_t peers_add(struct peers *peers, const void *bytes, size_t length);
/* Whether the number is known. */
bool peers_find(struct peers *peers, uint64_t number, struct peer_address *ret_address);
void peers_forget(struct peers *peers, uint64_t number);
size_t peers_count(const struct peers *peers);

#endif
