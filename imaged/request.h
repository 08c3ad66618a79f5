/* SPDX-License-Identifier: Apache-2.0 */
/* One request on its way: decoded on the control thread, carried out on a device's strand, its answer taken back.
 *
 * Each is written so that a repeat does no harm.  A request without a device is carried out where it was decoded: then only "it
 * is not there" can be said. */
#ifndef SLUICE_IMAGED_REQUEST_H
#define SLUICE_IMAGED_REQUEST_H

#include "imaged/device_host.h"
#include "schemas/imaged_broker.gen.h"

enum request_kind {
	REQUEST_OF_BROKER,
	REQUEST_TIDY,	/* ours, now and then: see device_tidy */
	REQUEST_LOOK,	/* ours: something failed for a guest, or guests have waited long: what of the device? */
	REQUEST_REVOKE, /* ours, before the end: all reservations go to quarantine */
	REQUEST_RELEASE /* ours: the lease `made_lease` could not be told to anybody */
};

struct request {
	struct request *next;
	void *owner; /* of who waits for the answer */
	enum request_kind kind;
	uint64_t session; /* of the link, when it came */
	struct device_host *host;
	struct device *device; /* NULL: none of that name, or id */
	struct wire_memory memory;
	struct broker_to_imaged message;

	struct wire_buffer answer; /* empty: there is none */
	bool is_refused;	   /* the answer is an image_error */
	uint64_t made_lease;	   /* reserved by this request; 0: none */
	struct wire_buffer notice; /* a device_failed to be sent as well; empty: none */
};

struct request *request_new(void *owner, enum request_kind kind, struct device_host *host);
void request_free(struct request *request);

/* Whether this type is one that is answered. */
bool request_is_answered(enum broker_to_imaged_type type);
/* Finds (for attach: makes) the device that the message is about.  On the control thread. */
void request_find_device(struct request *request);

enum request_outcome { REQUEST_DONE, REQUEST_AGAIN };
/* On the device's strand.  REQUEST_AGAIN: post it once more. */
enum request_outcome request_carry_out(struct request *request);

#endif
