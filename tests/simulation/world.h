/* SPDX-License-Identifier: Apache-2.0 */
/* A world in one process, on a clock and with dice of its own: the broker's real core among
 * imageds, workers, clients, a store and a network that are little models.  Everything that can
 * go wrong outside the core goes wrong here by chance, and the same seed gives the same history.
 *
 *     clients --requests--> | core | <--messages, late, doubled, cut--> workers --copy--> images
 *                           |      | <------------------------------> imageds --map---> images
 *                           store: what is committed survives the broker
 *
 * What must hold in every step is checked in watch.c and images.c. */
#ifndef SLUICE_TESTS_SIMULATION_WORLD_H
#define SLUICE_TESTS_SIMULATION_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/core/core.h"
#include "common/attributes.h"
#include "tests/simulation/models.h"

#define WORKERS 3
#define IMAGEDS 2

/* ---- dice */

struct dice {
	uint64_t state;
};
uint64_t dice_roll(struct dice *dice);
/* 0 to below - 1 */
uint64_t dice_below(struct dice *dice, uint64_t below);
/* True in `percent` of 100 cases... */
bool dice_percent(struct dice *dice, unsigned percent);
/* ... of 1000. */
bool dice_permille(struct dice *dice, unsigned permille);

/* ---- what happens when */

struct world;

typedef void happening(struct world *world, void *about, uint64_t number);

struct occasion {
	uint64_t due_ms, order;
	happening *happens;
	void *about;
	uint64_t number;
};

/* ---- clients */

struct model_request {
	uint64_t client;
	char text[96];
	bool is_stream;
	char device[NAME_ROOM], job[NAME_ROOM], token[NAME_ROOM];
};

/* ---- the world */

struct faults {
	unsigned reset, late, doubled, lost;			      /* per 1000 messages */
	unsigned worker_kill, worker_sleep, imaged_kill, broker_kill; /* per 1000 turns */
	unsigned copy_fails, join_fails, device_fails, no_space;
	unsigned imaged_says_no;
	unsigned lies;
};

struct watch;

struct world {
	uint64_t seed;
	struct dice dice;
	uint64_t now_ms;
	uint64_t order;
	struct occasion *occasions; /* a heap */
	size_t occasions_count, occasions_capacity;
	uint64_t steps;
	bool is_verbose;
	bool is_calm;	/* no more faults */
	bool has_liars; /* peers say what is not so: only the broker's life counts */
	struct faults faults;

	struct image images[IMAGES];
	struct model_worker workers[WORKERS];
	struct model_imaged imageds[IMAGEDS];
	unsigned workers_count, imageds_count, images_count;
	uint64_t last_peer, last_incarnation, last_client;

	struct broker_host *broker;
	struct watch *watch;
	struct model_request requests[64]; /* not answered yet */
	unsigned tokens;
};

void at(struct world *world, uint64_t delay_ms, happening *happens, void *about, uint64_t number);
void say(struct world *world, const char *format, ...) PRINTF_LIKE(2, 3);
/* The history has shown a fault: says what, and how to see it again. */
void wrong(struct world *world, const char *format, ...) PRINTF_LIKE(2, 3) NORETURN;

#endif
