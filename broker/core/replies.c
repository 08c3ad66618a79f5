/* SPDX-License-Identifier: Apache-2.0 */
/* Packs replies, and keeps those whom they will be sent to. */
#include "broker/core/replies.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/state.h"
#include "common/check.h"
#include "schemas/envelope.gen.h"

static void reply(
	struct core *core, const struct asker *asker, const struct reply_envelope *envelope)
{
	struct wire_buffer packed = {0};
	struct effect *effect;

	reply_envelope_encode(envelope, &packed);
	effect = effects_add(core->effects, EFFECT_REPLY, true);
	effect->peer = asker->client;
	effect->bytes = packed.bytes;
	effect->length = packed.length;
}

void reply_return(struct core *core, struct asker asker, struct wire_bytes value)
{
	struct reply_envelope envelope = {.returned = value, .id = asker.id, .seq = core->log.last};

	reply(core, &asker, &envelope);
}

void reply_empty(struct core *core, struct asker asker)
{
	static const unsigned char empty_map[] = {0x80};

	reply_return(core, asker, (struct wire_bytes){empty_map, sizeof(empty_map)});
}

static size_t put_name(struct wire_buffer *buffer, const char *key, const char *value)
{
	if (value == NULL)
		return 0;
	if (buffer != NULL) {
		wire_put_str(buffer, key);
		wire_put_str(buffer, value);
	}
	return 1;
}

static size_t put_names(struct wire_buffer *buffer, const struct refusal *refusal)
{
	return put_name(buffer, "device", refusal->device) +
	       put_name(buffer, "job-id", refusal->job_id) +
	       put_name(buffer, "argument", refusal->argument) +
	       put_name(buffer, "file", refusal->file) + put_name(buffer, "msg", refusal->msg);
}

void reply_refusal(struct core *core, struct asker asker, const struct refusal *refusal)
{
	struct wire_buffer names = {0};
	struct reply_envelope envelope = {.has_error = true, .id = asker.id, .seq = core->log.last};

	wire_put_map(&names, put_names(NULL, refusal));
	put_names(&names, refusal);
	envelope.error = (struct reply_error){
		.class = error_class_name(refusal->class),
		.desc = refusal->desc,
		.data = wire_buffer_bytes(&names),
	};
	reply(core, &asker, &envelope);
	wire_buffer_done(&names);
}

void reply_error(struct core *core, struct asker asker, const char *format, ...)
{
	struct refusal refusal = {.class = ERROR_CLASS_GENERIC_ERROR};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(refusal.desc, sizeof(refusal.desc), format, arguments);
	va_end(arguments);
	refusal.msg = refusal.desc;
	reply_refusal(core, asker, &refusal);
}

void reply_bad_argument(
	struct core *core, struct asker asker, const char *argument, const char *format, ...)
{
	struct refusal refusal = {.class = ERROR_CLASS_GENERIC_ERROR, .argument = argument};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(refusal.desc, sizeof(refusal.desc), format, arguments);
	va_end(arguments);
	reply_refusal(core, asker, &refusal);
}

void reply_device_not_found(struct core *core, struct asker asker, const char *device)
{
	struct refusal refusal = {.class = ERROR_CLASS_DEVICE_NOT_FOUND, .device = device};

	snprintf(refusal.desc, sizeof(refusal.desc), "Device '%s' not found", device);
	reply_refusal(core, asker, &refusal);
}

void reply_device_in_use(struct core *core, struct asker asker, const char *device,
	const char *file, const char *why)
{
	struct refusal refusal = {
		.class = ERROR_CLASS_DEVICE_IN_USE, .device = device, .file = file, .msg = why};

	/* the sentence is the contract's; why stands beside it */
	snprintf(refusal.desc, sizeof(refusal.desc), "Device '%s' is in use", device);
	reply_refusal(core, asker, &refusal);
}

void reply_device_offline(
	struct core *core, struct asker asker, const char *device, const char *imaged)
{
	struct refusal refusal = {.class = ERROR_CLASS_DEVICE_OFFLINE, .device = device};

	snprintf(refusal.desc, sizeof(refusal.desc), "Device '%s' is offline: imaged '%s' is away",
		device, imaged);
	reply_refusal(core, asker, &refusal);
}

/* Puts the contract's words before imaged's, unless imaged said them itself. */
static void describe(struct refusal *refusal, const char *words)
{
	bool has_words = strncmp(refusal->msg, words, strlen(words)) == 0;

	snprintf(refusal->desc, sizeof(refusal->desc), "%s%s%s", has_words ? "" : words,
		has_words ? "" : ": ", refusal->msg);
}

void reply_image_error(struct core *core, struct asker asker, const char *device,
	const struct msg_image_error *error)
{
	struct refusal refusal = {
		.class = error->class,
		.device = device,
		.file = error->file,
		.msg = error->msg,
	};

	if (error->class == ERROR_CLASS_NOT_SUPPORTED) {
		describe(&refusal, "Operation is not supported");
	} else if (error->class == ERROR_CLASS_DEVICE_IN_USE) {
		snprintf(refusal.desc, sizeof(refusal.desc), "Device '%s' is in use", device);
	} else {
		snprintf(refusal.desc, sizeof(refusal.desc), "%s", error->msg);
	}
	reply_refusal(core, asker, &refusal);
}

bool may_wait(struct core *core, struct asker asker)
{
	if (core->waiting_requests < WAITING_REQUESTS_MAX)
		return true;
	reply_error(core, asker, "too many requests wait for an answer; try again later");
	return false;
}

void waiter_init(struct core *core, struct waiter *waiter, struct asker asker)
{
	unsigned char *id = must_calloc(1, asker.id.length + 1);

	if (asker.id.bytes != NULL)
		memcpy(id, asker.id.bytes, asker.id.length);
	list_init(&waiter->in_list);
	waiter->client = asker.client;
	waiter->id = (struct wire_bytes){id, asker.id.length};
	core->waiting_requests++;
}

void waiter_done(struct core *core, struct waiter *waiter)
{
	list_remove(&waiter->in_list);
	free((void *)waiter->id.bytes);
	waiter->id = (struct wire_bytes){0};
	core->waiting_requests--;
}

struct waiter *waiter_new(struct core *core, struct asker asker)
{
	struct waiter *waiter;

	if (!may_wait(core, asker))
		return NULL;
	waiter = must_calloc(1, sizeof(*waiter));
	waiter_init(core, waiter, asker);
	return waiter;
}

struct asker asker_of(const struct waiter *waiter)
{
	struct asker asker = {.client = waiter->client};

	if (waiter->id.length > 0)
		asker.id = waiter->id;
	return asker;
}

bool waiters_take(struct core *core, struct list *waiters, struct asker *ret_asker)
{
	struct waiter *waiter = list_first(waiters, struct waiter, in_list);

	if (waiter == NULL)
		return false;
	*ret_asker = asker_of(waiter);
	if (ret_asker->id.bytes != NULL)
		ret_asker->id.bytes =
			wire_memory_text(&core->memory, waiter->id.bytes, waiter->id.length);
	waiter_done(core, waiter);
	free(waiter);
	return true;
}
