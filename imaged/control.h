/* SPDX-License-Identifier: Apache-2.0 */
/* The control thread: the link to the broker, requests to the devices' strands, answers back.
 *
 *   broker ─▶ link ─▶ decode ─▶ strand of the device ─▶ answers (eventfd) ─▶ link ─▶ broker
 *
 * It never waits for a disk, so heartbeats go on whatever an image does.  An answer to a request that came before the last hello
 * is not sent (the broker does not know its number any more), and a reservation in it is given back: nobody heard of it. */
#ifndef SLUICE_IMAGED_CONTROL_H
#define SLUICE_IMAGED_CONTROL_H

#include <stdbool.h>

#include "common/loop.h"
#include "common/mq.h"
#include "imaged/device_host.h"

struct control;

struct control_options {
	const char *broker; /* endpoint */
	const char *name, *realm, *host_name;
};

/* Borrows all of them; the options' texts must live as long.  NULL and err. */
struct control *control_new(struct mq *mq, struct loop *loop, struct device_host *host,
	const struct control_options *options, struct err *err);
void control_free(struct control *control);
/* The broker does not want us: why; NULL if it does. */
const char *control_refusal(const struct control *control);
/* After the loop was stopped: answers what is in flight, says goodbye, and lets workers let go of the leaves for a short
 * while. */
void control_wind_down(struct control *control);

#endif
