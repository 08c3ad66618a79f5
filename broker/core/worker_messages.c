/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from workers, to whom it is for. */
#include "broker/core/joins.h"
#include "broker/core/leases.h"
#include "broker/core/outbox.h"
#include "broker/core/roster.h"

static void tell_unknown(struct core *core, uint64_t peer)
{
	struct broker_to_worker message = {.type = BROKER_TO_WORKER_WORKER_UNKNOWN};

	send_to_worker_peer(core, peer, &message);
}

static void handle(struct core *core, struct worker *worker, const struct worker_to_broker *message)
{
	switch (message->type) {
	case WORKER_TO_BROKER_WORKER_HELLO:
	case WORKER_TO_BROKER_WORKER_HEARTBEAT:
		break;
	case WORKER_TO_BROKER_WORKER_GOODBYE:
		worker_says_goodbye(core, worker);
		break;
	case WORKER_TO_BROKER_JOINED:
		join_joined(core, worker, &message->joined);
		break;
	case WORKER_TO_BROKER_JOIN_REFUSED:
		join_refused_by_worker(core, worker, &message->join_refused);
		break;
	case WORKER_TO_BROKER_LEFT:
		join_left(core, worker, message->left.join);
		break;
	case WORKER_TO_BROKER_COPY_PROGRESS:
		lease_progress(core, worker, &message->copy_progress);
		break;
	case WORKER_TO_BROKER_COPIED:
		lease_copied(core, worker, &message->copied);
		break;
	case WORKER_TO_BROKER_COPY_FAILED:
		lease_failed(core, worker, &message->copy_failed);
		break;
	case WORKER_TO_BROKER_COPY_STOPPED:
		lease_stopped(core, worker, &message->copy_stopped);
		break;
	}
}

void worker_message(struct core *core, uint64_t peer, struct worker *worker,
	const struct worker_to_broker *message)
{
	if (message == NULL) {
		tell_unknown(core, peer);
		if (worker != NULL)
			worker_lose(core, worker, "it said what could not be understood");
		return;
	}
	if (message->type == WORKER_TO_BROKER_WORKER_HELLO) {
		if (worker != NULL && worker != worker_find(core, message->worker_hello.name)) {
			peer_hand_over(core, &worker->peer);
			worker_lose(core, worker, "another worker took its connection");
		}
		worker_hello(core, peer, &message->worker_hello);
		return;
	}
	if (worker == NULL) {
		tell_unknown(core, peer);
		return;
	}
	worker_heard(core, worker);
	handle(core, worker, message);
	if (worker->says_goodbye && list_is_empty(&worker->leases))
		worker_lose(core, worker, "said goodbye");
}
