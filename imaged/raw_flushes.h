/* SPDX-License-Identifier: Apache-2.0 */
/* Flushes of a raw leaf, one at a time: whoever came before one began is served by it (guest_raw.c). */
#ifndef SLUICE_IMAGED_RAW_FLUSHES_H
#define SLUICE_IMAGED_RAW_FLUSHES_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct raw_flushes {
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t served;
	uint64_t asked, done; /* how many */
	bool is_running;
};

#endif
