/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: images under a name, held by an imaged.  One that was attached is in the store until
 * it is detached; while its imaged is here, it is kept attached there, by asking again and again
 * if need be. */
#ifndef SLUICE_BROKER_CORE_DEVICES_H
#define SLUICE_BROKER_CORE_DEVICES_H

#include "broker/core/state.h"

struct device *device_find(const struct core *core, const char *name);
/* Not in the store yet; the record's strings are copied. */
struct device *device_new(
	struct core *core, struct imaged *imaged, const struct record_device *record);
void device_free(struct core *core, struct device *device);
void device_touch(struct core *core, struct device *device);
/* Looks at the device and does what is next: attach, detach, join workers, let them go. */
void device_advance(struct core *core, struct device *device);
/* Whether its job has, or may have, ranges for workers. */
bool device_wants_workers(const struct device *device);
/* Another one of that imaged has that file. */
struct device *device_find_file(const struct imaged *imaged, const char *file);

/* imaged has it attached, and this is what it is. */
void device_seen(struct core *core, struct device *device, const struct device_state *state);
void device_goes_offline(struct core *core, struct device *device, const char *reason);
/* imaged says that it does not have it. */
void device_is_not_attached(struct core *core, struct device *device, const char *reason);
void device_failed(
	struct core *core, struct device *device, const struct msg_device_failed *failed);
/* What the devices of a hello are, and what is missing among them. */
void devices_compare(
	struct core *core, struct imaged *imaged, const struct device_state *states, size_t count);

/* Asks imaged to attach it; who waits is answered when it has. */
void device_attach(struct core *core, struct device *device);
/* As above, but in another imaged; the caller gives the request its owner. */
struct request *device_attach_elsewhere(
	struct core *core, const struct device *device, struct imaged *imaged);
void device_ask_detach(struct core *core, struct device *device);
/* Of one that is not ours. */
void device_ask_detach_stranger(struct core *core, struct imaged *imaged, const char *name);
/* Begins to detach it: first its workers let go, then imaged closes it. */
void device_detach(struct core *core, struct device *device);
/* Out of the store and the tables, and said so. */
void device_forget(struct core *core, struct device *device, const char *reason);
void device_move(struct core *core, struct device *device, struct imaged *imaged);

/* imaged's answers. */
void device_attached(struct core *core, struct device *device, const struct device_state *state);
void device_attach_refused(
	struct core *core, struct device *device, const struct msg_image_error *error);
void device_detached(struct core *core, struct device *device);
void device_detach_refused(
	struct core *core, struct device *device, const struct msg_image_error *error);
void device_request_lost(struct core *core, struct device *device, enum request_kind kind);

/* What a client is told of it; borrows from the device. */
struct device_info device_info_of(const struct device *device);

#endif
