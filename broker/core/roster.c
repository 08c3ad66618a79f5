/* SPDX-License-Identifier: Apache-2.0 */
/* Workers come and go. */
#include "broker/core/roster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "common/check.h"

/* ---- peers */

void peer_hand_over(struct core *core, struct peer *peer)
{
	if (peer->number != 0)
		index_remove(&core->peers, peer->number);
	peer->number = 0;
}

void peer_clear(struct core *core, struct peer *peer)
{
	if (peer->number != 0)
		forget_peer(core, peer->number);
	peer_hand_over(core, peer);
}

void peer_set(struct core *core, struct peer *peer, uint64_t number)
{
	peer->heard_ms = core->now.now_ms;
	if (peer->number == number)
		return;
	peer_clear(core, peer);
	peer->number = number;
	index_add(&core->peers, number, peer);
}

/* ---- realms */

struct realm *realm_find(const struct core *core, const char *name)
{
	return index_find_name(&core->realms, name);
}

struct realm *realm_get(struct core *core, const char *name)
{
	struct realm *realm = realm_find(core, name);

	if (realm != NULL)
		return realm;
	realm = must_calloc(1, sizeof(*realm));
	name_copy(realm->name, name);
	list_init(&realm->workers);
	list_init(&realm->devices);
	index_add_name(&core->realms, realm->name, realm);
	return realm;
}

void realm_release(struct core *core, struct realm *realm)
{
	if (realm == NULL || !list_is_empty(&realm->workers) || !list_is_empty(&realm->devices))
		return;
	index_remove_name(&core->realms, realm->name);
	free(realm);
}

/* ---- workers */

struct worker *worker_find(const struct core *core, const char *name)
{
	return index_find_name(&core->workers, name);
}

void worker_touch(struct core *core, struct worker *worker)
{
	list_append_once(&core->touched_workers, &worker->in_touched);
}

static void say_heartbeat(struct core *core, struct worker *worker)
{
	struct broker_to_worker message = {.type = BROKER_TO_WORKER_BROKER_HEARTBEAT};

	send_to_worker(core, worker, &message);
}

/* What it claimed right after our start, and nobody has named. */
static void drop_claims(struct core *core, struct worker *worker)
{
	for (size_t i = 0; i < worker->claimed_joins.count; i++) {
		uint64_t id = worker->claimed_joins.ids[i];
		struct join *join = join_find(core, id);

		if (join == NULL || join->worker != worker)
			join_tell_to_leave(core, worker, id);
	}
	worker->claimed_joins.count = 0;
}

/* Until it says that it left. */
static void tell_strays_again(struct core *core, struct worker *worker)
{
	for (size_t i = 0; i < worker->stray_joins.count; i++)
		join_tell_to_leave(core, worker, worker->stray_joins.ids[i]);
}

static void timer_fired(struct core *core, struct timer *timer)
{
	struct worker *worker = container_of(timer, struct worker, timer);
	char reason[80];

	if (core->now.now_ms < worker->peer.heard_ms + core->options.peer_timeout_ms) {
		say_heartbeat(core, worker);
		tell_strays_again(core, worker);
		if (core->now.now_ms >= core->started_ms + core->options.peer_timeout_ms)
			drop_claims(core, worker);
		timer_set(&core->timers, timer, core->now.now_ms + core->options.heartbeat_ms);
		return;
	}
	snprintf(reason, sizeof(reason), "nothing heard for %.1f seconds",
		(double)(core->now.now_ms - worker->peer.heard_ms) / 1000);
	worker_lose(core, worker, reason);
}

static void publish(
	struct core *core, const struct worker *worker, enum event_name event, const char *reason)
{
	struct event_worker_joined joined = {
		worker->name, worker->host, worker->realm->name, reason};
	struct event_worker_lost lost = {worker->name, worker->host, worker->realm->name, reason};

	wire_buffer_clear(&core->data_buffer);
	if (event == EVENT_WORKER_JOINED)
		event_worker_joined_encode(&joined, &core->data_buffer);
	else
		event_worker_lost_encode(&lost, &core->data_buffer);
	event_publish(core, event, NULL, wire_buffer_bytes(&core->data_buffer));
}

struct worker *worker_new(struct core *core, const struct msg_worker_hello *hello)
{
	struct worker *worker = must_calloc(1, sizeof(*worker));

	name_copy(worker->name, hello->name);
	name_copy(worker->host, hello->host);
	worker->incarnation = hello->incarnation;
	worker->slots = hello->slots;
	worker->peer.worker = worker;
	worker->realm = realm_get(core, hello->realm);
	worker->idle_since_ms = core->now.now_ms;
	list_init(&worker->in_touched);
	list_init(&worker->joins);
	list_init(&worker->leases);
	list_append(&worker->realm->workers, &worker->in_realm);
	index_add_name(&core->workers, worker->name, worker);
	timer_init(&worker->timer, timer_fired);
	timer_set(&core->timers, &worker->timer, core->now.now_ms + core->options.heartbeat_ms);
	publish(core, worker, EVENT_WORKER_JOINED, "said hello");
	return worker;
}

void worker_free(struct core *core, struct worker *worker)
{
	peer_clear(core, &worker->peer);
	timer_stop(&core->timers, &worker->timer);
	index_remove_name(&core->workers, worker->name);
	list_remove(&worker->in_touched);
	list_remove(&worker->in_realm);
	realm_release(core, worker->realm);
	id_list_done(&worker->claimed_joins);
	id_list_done(&worker->stray_joins);
	free(worker);
}

void worker_lose(struct core *core, struct worker *worker, const char *reason)
{
	publish(core, worker, EVENT_WORKER_LOST, reason);
	leases_of_worker_lost(core, worker);
	joins_of_worker_lost(core, worker);
	worker_free(core, worker);
}

void worker_heard(struct core *core, struct worker *worker)
{
	worker->peer.heard_ms = core->now.now_ms;
}

void worker_says_goodbye(struct core *core, struct worker *worker)
{
	worker->says_goodbye = true;
	joins_of_worker_going(core, worker);
}

void worker_wants_joins(struct core *core, struct worker *worker)
{
	struct device *device;

	list_for_each(device, &worker->realm->devices, in_realm)
		join_begin(core, device, worker);
}
