/* SPDX-License-Identifier: Apache-2.0 */
/* From bytes to C structs: guard, msgpack-c, and then the table, which allows or refuses each field.
 *
 * All of it is built in memory first; what the caller's ret points to changes only when everything was right.  Memory got for
 * a list is bounded before it is got: by the table's count and by the entries that are really there. */
#include "schemas/wire_table.h"

#include <string.h>

#include "common/check.h"
#include "schemas/wire_tree.h"

#define WORD_SHOWN_MAX 64 /* bytes of a peer's word that an error repeats */

/* Where the walk is: a key and, inside a list, which entry. */
struct place {
	const struct place *above;
	const char *key;
	size_t index;
	bool is_entry;
};

struct walk {
	const struct wire_reading *reading;
	struct err *err;
};

int wire_tree_read(struct wire_tree *tree, struct wire_bytes bytes,
	const struct wire_limits *limits, struct err *err)
{
	size_t offset = 0;
	int r;

	msgpack_unpacked_init(&tree->unpacked);
	if (wire_guard(bytes.bytes, bytes.length, limits, err) < 0)
		return -1;
	r = msgpack_unpack_next(&tree->unpacked, bytes.bytes, bytes.length, &offset);
	if (r == MSGPACK_UNPACK_SUCCESS && offset == bytes.length)
		return 0;
	return err_set(err, "it can't be read (%d)", r);
}

void wire_tree_done(struct wire_tree *tree)
{
	msgpack_unpacked_destroy(&tree->unpacked);
}

/* ---- saying what is wrong */

static size_t place_text(const struct place *place, char *text, size_t room)
{
	size_t used = place->above ? place_text(place->above, text, room) : 0;

	if (used >= room)
		return used;
	if (place->is_entry)
		return used + (size_t)snprintf(text + used, room - used, "[%zu]", place->index);
	return used + (size_t)snprintf(text + used, room - used, "%s%s", place->above ? "." : "",
			      place->key);
}

static void name_field(const struct walk *walk, const struct place *place)
{
	if (!walk->reading->ret_field)
		return;
	while (place->above)
		place = place->above;
	*walk->reading->ret_field =
		wire_memory_text(walk->reading->memory, place->key, strlen(place->key));
}

static int wrong(const struct walk *walk, const struct place *place, const char *what)
{
	char text[256];

	(void)place_text(place, text, sizeof text);
	name_field(walk, place);
	return err_set(walk->err, "%s '%s' %s", walk->reading->noun, text, what);
}

static int wrong_number(
	const struct walk *walk, const struct place *place, const struct wire_field *field)
{
	char text[96];

	(void)snprintf(text, sizeof text, "must be an integer from %llu to %llu",
		(unsigned long long)field->min, (unsigned long long)field->max);
	return wrong(walk, place, text);
}

static int wrong_length(
	const struct walk *walk, const struct place *place, const struct wire_field *field)
{
	char text[96];

	if (field->min)
		(void)snprintf(text, sizeof text, "must be %llu to %llu bytes long",
			(unsigned long long)field->min, (unsigned long long)field->max);
	else
		(void)snprintf(text, sizeof text, "must be at most %llu bytes long",
			(unsigned long long)field->max);
	return wrong(walk, place, text);
}

static int wrong_count(
	const struct walk *walk, const struct place *place, const struct wire_field *field)
{
	char text[96];

	(void)snprintf(text, sizeof text, "must have at most %zu entries", field->count_max);
	return wrong(walk, place, text);
}

static int wrong_choice(
	const struct walk *walk, const struct place *place, const struct wire_field *field)
{
	char text[512] = "must be ";
	size_t used = strlen(text);

	for (size_t i = 0; i < field->values->count && used < sizeof text; i++)
		used += (size_t)snprintf(text + used, sizeof text - used, "%s%s",
			i == 0				? ""
			: i + 1 == field->values->count ? " or "
							: ", ",
			field->values->values[i]);
	return wrong(walk, place, text);
}

/* A peer's word, fit for a line: cut, and without control characters. */
static const char *peers_word(const struct walk *walk, const msgpack_object_str *str)
{
	size_t length = 0;
	char *word;

	while (length < str->size) {
		size_t width =
			wire_utf8_character((const uint8_t *)str->ptr + length, str->size - length);

		if (length + width > WORD_SHOWN_MAX)
			break;
		length += width;
	}
	word = wire_memory_text(walk->reading->memory, str->ptr, length);
	for (size_t i = 0; i < length; i++)
		if ((uint8_t)word[i] < 0x20 || word[i] == 0x7f)
			word[i] = '?';
	return word;
}

/* ---- values */

static bool str_is(const msgpack_object_str *str, const char *text)
{
	return str->size == strlen(text) && memcmp(str->ptr, text, str->size) == 0;
}

static bool is_name(const char *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		char c = bytes[i];
		bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

		if (!is_letter &&
			(i == 0 || (!(c >= '0' && c <= '9') && c != '-' && c != '.' && c != '_')))
			return false;
	}
	return length > 0;
}

static int decode_str(const struct walk *walk, const struct place *place,
	const struct wire_field *field, const msgpack_object *object, const char **ret)
{
	if (object->type != MSGPACK_OBJECT_STR)
		return wrong(walk, place, "must be a string");
	if (field->is_name && (object->via.str.size > field->max ||
				      !is_name(object->via.str.ptr, object->via.str.size)))
		return wrong(walk, place,
			"must be a letter, then letters, digits, '-', '.' or '_', at most 64 bytes");
	if (object->via.str.size > field->max || object->via.str.size < field->min)
		return wrong_length(walk, place, field);
	if (memchr(object->via.str.ptr, '\0', object->via.str.size))
		return wrong(walk, place, "must not contain a NUL");
	*ret = wire_memory_text(walk->reading->memory, object->via.str.ptr, object->via.str.size);
	return 0;
}

static int decode_bin(const struct walk *walk, const struct place *place,
	const struct wire_field *field, const msgpack_object *object, struct wire_bytes *ret)
{
	if (object->type != MSGPACK_OBJECT_BIN)
		return wrong(walk, place, "must be a bin");
	if (object->via.bin.size > field->max || object->via.bin.size < field->min)
		return wrong_length(walk, place, field);
	ret->bytes =
		wire_memory_text(walk->reading->memory, object->via.bin.ptr, object->via.bin.size);
	ret->length = object->via.bin.size;
	return 0;
}

/* Packed anew, so that equal values have equal bytes. */
static int decode_any(const struct walk *walk, const msgpack_object *object, struct wire_bytes *ret)
{
	struct wire_buffer buffer = {0};
	msgpack_packer packer = wire_packer(&buffer);

	msgpack_pack_object(&packer, *object);
	ret->bytes = wire_memory_text(walk->reading->memory, buffer.bytes, buffer.length);
	ret->length = buffer.length;
	wire_buffer_done(&buffer);
	return 0;
}

static int decode_counts(const struct walk *walk, const struct place *place,
	const struct wire_field *field, const msgpack_object *object,
	struct wire_count **ret_counts, size_t *ret_count)
{
	const struct wire_field name = {.kind = WIRE_STR, .max = 64};
	const struct wire_field number = {.kind = WIRE_UINT, .max = INT64_MAX};
	struct wire_count *counts;

	if (object->type != MSGPACK_OBJECT_MAP)
		return wrong(walk, place, "must be a map");
	if (object->via.map.size > field->count_max)
		return wrong_count(walk, place, field);
	counts = wire_memory_get(walk->reading->memory, object->via.map.size * sizeof *counts);
	for (size_t i = 0; i < object->via.map.size; i++) {
		const msgpack_object_kv *entry = &object->via.map.ptr[i];
		struct place inside = {.above = place, .index = i, .is_entry = true};

		if (decode_str(walk, &inside, &name, &entry->key, &counts[i].name) < 0)
			return -1;
		if (entry->val.type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
			entry->val.via.u64 > number.max)
			return wrong_number(walk, &inside, &number);
		counts[i].value = entry->val.via.u64;
	}
	*ret_counts = counts;
	*ret_count = object->via.map.size;
	return 0;
}

static int decode_choice(const struct walk *walk, const struct place *place,
	const struct wire_field *field, const msgpack_object *object, unsigned *ret)
{
	if (object->type == MSGPACK_OBJECT_STR) {
		for (size_t i = 0; i < field->values->count; i++) {
			if (str_is(&object->via.str, field->values->values[i])) {
				*ret = (unsigned)i;
				return 0;
			}
		}
	}
	return wrong_choice(walk, place, field);
}

static void *member(void *object, size_t offset)
{
	return (uint8_t *)object + offset;
}

static int decode_map(const struct walk *walk, const struct place *place,
	const struct wire_struct *table, const msgpack_object *map, void *ret);

/* `ret` is where the value goes; `whole` the struct that it stands in. */
static int decode_value(const struct walk *walk, const struct place *place,
	const struct wire_field *field, const msgpack_object *object, void *ret, void *whole)
{
	switch (field->kind) {
	case WIRE_UINT:
		if (object->type != MSGPACK_OBJECT_POSITIVE_INTEGER ||
			object->via.u64 > field->max || object->via.u64 < field->min)
			return wrong_number(walk, place, field);
		*(uint64_t *)ret = object->via.u64;
		return 0;
	case WIRE_BOOL:
		if (object->type != MSGPACK_OBJECT_BOOLEAN)
			return wrong(walk, place, "must be true or false");
		*(bool *)ret = object->via.boolean;
		return 0;
	case WIRE_STR:
		return decode_str(walk, place, field, object, ret);
	case WIRE_BIN:
		return decode_bin(walk, place, field, object, ret);
	case WIRE_ANY:
		return decode_any(walk, object, ret);
	case WIRE_COUNTS:
		return decode_counts(
			walk, place, field, object, ret, member(whole, field->count_offset));
	case WIRE_ENUM:
		return decode_choice(walk, place, field, object, ret);
	case WIRE_STRUCT:
		return decode_map(walk, place, field->fields, object, ret);
	}
	bug_if(true);
}

static int decode_list(const struct walk *walk, const struct place *place,
	const struct wire_field *field, const msgpack_object *object, void *whole)
{
	size_t count;
	uint8_t *items;

	if (object->type != MSGPACK_OBJECT_ARRAY)
		return wrong(walk, place, "must be a list");
	count = object->via.array.size;
	if (count > field->count_max)
		return wrong_count(walk, place, field);
	items = wire_memory_get(walk->reading->memory, count * field->item_size);
	for (size_t i = 0; i < count; i++) {
		struct place inside = {.above = place, .index = i, .is_entry = true};

		if (decode_value(walk, &inside, field, &object->via.array.ptr[i],
			    items + i * field->item_size, NULL) < 0)
			return -1;
	}
	memcpy(member(whole, field->offset), &items, sizeof items);
	*(size_t *)member(whole, field->count_offset) = count;
	return 0;
}

static bool has_flag(const struct wire_field *field)
{
	return field->is_optional && !field->is_list &&
	       (field->kind == WIRE_UINT || field->kind == WIRE_BOOL || field->kind == WIRE_ENUM ||
		       field->kind == WIRE_STRUCT);
}

static const msgpack_object *find_key(const msgpack_object_map *map, const char *key)
{
	for (size_t i = 0; i < map->size; i++)
		if (str_is(&map->ptr[i].key.via.str, key))
			return &map->ptr[i].val;
	return NULL;
}

static int refuse_unknown(const struct walk *walk, const struct place *place,
	const struct wire_struct *table, const msgpack_object_map *map)
{
	for (size_t i = 0; i < map->size; i++) {
		const msgpack_object_str *key = &map->ptr[i].key.via.str;
		size_t k = 0;

		while (k < table->count && !str_is(key, table->fields[k].key))
			k++;
		if (k == table->count) {
			struct place inside = {.above = place, .key = peers_word(walk, key)};

			return wrong(walk, &inside, "is unknown");
		}
	}
	return 0;
}

/* Fills the zeroed struct at `ret`. */
static int decode_map(const struct walk *walk, const struct place *place,
	const struct wire_struct *table, const msgpack_object *map, void *ret)
{
	if (map->type != MSGPACK_OBJECT_MAP)
		return place ? wrong(walk, place, "must be a map")
			     : err_set(walk->err, "it is not a map");
	if (walk->reading->refuses_unknown && refuse_unknown(walk, place, table, &map->via.map) < 0)
		return -1;
	for (size_t i = 0; i < table->count; i++) {
		const struct wire_field *field = &table->fields[i];
		const msgpack_object *object = find_key(&map->via.map, field->key);
		struct place inside = {.above = place, .key = field->key};
		int r;

		if (!object && field->is_optional)
			continue;
		if (!object)
			return wrong(walk, &inside, "is missing");
		if (field->is_list)
			r = decode_list(walk, &inside, field, object, ret);
		else
			r = decode_value(
				walk, &inside, field, object, member(ret, field->offset), ret);
		if (r < 0)
			return -1;
		if (has_flag(field))
			*(bool *)member(ret, field->has_offset) = true;
	}
	return 0;
}

/* ---- whole messages */

int wire_decode(const struct wire_struct *table, struct wire_bytes bytes,
	const struct wire_reading *reading, void *ret, struct err *err)
{
	struct walk walk = {.reading = reading, .err = err};
	void *whole = wire_memory_get(reading->memory, table->size);
	struct wire_tree tree;
	int r;

	if (reading->ret_field)
		*reading->ret_field = NULL;
	r = wire_tree_read(&tree, bytes, reading->limits, err);
	if (r == 0)
		r = decode_map(&walk, NULL, table, wire_tree_root(&tree), whole);
	wire_tree_done(&tree);
	if (r == 0)
		memcpy(ret, whole, table->size);
	return r;
}

int wire_decode_list(const struct wire_struct *table, struct wire_bytes bytes,
	const struct wire_reading *reading, void *ret_items, size_t *ret_count, struct err *err)
{
	/* The list as the only field of a struct. */
	struct {
		void *items;
		size_t count;
	} whole = {0};
	const struct wire_field field = {
		.kind = WIRE_STRUCT,
		.is_list = true,
		.count_offset = sizeof whole.items,
		.count_max = SIZE_MAX / table->size,
		.item_size = table->size,
		.fields = table,
	};
	const struct place place = {.key = table->name};
	struct walk walk = {.reading = reading, .err = err};
	struct wire_tree tree;
	int r;

	if (reading->ret_field)
		*reading->ret_field = NULL;
	r = wire_tree_read(&tree, bytes, reading->limits, err);
	if (r == 0)
		r = decode_list(&walk, &place, &field, wire_tree_root(&tree), &whole);
	wire_tree_done(&tree);
	if (r == 0) {
		memcpy(ret_items, &whole.items, sizeof whole.items);
		*ret_count = whole.count;
	}
	return r;
}

static int decode_variant(const struct walk *walk, const struct wire_union *table,
	const msgpack_object *map, void *whole)
{
	const struct place place = {.key = "type"};
	const msgpack_object *type;

	if (map->type != MSGPACK_OBJECT_MAP)
		return err_set(walk->err, "it is not a map");
	type = find_key(&map->via.map, "type");
	if (!type)
		return wrong(walk, &place, "is missing");
	if (type->type != MSGPACK_OBJECT_STR)
		return wrong(walk, &place, "must be a string");
	for (size_t i = 0; i < table->count; i++) {
		if (!str_is(&type->via.str, table->variants[i]->name))
			continue;
		*(unsigned *)whole = (unsigned)i;
		return decode_map(
			walk, NULL, table->variants[i], map, member(whole, table->union_offset));
	}
	return err_set(walk->err, "message '%s' is unknown", peers_word(walk, &type->via.str));
}

int wire_decode_union(const struct wire_union *table, struct wire_bytes bytes,
	const struct wire_reading *reading, void *ret, struct err *err)
{
	struct walk walk = {.reading = reading, .err = err};
	void *whole = wire_memory_get(reading->memory, table->size);
	struct wire_tree tree;
	int r;

	if (reading->ret_field)
		*reading->ret_field = NULL;
	r = wire_tree_read(&tree, bytes, reading->limits, err);
	if (r == 0)
		r = decode_variant(&walk, table, wire_tree_root(&tree), whole);
	wire_tree_done(&tree);
	if (r == 0)
		memcpy(ret, whole, table->size);
	return r;
}
