/* SPDX-License-Identifier: Apache-2.0 */
/* imaged at work: the devices, the threads for them, and the talk with the broker.  Guests come in from outside, by the host. */
#ifndef SLUICE_IMAGED_SERVICE_H
#define SLUICE_IMAGED_SERVICE_H

#include "imaged/device_host.h"
#include "imaged/settings.h"

struct service;

/* Opens the roots and attaches the devices of the command line.  `uri_before` and `uri_after` enclose a device's name; NULL: no guests.
 * Borrows all three.  NULL and err. */
struct service *service_new(const struct settings *settings, const char *uri_before,
	const char *uri_after, struct err *err);
struct device_host *service_host(struct service *service);
/* Until SIGTERM, SIGINT or a refusal by the broker; at the end no guest's request is answered any more, and all devices are closed
 * but there.  0, or -1 and err. */
int MUST_CHECK service_run(struct service *service, struct err *err);
/* No guest is there. */
void service_free(struct service *service);

#endif
