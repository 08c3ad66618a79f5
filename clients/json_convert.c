/* SPDX-License-Identifier: Apache-2.0 */
/* JSON to msgpack by walking the tree; msgpack to JSON through its text form, which has been through the guard. */
#include "clients/json_convert.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>

#include "common/check.h"

static void pack_array(const json_t *array, struct wire_buffer *buffer)
{
	wire_put_array(buffer, json_array_size(array));
	for (size_t i = 0; i < json_array_size(array); i++)
		json_pack_value(json_array_get(array, i), buffer);
}

static void pack_object(const json_t *object, struct wire_buffer *buffer)
{
	const char *key;
	json_t *value;

	wire_put_map(buffer, json_object_size(object));
	json_object_foreach((json_t *)(uintptr_t)object, key, value)
	{
		wire_put_str(buffer, key);
		json_pack_value(value, buffer);
	}
}

void json_pack_value(const json_t *json, struct wire_buffer *buffer)
{
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		pack_object(json, buffer);
		return;
	case JSON_ARRAY:
		pack_array(json, buffer);
		return;
	case JSON_STRING:
		wire_put_str_bytes(buffer, json_string_value(json), json_string_length(json));
		return;
	case JSON_INTEGER:
		wire_put_int(buffer, json_integer_value(json));
		return;
	case JSON_REAL:
		wire_put_double(buffer, json_real_value(json));
		return;
	case JSON_TRUE:
	case JSON_FALSE:
		wire_put_bool(buffer, json_is_true(json));
		return;
	case JSON_NULL:
		wire_put_nil(buffer);
		return;
	}
}

json_t *json_unpack_value(struct wire_bytes packed, struct err *err)
{
	struct wire_buffer text;
	json_error_t why;
	json_t *json = NULL;

	wire_buffer_init(&text);
	if (wire_format(&text, packed, &wire_limits_reply, err) == 0) {
		json = json_loadb((const char *)text.bytes, text.length,
			JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
		if (!json)
			err_set(err, "cannot be shown as JSON: %s", why.text);
	}
	wire_buffer_done(&text);
	return json;
}

uint64_t json_number(const json_t *object, const char *key)
{
	json_int_t number = json_integer_value(json_object_get(object, key));

	return number > 0 ? (uint64_t)number : 0;
}

const char *json_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

void json_put_text(json_t *object, const char *key, const char *text)
{
	if (text)
		bug_if(json_object_set_new(object, key, json_string(text)) < 0);
}

void json_put_number(json_t *object, const char *key, uint64_t number)
{
	bug_if(json_object_set_new(object, key, json_integer((json_int_t)number)) < 0);
}

int json_print_line(const json_t *json, struct err *err)
{
	if (json_dumpf(json, stdout, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15)) <
			0 ||
		putchar('\n') == EOF || fflush(stdout) != 0)
		return err_set_errno(err, errno, "cannot write the output");
	return 0;
}
