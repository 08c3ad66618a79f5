/* SPDX-License-Identifier: Apache-2.0 */
/* The guard: looks at every byte of a message before anything is allocated or believed.
 *
 * msgpack-c reserves what a header promises, whether or not the bytes follow (5 bytes can ask for 8 GiB), takes an end
 * that comes too early for "more will come", and takes keys twice.  So a count is believed only if at least that many
 * bytes are left, and each value is walked over without recursion.  Keys are compared by their bytes without the
 * header: the same name behind headers of different widths is the same key. */
#include "schemas/wire.h"

#include <string.h>

#define KEYS_MAX 1024 /* over all maps that are open at one moment */

const struct wire_limits wire_limits_request = {
	.bytes_max = 64u << 10, .depth_max = 16, .objects_max = 16384};
const struct wire_limits wire_limits_message = {
	.bytes_max = 4u << 20, .depth_max = 16, .objects_max = 512u << 10};
const struct wire_limits wire_limits_reply = {
	.bytes_max = 64u << 20, .depth_max = 24, .objects_max = 8u << 20};

enum head_kind { HEAD_PLAIN, HEAD_STR, HEAD_BIN, HEAD_ARRAY, HEAD_MAP, HEAD_REFUSED };

/* What one byte says: its kind, how many bytes of big-endian count follow, and else the count itself (for HEAD_PLAIN the
 * bytes of the value). */
struct head {
	enum head_kind kind;
	unsigned count_bytes;
	uint32_t count;
};

struct key {
	const uint8_t *bytes;
	uint32_t length;
	uint32_t hash;
};

struct level {
	uint32_t left; /* values still to come; in a map keys count as well */
	bool is_map;
	unsigned first_key; /* in keys */
};

struct scan {
	const uint8_t *next;
	size_t left;
	const struct wire_limits *limits;
	uint32_t objects;
	unsigned depth;
	struct level levels[WIRE_DEPTH_MAX];
	unsigned keys_count;
	struct key keys[KEYS_MAX];
};

static struct head read_head(uint8_t byte)
{
	static const struct head wide[32] = {
		[0x00] = {HEAD_PLAIN, 0, 0},   /* c0 nil */
		[0x01] = {HEAD_REFUSED, 0, 0}, /* c1 never used */
		[0x02] = {HEAD_PLAIN, 0, 0},   /* c2 false */
		[0x03] = {HEAD_PLAIN, 0, 0},   /* c3 true */
		[0x04] = {HEAD_BIN, 1, 0},
		[0x05] = {HEAD_BIN, 2, 0},
		[0x06] = {HEAD_BIN, 4, 0},
		[0x07] = {HEAD_REFUSED, 0, 0},
		[0x08] = {HEAD_REFUSED, 0, 0},
		[0x09] = {HEAD_REFUSED, 0, 0}, /* c7 to c9 ext */
		[0x0a] = {HEAD_PLAIN, 0, 4},
		[0x0b] = {HEAD_PLAIN, 0, 8}, /* float */
		[0x0c] = {HEAD_PLAIN, 0, 1},
		[0x0d] = {HEAD_PLAIN, 0, 2}, /* uint */
		[0x0e] = {HEAD_PLAIN, 0, 4},
		[0x0f] = {HEAD_PLAIN, 0, 8},
		[0x10] = {HEAD_PLAIN, 0, 1},
		[0x11] = {HEAD_PLAIN, 0, 2}, /* int */
		[0x12] = {HEAD_PLAIN, 0, 4},
		[0x13] = {HEAD_PLAIN, 0, 8},
		[0x14] = {HEAD_REFUSED, 0, 0},
		[0x15] = {HEAD_REFUSED, 0, 0}, /* d4 to d8 fixext */
		[0x16] = {HEAD_REFUSED, 0, 0},
		[0x17] = {HEAD_REFUSED, 0, 0},
		[0x18] = {HEAD_REFUSED, 0, 0},
		[0x19] = {HEAD_STR, 1, 0},
		[0x1a] = {HEAD_STR, 2, 0},
		[0x1b] = {HEAD_STR, 4, 0},
		[0x1c] = {HEAD_ARRAY, 2, 0},
		[0x1d] = {HEAD_ARRAY, 4, 0},
		[0x1e] = {HEAD_MAP, 2, 0},
		[0x1f] = {HEAD_MAP, 4, 0},
	};

	if (byte <= 0x7f || byte >= 0xe0)
		return (struct head){HEAD_PLAIN, 0, 0};
	if (byte <= 0x8f)
		return (struct head){HEAD_MAP, 0, byte & 0x0fu};
	if (byte <= 0x9f)
		return (struct head){HEAD_ARRAY, 0, byte & 0x0fu};
	if (byte <= 0xbf)
		return (struct head){HEAD_STR, 0, byte & 0x1fu};
	return wide[byte - 0xc0];
}

size_t wire_utf8_character(const uint8_t *bytes, size_t length)
{
	uint32_t code;
	size_t width;

	if (length == 0)
		return 0;
	if (bytes[0] < 0x80)
		return 1;
	width = bytes[0] >= 0xf0 ? 4 : bytes[0] >= 0xe0 ? 3 : 2;
	if (bytes[0] < 0xc2 || bytes[0] > 0xf4 || length < width)
		return 0;
	code = bytes[0] & (0x7fu >> width);
	for (size_t i = 1; i < width; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (bytes[i] & 0x3fu);
	}
	if ((width == 3 && code < 0x800) || (width == 4 && code < 0x10000))
		return 0;
	if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return 0;
	return width;
}

static bool is_utf8(const uint8_t *bytes, size_t length)
{
	while (length) {
		size_t width = wire_utf8_character(bytes, length);

		if (width == 0)
			return false;
		bytes += width;
		length -= width;
	}
	return true;
}

static int too_short(struct err *err)
{
	return err_set(err, "it ends too early");
}

static void advance(struct scan *scan, size_t bytes)
{
	scan->next += bytes;
	scan->left -= bytes;
}

/* Reads a head and the count behind it. */
static int next_head(struct scan *scan, struct head *ret_head, struct err *err)
{
	struct head head;

	if (scan->left == 0)
		return too_short(err);
	head = read_head(scan->next[0]);
	if (head.kind == HEAD_REFUSED)
		return err_set(
			err, "it has the byte 0x%02x where a value should begin", scan->next[0]);
	advance(scan, 1);
	if (scan->left < head.count_bytes)
		return too_short(err);
	for (unsigned i = 0; i < head.count_bytes; i++)
		head.count = head.count << 8 | scan->next[i];
	advance(scan, head.count_bytes);
	*ret_head = head;
	return 0;
}

/* Remembers the key of the map on top; refuses one that is there already. */
static int remember_key(
	struct scan *scan, const struct level *map, uint32_t length, struct err *err)
{
	struct key key = {.bytes = scan->next, .length = length, .hash = 2166136261u};

	for (uint32_t i = 0; i < length; i++)
		key.hash = (key.hash ^ scan->next[i]) * 16777619u;
	for (unsigned i = map->first_key; i < scan->keys_count; i++) {
		const struct key *other = &scan->keys[i];

		if (other->hash == key.hash && other->length == length &&
			memcmp(other->bytes, key.bytes, length) == 0)
			return err_set(err, "it has a map with the same key twice");
	}
	if (scan->keys_count == KEYS_MAX || scan->keys_count - map->first_key == WIRE_MAP_KEYS_MAX)
		return err_set(err, "it has a map with too many keys");
	scan->keys[scan->keys_count++] = key;
	return 0;
}

static int open_container(struct scan *scan, struct head head, struct err *err)
{
	uint64_t values = head.kind == HEAD_MAP ? 2ull * head.count : head.count;

	if (scan->depth == scan->limits->depth_max || scan->depth == WIRE_DEPTH_MAX)
		return err_set(err, "it is too deep: more than %u maps and lists in one another",
			scan->limits->depth_max);
	if (values > scan->left)
		return too_short(err);
	scan->levels[scan->depth++] = (struct level){
		.left = (uint32_t)values,
		.is_map = head.kind == HEAD_MAP,
		.first_key = scan->keys_count,
	};
	return 0;
}

/* Takes one key, one value, or the head of one. */
static int next_object(struct scan *scan, struct err *err)
{
	struct level *level = scan->depth ? &scan->levels[scan->depth - 1] : NULL;
	bool is_key = level && level->is_map && level->left % 2 == 0;
	struct head head = {HEAD_PLAIN, 0, 0};

	if (scan->objects++ == scan->limits->objects_max)
		return err_set(err, "it has more than %u values", scan->limits->objects_max);
	if (next_head(scan, &head, err) < 0)
		return -1;
	if (level)
		level->left--;
	if (is_key && head.kind != HEAD_STR)
		return err_set(err, "it has a map with a key that is not a str");
	if (head.kind == HEAD_ARRAY || head.kind == HEAD_MAP)
		return open_container(scan, head, err);
	if (scan->left < head.count)
		return too_short(err);
	if (head.kind == HEAD_STR && !is_utf8(scan->next, head.count))
		return err_set(err, "it has a str that is not UTF-8");
	if (is_key && remember_key(scan, level, head.count, err) < 0)
		return -1;
	advance(scan, head.count);
	return 0;
}

int wire_guard(const void *bytes, size_t length, const struct wire_limits *limits, struct err *err)
{
	struct scan scan;

	if (length > limits->bytes_max)
		return err_set(
			err, "it is %zu bytes long, more than %zu", length, limits->bytes_max);
	scan.next = bytes;
	scan.left = length;
	scan.limits = limits;
	scan.objects = 0;
	scan.depth = 0;
	scan.keys_count = 0;
	do {
		if (next_object(&scan, err) < 0)
			return -1;
		while (scan.depth && scan.levels[scan.depth - 1].left == 0)
			scan.keys_count = scan.levels[--scan.depth].first_key;
	} while (scan.depth);
	if (scan.left)
		return err_set(err, "%zu bytes follow its end", scan.left);
	return 0;
}
