/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the world call of one another. */
#ifndef SLUICE_TESTS_SIMULATION_PARTS_H
#define SLUICE_TESTS_SIMULATION_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/simulation/world.h"

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
