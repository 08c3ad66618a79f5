/* SPDX-License-Identifier: Apache-2.0 */
/* Between msgpack, which the sockets speak, and JSON, which people and scripts read. */
#ifndef SLUICE_CLIENTS_JSON_CONVERT_H
#define SLUICE_CLIENTS_JSON_CONVERT_H

#include <jansson.h>

#include "common/attributes.h"
#include "common/cleanup.h"
#include "common/err.h"
#include "schemas/wire.h"

static inline UNUSED void json_cleanup(json_t **json)
{
	json_decref(*json);
}

/* Appends the packed value. */
void json_pack_value(const json_t *json, struct wire_buffer *buffer);
/* A new value, or NULL and err.  A bin becomes its hexadecimal digits. */
json_t *MUST_CHECK json_unpack_value(struct wire_bytes packed, struct err *err);

/* Members of an object that is not trusted to have them: 0 and "" where there is none of that type. */
uint64_t json_number(const json_t *object, const char *key);
const char *json_text(const json_t *object, const char *key);
/* Puts a member unless the text is NULL. */
void json_put_text(json_t *object, const char *key, const char *text);
void json_put_number(json_t *object, const char *key, uint64_t number);

/* One line on stdout, flushed.  0, or -1 and err: nobody reads it. */
int MUST_CHECK json_print_line(const json_t *json, struct err *err);

#endif
