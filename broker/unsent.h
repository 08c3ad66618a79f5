/* SPDX-License-Identifier: Apache-2.0 */
/* Replies whose client has its queue full for the moment: a client may send thousands of requests before it reads a reply.  They are
 * tried again soon, oldest first.
 *
 * At most so many bytes are kept, and none longer than so many milliseconds; what is beyond is dropped, oldest first: its client does
 * not read.  One client has at most so many, so that one that never reads takes no room from the others; what it gets beyond is
 * dropped at once. */
#ifndef SLUICE_BROKER_UNSENT_H
#define SLUICE_BROKER_UNSENT_H

#include <stddef.h>
#include <stdint.h>

struct unsent;

/* Tries once: whether the reply is dealt with (it left, or its client is gone). */
typedef int unsent_try(void *owner, uint64_t number, const void *bytes, size_t length);
/* The reply is given up. */
typedef void unsent_drop(void *owner, uint64_t number);

struct unsent_options {
	size_t bytes_max;
	size_t client_max; /* replies of one client */
	uint64_t age_max_ms;
	unsent_try *try_to_send;
	unsent_drop *drop;
	void *owner;
};

struct unsent *unsent_new(const struct unsent_options *options);
void unsent_free(struct unsent *unsent);
/* Copies the bytes.  `client`: a hash of who it is (two with the same hash in the last ten bits share what one may have). */
void unsent_add(struct unsent *unsent, uint64_t now_ms, uint32_t client, uint64_t number,
	const void *bytes, size_t length);
/* Tries those that are due.  When to be called again, UINT64_MAX for never. */
uint64_t unsent_retry(struct unsent *unsent, uint64_t now_ms);
size_t unsent_count(const struct unsent *unsent);

#endif
