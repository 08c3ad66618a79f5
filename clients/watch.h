/* SPDX-License-Identifier: Apache-2.0 */
/* What a command waits for beside messages: Ctrl-C, SIGTERM, and the end of processes that it started.  Everything happens
 * on one thread and in order, so a command reads from top to bottom; there are no callbacks. */
#ifndef SLUICE_CLIENTS_WATCH_H
#define SLUICE_CLIENTS_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "common/mq.h"

#define WATCH_CHILDREN_MAX 80

enum watch_result {
	WATCH_MESSAGE, /* the socket may have a message */
	WATCH_SIGNAL,  /* SIGINT or SIGTERM came; said until it is forgotten */
	WATCH_CHILD,   /* a watched process ended; said until it is forgotten */
	WATCH_DEADLINE,
};

struct watch;

/* From here on SIGINT and SIGTERM do not end the program (program_start has blocked them) but are waited for. */
struct watch *watch_new(struct err *err);
void watch_free(struct watch *watch); /* NULL is fine */
DEFINE_CLEANUP(watch, watch_free)

/* `pidfd` (pidfd_open) stays the caller's. */
void watch_add_child(struct watch *watch, int pidfd);
void watch_forget_child(struct watch *watch, int pidfd);

/* Readable when a signal comes; for a wait of the caller's own. */
int watch_descriptor(const struct watch *watch);
/* The signal is being dealt with: waits go on until the next one. */
void watch_forget_signal(struct watch *watch);

/* Waits until something happens or the clock (clock_monotonic_ms) says deadline_ms.  A signal comes first, then messages.
 * `watch` and `socket` may be NULL. */
enum watch_result watch_wait(struct watch *watch, struct mq_socket *socket, uint64_t deadline_ms);
/* The same until the socket can send: WATCH_MESSAGE says that it may be so now. */
enum watch_result watch_wait_writable(
	struct watch *watch, struct mq_socket *socket, uint64_t deadline_ms);

#endif
