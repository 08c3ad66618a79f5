/* SPDX-License-Identifier: Apache-2.0 */
/* What mq.c and mq_listen.c share; of no concern to anybody else. */
#ifndef SLUICE_COMMON_MQ_SOCKET_H
#define SLUICE_COMMON_MQ_SOCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "common/mq.h"

#define MQ_LISTENERS_MAX 16

struct mq {
	void *context;
	atomic_uint sockets; /* how many there are */
	/* What the guard said last. */
	uint64_t turned_away, turned_away_ms;
	bool is_turning_away;
};

struct mq_socket {
	struct mq *mq;
	enum mq_kind kind;
	void *handle;
	uint64_t dropped;
	char *bound[MQ_LISTENERS_MAX]; /* endpoints as libzmq calls them */
	size_t bound_count;
};

/* Puts libzmq's words for errno into `err`; returns -1. */
int mq_fail(struct err *err, const char *what);
/* The file of an ipc endpoint; NULL for other transports and for names that are no file ("*",
 * "@abstract"). */
const char *mq_ipc_path(const char *endpoint);
/* Refuses what libzmq would take wrongly, and sets what depends on the transport.  0, or -1 and
 * err. */
int MUST_CHECK mq_prepare_endpoint(struct mq_socket *socket, const char *endpoint, struct err *err);
/* Keeps a descriptor back, so that there is always one to turn a connection away with. */
void mq_listen_start(void);

#endif
