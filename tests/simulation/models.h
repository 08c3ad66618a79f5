/* SPDX-License-Identifier: Apache-2.0 */
/* The models of images and of the processes that work on them. */
#ifndef SLUICE_TESTS_SIMULATION_MODELS_H
#define SLUICE_TESTS_SIMULATION_MODELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schemas/imaged_broker.gen.h"
#include "schemas/worker_broker.gen.h"

struct world;

#define IMAGES	     4
#define CLUSTERS_MAX 48
#define CLUSTER	     65536
#define HOSTS_MAX    4096
#define LEASES_MAX   512
#define JOINS_MAX    256
#define NAME_ROOM    24

/* ---- images: what is on disk, and what a guest must read */

enum cluster_place { PLACE_NONE, PLACE_HOST, PLACE_ZERO };
enum layer_content {
	LAYER_HOLE,
	LAYER_CONTENT, /* the dropped layer holds data */
	LAYER_HIDES,   /* the dropped layer ends there, a kept one has data */
};

struct image {
	char device[NAME_ROOM], file[NAME_ROOM];
	unsigned clusters;
	enum cluster_place place[CLUSTERS_MAX];
	unsigned host[CLUSTERS_MAX];
	enum layer_content layer[CLUSTERS_MAX];
	unsigned layer_value[CLUSTERS_MAX];
	unsigned must_read[CLUSTERS_MAX];
	unsigned hosts;
	unsigned host_value[HOSTS_MAX];
	bool host_in_use[HOSTS_MAX];
	bool is_switched; /* the header names what is kept only */
	unsigned last_value;
};

void image_make(struct world *world, struct image *image, unsigned number);
/* It gets a new backing file, as after a snapshot: something is to be streamed again. */
void image_renew(struct world *world, struct image *image);
unsigned image_read(const struct image *image, unsigned cluster);
/* Whether the job has to do something there. */
bool image_needs(const struct image *image, unsigned cluster);
/* A cluster of the file that nothing uses, in use from now on. */
unsigned image_allocate(struct image *image);
/* The guest reads what it must.  Fails the history if not. */
void image_check(struct world *world, const struct image *image);

/* ---- processes */

enum process_kind { PROCESS_WORKER, PROCESS_IMAGED };

/* What worker and imaged have in common: a life, a connection, a link. */
struct process {
	enum process_kind kind;
	char name[NAME_ROOM];
	bool is_alive;
	uint64_t incarnation;
	uint64_t peer;	       /* its connection; 0: none */
	uint64_t last_sent_ms; /* delivery time of the last message each way: order is kept */
	uint64_t last_got_ms;
	bool is_welcome;
	uint64_t heard_ms;
	uint64_t asleep_until_ms;
	bool is_leaving; /* said goodbye */
	bool lost_order; /* messages to it may have been lost, or passed one another: a connection
			  * broke in this life, or it slept */
};

struct model_join {
	uint64_t id; /* 0: free */
	struct image *image;
	char worker[NAME_ROOM];
	uint64_t worker_incarnation;
	bool is_confirmed, has_ended;
};

struct model_lease {
	uint64_t id; /* 0: free */
	struct image *image;
	uint64_t join;
	char job[NAME_ROOM];
	unsigned first, clusters;
	unsigned host[CLUSTERS_MAX];
	bool is_touched[CLUSTERS_MAX];
	bool is_quarantined;
	bool is_repeat; /* of a request that came twice: the core never heard of it, or closes it */
};

struct open_image {
	struct image *image; /* NULL: not attached */
	bool has_failed;
	char job[NAME_ROOM]; /* open; empty: none */
};

struct model_imaged {
	struct process process;
	uint64_t last_id;
	uint64_t newest_reserve; /* its number */
	struct open_image open[IMAGES];
	struct model_join joins[JOINS_MAX];
	struct model_lease leases[LEASES_MAX];
};

struct held_join {
	uint64_t id; /* 0: free */
	struct image *image;
};

enum work_state { WORK_FREE, WORK_WAITS, WORK_RUNS, WORK_REPORTED };

struct held_work {
	enum work_state state;
	uint64_t lease, join;
	struct image *image;
	unsigned first, clusters, done;
	unsigned host[CLUSTERS_MAX];
	bool is_zero[CLUSTERS_MAX];
	enum worker_to_broker_type report;
};

#define WORKS_MAX 64
#define SEEN_MAX  4096

struct model_worker {
	struct process process;
	unsigned slots;
	uint64_t generation; /* of the broker that welcomed it */
	struct held_join joins[JOINS_MAX];
	struct held_work works[WORKS_MAX];
	uint64_t seen[SEEN_MAX]; /* leases of this incarnation */
	size_t seen_count;
};

#endif
