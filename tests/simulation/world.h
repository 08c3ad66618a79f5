/* SPDX-License-Identifier: Apache-2.0 */
/* A world in one process, on a clock and with dice of its own: the broker's real core among imageds, workers, clients, a
 * store and a network that are little models.  Everything that can go wrong outside the core goes wrong here by chance, and
 * the same seed gives the same history.
 *
 *     clients --requests--> | core | <--messages, late, doubled, cut off--> workers --copy--> images
 *                           |      | <------------------------------------> imageds --map---> images
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
#include "schemas/imaged_broker.gen.h"
#include "schemas/worker_broker.gen.h"

#define IMAGES	     4
#define WORKERS	     3
#define IMAGEDS	     2
#define CLUSTERS_MAX 48
#define CLUSTER	     65536
#define HOSTS_MAX    4096
#define LEASES_MAX   512
#define JOINS_MAX    256
#define NAME_ROOM    24

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
};

struct open_image {
	struct image *image; /* NULL: not attached */
	bool has_failed;
	char job[NAME_ROOM]; /* open; empty: none */
};

struct model_imaged {
	struct process process;
	uint64_t last_id;
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

/* ---- the network (network.c) */

void process_send(struct world *world, struct process *process, struct wire_buffer *message);
/* From the broker.  false: nobody is there. */
bool network_to_peer(struct world *world, uint64_t peer, const void *bytes, size_t length);
void network_cut(struct world *world, struct process *process);
void network_cut_all(struct world *world);
void network_forget(const struct occasion *occasion);
struct process *process_of_peer(struct world *world, uint64_t peer);
/* Every second: heartbeat or hello; and whether the broker is still heard. */
void process_beat(struct world *world, struct process *process);

/* Changes something in a message (lies.c). */
void lie(struct world *world, const struct process *process, struct wire_buffer *message);

/* ---- worker.c, imaged.c */

void worker_start(struct world *world, struct model_worker *worker, uint64_t delay_ms);
void worker_kill(struct world *world, struct model_worker *worker);
void worker_receive(
	struct world *world, struct model_worker *worker, const void *bytes, size_t length);
void worker_say_hello(struct world *world, struct model_worker *worker);
/* Is the lock byte of that join held by anybody? */
bool worker_holds_join(const struct world *world, uint64_t join);
void imaged_start(struct world *world, struct model_imaged *imaged, uint64_t delay_ms);
void imaged_kill(struct world *world, struct model_imaged *imaged);
void imaged_receive(
	struct world *world, struct model_imaged *imaged, const void *bytes, size_t length);
void imaged_say_hello(struct world *world, struct model_imaged *imaged);
void guest_acts(struct world *world, void *about, uint64_t number);

/* ---- broker.c: the core, its effects, its store */

struct broker_host *broker_new(void);
void broker_free(struct broker_host *broker);
void broker_start(struct world *world);
void broker_kill(struct world *world);
bool broker_is_alive(const struct world *world);
void broker_worker_message(struct world *world, uint64_t peer, const void *bytes, size_t length);
void broker_imaged_message(struct world *world, uint64_t peer, const void *bytes, size_t length);
void broker_client_request(struct world *world, uint64_t client, const void *bytes, size_t length);
/* Jobs in the store. */
size_t broker_jobs(const struct world *world);

/* ---- clients.c */

void client_acts(struct world *world, void *about, uint64_t number);
void client_begins(struct world *world, void *about, uint64_t number);
void client_settles(struct world *world, void *about, uint64_t number);
void client_receive(struct world *world, uint64_t client, const void *bytes, size_t length);
void clients_forget(struct world *world);

/* ---- watch.c: what must hold */

struct watch *watch_new(void);
void watch_free(struct watch *watch);
void watch_event_committed(struct world *world, uint64_t seq, const void *bytes, size_t length);
void watch_event_published(
	struct world *world, const char *topic, const void *bytes, size_t length);
void watch_stream_accepted(struct world *world, const char *job);
void watch_order_sent(struct world *world, const struct model_worker *worker, uint64_t lease);
void watch_report_came(struct world *world, const struct model_worker *worker, uint64_t lease);
void watch_hello_came(struct world *world, const struct model_worker *worker,
	const struct msg_worker_hello *hello);
void watch_broker_started(struct world *world);
void watch_broker_killed(struct world *world);
void watch_over(struct world *world);
bool watch_has_job(const struct world *world, const char *device);
bool is_at_work(const struct held_work *work);
/* What happened in all histories. */
struct tally {
	uint64_t steps, accepted, completed, cancelled, failed, orders;
};
void watch_count(const struct world *world, struct tally *tally);
uint64_t watch_last_seq(const struct world *world);

#endif
