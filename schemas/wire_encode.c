/* SPDX-License-Identifier: Apache-2.0 */
/* From C structs to bytes, led by a table; and single values, by hand.
 *
 * A peer refuses a whole message for one byte that is not UTF-8 or one that is too long, and such bytes come from file
 * names and system messages; so strs are made fit here.  Numbers and lists are ours: beyond their limits is a bug. */
#include "schemas/wire_table.h"

#include <string.h>

#include "common/check.h"
#include "schemas/wire_tree.h"

static int append(void *buffer, const char *bytes, size_t length)
{
	wire_buffer_append(buffer, bytes, length);
	return 0;
}

msgpack_packer wire_packer(struct wire_buffer *buffer)
{
	msgpack_packer packer;

	msgpack_packer_init(&packer, buffer, append);
	return packer;
}

void wire_put_nil(struct wire_buffer *buffer)
{
	msgpack_packer packer = wire_packer(buffer);

	msgpack_pack_nil(&packer);
}

void wire_put_bool(struct wire_buffer *buffer, bool value)
{
	msgpack_packer packer = wire_packer(buffer);

	if (value)
		msgpack_pack_true(&packer);
	else
		msgpack_pack_false(&packer);
}

void wire_put_uint(struct wire_buffer *buffer, uint64_t value)
{
	msgpack_packer packer = wire_packer(buffer);

	msgpack_pack_uint64(&packer, value);
}

void wire_put_int(struct wire_buffer *buffer, int64_t value)
{
	msgpack_packer packer = wire_packer(buffer);

	msgpack_pack_int64(&packer, value);
}

void wire_put_double(struct wire_buffer *buffer, double value)
{
	msgpack_packer packer = wire_packer(buffer);

	msgpack_pack_double(&packer, value);
}

/* Length of the longest beginning of at most `max` bytes that ends where a character ends. */
static size_t cut_length(const char *bytes, size_t length, size_t max)
{
	if (length <= max)
		return length;
	while (max && ((uint8_t)bytes[max] & 0xc0) == 0x80)
		max--;
	return max;
}

void wire_put_str_bytes(struct wire_buffer *buffer, const char *bytes, size_t length)
{
	msgpack_packer packer = wire_packer(buffer);

	msgpack_pack_str(&packer, length);
	for (size_t i = 0; i < length;) {
		size_t width = wire_utf8_character((const uint8_t *)bytes + i, length - i);
		bool is_good = width > 0 && bytes[i] != '\0';

		wire_buffer_append(buffer, is_good ? bytes + i : "?", is_good ? width : 1);
		i += is_good ? width : 1;
	}
}

void wire_put_str(struct wire_buffer *buffer, const char *text)
{
	wire_put_str_bytes(buffer, text, strlen(text));
}

void wire_put_bin(struct wire_buffer *buffer, const void *bytes, size_t length)
{
	msgpack_packer packer = wire_packer(buffer);

	msgpack_pack_bin(&packer, length);
	wire_buffer_append(buffer, bytes, length);
}

void wire_put_array(struct wire_buffer *buffer, size_t count)
{
	msgpack_packer packer = wire_packer(buffer);

	bug_if(count > UINT32_MAX);
	msgpack_pack_array(&packer, count);
}

void wire_put_map(struct wire_buffer *buffer, size_t count)
{
	msgpack_packer packer = wire_packer(buffer);

	bug_if(count > UINT32_MAX);
	msgpack_pack_map(&packer, count);
}

void wire_put_packed(struct wire_buffer *buffer, struct wire_bytes packed)
{
	if (packed.bytes && packed.length)
		wire_buffer_append(buffer, packed.bytes, packed.length);
	else
		wire_put_nil(buffer);
}

/* ---- led by a table */

static const void *member(const void *object, size_t offset)
{
	return (const uint8_t *)object + offset;
}

static size_t count_of(const struct wire_field *field, const void *object)
{
	return *(const size_t *)member(object, field->count_offset);
}

static bool is_present(const struct wire_field *field, const void *object)
{
	if (!field->is_optional)
		return true;
	if (field->is_list)
		return count_of(field, object) > 0;
	switch (field->kind) {
	case WIRE_STR:
		return *(const char *const *)member(object, field->offset) != NULL;
	case WIRE_BIN:
	case WIRE_ANY:
		return ((const struct wire_bytes *)member(object, field->offset))->bytes != NULL;
	case WIRE_COUNTS:
		return count_of(field, object) > 0;
	case WIRE_UINT:
	case WIRE_BOOL:
	case WIRE_ENUM:
	case WIRE_STRUCT:
		break;
	}
	return *(const bool *)member(object, field->has_offset);
}

static void encode_text(
	const struct wire_field *field, const char *text, struct wire_buffer *buffer)
{
	bug_if(!text);
	wire_put_str_bytes(buffer, text, cut_length(text, strlen(text), field->max));
}

static void encode_counts(
	const struct wire_field *field, const void *object, struct wire_buffer *buffer)
{
	const struct wire_count *counts =
		*(struct wire_count *const *)member(object, field->offset);
	size_t count = count_of(field, object);

	bug_if(count > field->count_max || (count && !counts));
	wire_put_map(buffer, count);
	for (size_t i = 0; i < count; i++) {
		wire_put_str(buffer, counts[i].name);
		wire_put_uint(buffer, counts[i].value);
	}
}

/* `value` is where the value is stored; `object` what it stands in. */
static void encode_value(const struct wire_field *field, const void *value, const void *object,
	struct wire_buffer *buffer)
{
	const struct wire_bytes *bytes = value;
	uint64_t number;
	unsigned choice;

	switch (field->kind) {
	case WIRE_UINT:
		number = *(const uint64_t *)value;
		bug_if(number < field->min || number > field->max);
		wire_put_uint(buffer, number);
		return;
	case WIRE_BOOL:
		wire_put_bool(buffer, *(const bool *)value);
		return;
	case WIRE_STR:
		encode_text(field, *(const char *const *)value, buffer);
		return;
	case WIRE_BIN:
		bug_if(bytes->length > field->max);
		wire_put_bin(buffer, bytes->bytes, bytes->length);
		return;
	case WIRE_ANY:
		wire_put_packed(buffer, *bytes);
		return;
	case WIRE_COUNTS:
		encode_counts(field, object, buffer);
		return;
	case WIRE_ENUM:
		choice = *(const unsigned *)value;
		bug_if(choice >= field->values->count);
		wire_put_str(buffer, field->values->values[choice]);
		return;
	case WIRE_STRUCT:
		wire_encode(field->fields, NULL, value, buffer);
		return;
	}
}

static void encode_list(
	const struct wire_field *field, const void *object, struct wire_buffer *buffer)
{
	size_t count = count_of(field, object);
	const uint8_t *items;

	memcpy(&items, member(object, field->offset), sizeof items);
	bug_if(count > field->count_max || (count && !items));
	wire_put_array(buffer, count);
	for (size_t i = 0; i < count; i++)
		encode_value(field, items + i * field->item_size, object, buffer);
}

void wire_encode(const struct wire_struct *table, const char *type, const void *object,
	struct wire_buffer *buffer)
{
	size_t count = type ? 1 : 0;

	for (size_t i = 0; i < table->count; i++)
		count += is_present(&table->fields[i], object);
	wire_put_map(buffer, count);
	if (type) {
		wire_put_str(buffer, "type");
		wire_put_str(buffer, type);
	}
	for (size_t i = 0; i < table->count; i++) {
		const struct wire_field *field = &table->fields[i];

		if (!is_present(field, object))
			continue;
		wire_put_str(buffer, field->key);
		if (field->is_list)
			encode_list(field, object, buffer);
		else
			encode_value(field, member(object, field->offset), object, buffer);
	}
}

void wire_encode_list(const struct wire_struct *table, const void *items, size_t count,
	struct wire_buffer *buffer)
{
	wire_put_array(buffer, count);
	for (size_t i = 0; i < count; i++)
		wire_encode(table, NULL, (const uint8_t *)items + i * table->size, buffer);
}

void wire_encode_union(
	const struct wire_union *table, const void *object, struct wire_buffer *buffer)
{
	unsigned type = *(const unsigned *)object;

	bug_if(type >= table->count);
	wire_encode(table->variants[type], table->variants[type]->name,
		member(object, table->union_offset), buffer);
}

const char *wire_enum_name(const struct wire_enum *table, unsigned value)
{
	return value < table->count ? table->values[value] : "?";
}

bool wire_enum_parse(const struct wire_enum *table, const char *name, unsigned *ret_value)
{
	for (size_t i = 0; i < table->count; i++) {
		if (strcmp(table->values[i], name) == 0) {
			*ret_value = (unsigned)i;
			return true;
		}
	}
	return false;
}

static bool same_words(const char *a, const char *b)
{
	while (*a && (*a == *b || ((*a == '_' || *a == '-') && (*b == '_' || *b == '-')))) {
		a++;
		b++;
	}
	return *a == *b;
}

bool wire_enum_parse_loose(const struct wire_enum *table, const char *name, unsigned *ret_value)
{
	for (size_t i = 0; i < table->count; i++) {
		if (same_words(table->values[i], name)) {
			*ret_value = (unsigned)i;
			return true;
		}
	}
	return false;
}
