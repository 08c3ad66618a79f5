/* SPDX-License-Identifier: Apache-2.0 */
/* What mq.c and mq_listen.c share; of no concern to anybody else. */
#ifndef SLUICE_COMMON_MQ_SOCKET_H
#define SLUICE_COMMON_MQ_SOCKET_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/err.h"
#include "common/mq.h"

#define MQ_LISTENERS_MAX 16

struct mq {
	void *context;
	pthread_mutex_t lock; /* over `sockets` */
	struct mq_socket *sockets;
	uint64_t next_count_ms;
	bool is_refusing; /* the guard has unbound the listeners */
};

struct mq_listener {
	char *endpoint; /* as libzmq calls it: what unbind and a new bind take */
	bool is_bound;
};

struct mq_socket {
	struct mq *mq;
	struct mq_socket *next;
	enum mq_kind kind;
	void *handle;
	pthread_t thread; /* the one that made it, and the only one that may use it */
	uint64_t dropped;
	struct mq_listener listeners[MQ_LISTENERS_MAX];
	size_t listeners_count;
};

/* The file of an ipc endpoint; NULL for other transports and for names that are no file ("*", "@abstract"). */
const char *mq_ipc_path(const char *endpoint);
/* Refuses what libzmq would take wrongly, and sets what depends on the transport.  0, or -1 and err. */
int MUST_CHECK mq_prepare_endpoint(struct mq_socket *socket, const char *endpoint, struct err *err);
void mq_forget_listeners(struct mq_socket *socket);
/* Keeps a descriptor back, so that there is always one to turn a connection away with. */
void mq_listen_start(void);

#endif
