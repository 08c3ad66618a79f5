/* SPDX-License-Identifier: Apache-2.0 */
/* Guests: threads that ask a device for everything at random, beside a shadow of its disk, and compare what they read. */
#ifndef SLUICE_TESTS_SUPPORT_GUEST_PLAYERS_H
#define SLUICE_TESTS_SUPPORT_GUEST_PLAYERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "imaged/device_host.h"
#include "tests/support/guest/journal.h"
#include "tests/support/guest/shadow.h"

#define PLAYERS_MAX 32

/* One run of the exerciser. */
struct guest_run {
	struct device_host host;
	struct device *device;
	struct shadow *shadow;
	struct journal *journal; /* NULL: none */
	uint64_t seed, steps;	 /* of each thread */
	unsigned threads;
	bool may_fill; /* the file system may be full: a request may end with ENOSPC */
	const char *
		fails_while; /* half way through, this file is made: flushes fail from then on; NULL: never */
	atomic_bool fails;	/* they do now */
	atomic_bool has_failed; /* and a guest was told */
	atomic_uint working;	/* threads */
	atomic_bool is_wrong;	/* which was printed */
};

/* Prints it. */
void players_wrong(
	struct guest_run *run, const char *what, uint64_t offset, uint64_t length, int number);

struct players;
struct players *players_start(struct guest_run *run);
void players_join(struct players *players);

#endif
