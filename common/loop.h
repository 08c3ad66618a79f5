/* SPDX-License-Identifier: Apache-2.0 */
/* One thread's wait for sockets, descriptors and a deadline.
 *
 * Every callback runs on the thread that called loop_run.  A callback may add and remove anything.
 */
#ifndef SLUICE_COMMON_LOOP_H
#define SLUICE_COMMON_LOOP_H

#include <stdint.h>

#include "common/err.h"
#include "common/mq.h"

struct loop;

#define LOOP_SOURCES_MAX 1024 /* sockets and descriptors together */

typedef void loop_callback(void *owner);
/* Called before every wait with the time; returns the time (clock_monotonic_ms) at which it wants
 * to be called again at the latest, UINT64_MAX for never. */
typedef uint64_t loop_tick(void *owner, uint64_t now_ms);

struct loop *loop_new(struct err *err);
void loop_free(struct loop *loop);
/* `callback` runs while a message waits: once per message that is there, fairly among sockets.  It
 * must take a message (mq_receive) or remove the socket.  A socket is removed before it is freed.
 */
int MUST_CHECK loop_add_socket(struct loop *loop, struct mq_socket *socket, loop_callback *callback,
	void *owner, struct err *err);
void loop_remove_socket(struct loop *loop, struct mq_socket *socket);
/* `callback` runs while `fd` is readable or hung up (level-triggered).  A descriptor is removed
 * before it is closed. */
int MUST_CHECK loop_add_fd(
	struct loop *loop, int fd, loop_callback *callback, void *owner, struct err *err);
void loop_remove_fd(struct loop *loop, int fd);
/* At most 8 ticks. */
int MUST_CHECK loop_add_tick(struct loop *loop, loop_tick *tick, void *owner, struct err *err);
void loop_remove_tick(struct loop *loop, loop_tick *tick, void *owner);
/* SIGTERM and SIGINT stop the loop (signalfd; the signals are blocked in the whole process by
 * program_start). */
int MUST_CHECK loop_stop_on_signals(struct loop *loop, struct err *err);
/* Until loop_stop: 0, or -1 and err.  loop_stop may be called from callbacks and ticks only.  May
 * be run again. */
int MUST_CHECK loop_run(struct loop *loop, struct err *err);
void loop_stop(struct loop *loop);

#endif
