/* SPDX-License-Identifier: Apache-2.0 */
/* Our header extension: which parts of the file may hold clusters that are counted as in use while nothing refers to them.
 *
 * It is a hint: any value of it is safe, since nobody frees a cluster there without looking for references to it first.  So
 * only its appearing and going must be whole, and those are one sector's write: the end marker becomes its header, or its
 * header becomes the end marker. */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_update.h"

static int compare_windows(const void *left, const void *right)
{
	const struct zone_window *a = left, *b = right;

	return (a->offset > b->offset) - (a->offset < b->offset);
}

static void join_with_next(struct zone_window *windows, unsigned count, unsigned at)
{
	uint64_t end = windows[at].offset + windows[at].length;
	uint64_t next_end = windows[at + 1].offset + windows[at + 1].length;

	windows[at].length = (next_end > end ? next_end : end) - windows[at].offset;
	memmove(&windows[at + 1], &windows[at + 2], (count - at - 2) * sizeof(*windows));
}

unsigned zone_windows_join(struct zone_window *windows, unsigned count, unsigned most)
{
	qsort(windows, count, sizeof(*windows), compare_windows);
	while (count > 1) {
		unsigned closest = 0;
		uint64_t least = UINT64_MAX;

		for (unsigned i = 0; i + 1 < count; i++) {
			uint64_t end = windows[i].offset + windows[i].length;
			uint64_t gap =
				windows[i + 1].offset > end ? windows[i + 1].offset - end : 0;

			if (gap < least) {
				least = gap;
				closest = i;
			}
		}
		if (least > 0 && count <= most)
			break;
		join_with_next(windows, count, closest);
		count--;
	}
	return count;
}

unsigned qcow2_head_windows(const struct qcow2 *image, struct zone_window *ret_windows)
{
	const struct qcow2_head *head = image->head;
	unsigned count = 0;

	for (unsigned i = 0; head->hint_at != 0 && i < head->hint_room; i++) {
		const unsigned char *entry =
			head->bytes + head->hint_at + 8 + i * QCOW2_ZONE_HINT_ENTRY;
		struct zone_window window = {qcow2_load64(entry), qcow2_load64(entry + 8)};

		if (window.length == 0 || window.length > INT64_MAX || window.offset > INT64_MAX)
			continue;
		ret_windows[count++] = window;
	}
	return count;
}

/* The bytes as they will be with room for `room` windows: the end marker moved on, the name out of the way. */
static unsigned char *head_with_hint(const struct qcow2 *image, unsigned room, size_t *ret_name_at)
{
	const struct qcow2_header *header = &image->header;
	const struct qcow2_head *head = image->head;
	size_t needed = 8 + room * QCOW2_ZONE_HINT_ENTRY;
	size_t at = (size_t)header->extensions_end;
	size_t name_at = (size_t)header->backing_name_offset,
	       name_length = strlen(header->backing_name);
	unsigned char *bytes;

	if (at + 8 + needed > head->length)
		return NULL;
	if (name_at != 0 && name_at < at + 8 + needed) {
		name_at = head_place_for_name(header, head->length, needed, name_length);
		if (name_at == 0)
			return NULL;
	}
	bytes = must_calloc(1, head->length);
	memcpy(bytes, head->bytes, head->length);
	memset(bytes + at, 0, 8 + needed);
	if (name_at != 0)
		memcpy(bytes + name_at, header->backing_name, name_length);
	qcow2_store64(bytes + QCOW2_AT_BACKING_NAME_OFFSET, name_at);
	qcow2_store32(bytes + at, QCOW2_EXTENSION_ZONE_HINT);
	qcow2_store32(bytes + at + 4, (uint32_t)(needed - 8));
	*ret_name_at = name_at;
	return bytes;
}

/* Whether the header could still be switched then: to what was promised, or else to a name as long as the one that is there. */
static bool can_switch_later(const struct qcow2 *image, const unsigned char *bytes)
{
	const struct qcow2_head *head = image->head;
	char name[QCOW2_NAME_MAX + 1];
	const char *format =
		head->has_promise ? head->promised_format : image->header.backing_format;
	struct qcow2_header header;
	unsigned char *planned;
	size_t name_at;

	memcpy(name, head->has_promise ? head->promised_name : image->header.backing_name,
		sizeof(name));
	if (!head->has_promise && name[0] != '\0')
		name[0] = name[0] == 'x' ? 'y' : 'x';
	if (qcow2_header_parse(bytes, head->length, INT64_MAX, &header, NULL) < 0)
		return false;
	if (head_plan_backing(
		    bytes, head->length, &header, name, format, &planned, &name_at, NULL) < 0)
		return false;
	free(planned);
	return true;
}

/* The name stands where the extension is to be: elsewhere with it, then the pointer to it. */
static int move_name(struct qcow2 *image, size_t place, struct err *err)
{
	if (qcow2_head_write_name(image, place, image->header.backing_name, err) < 0)
		return -1;
	qcow2_store64(image->head->bytes + QCOW2_AT_BACKING_NAME_OFFSET, place);
	if (qcow2_head_write(image, 0, HEAD_SECTOR, err) < 0 || qcow2_flush(image, err) < 0)
		return -1;
	pthread_mutex_lock(&image->lock);
	image->header.backing_name_offset = place;
	pthread_mutex_unlock(&image->lock);
	return 0;
}

/* How many windows there is room for, and where the name goes then. */
static unsigned room_for_windows(const struct qcow2 *image, size_t *ret_name_at)
{
	for (unsigned room = ZONE_WINDOWS_MAX; room > 0; room--) {
		unsigned char *bytes = head_with_hint(image, room, ret_name_at);
		bool fits = bytes && can_switch_later(image, bytes);

		free(bytes);
		if (fits)
			return room;
	}
	return 0;
}

static int insert(struct qcow2 *image, struct err *err)
{
	struct qcow2_head *head = image->head;
	size_t at = (size_t)image->header.extensions_end, name_at = 0;
	unsigned room = room_for_windows(image, &name_at);
	size_t needed = 8 + room * QCOW2_ZONE_HINT_ENTRY;

	if (room == 0) {
		head->hint_impossible = true;
		return 0;
	}
	if (name_at != image->header.backing_name_offset && move_name(image, name_at, err) < 0)
		return -1;
	/* Content and the new end marker, still invisible behind the old one. */
	memset(head->bytes + at + 8, 0, needed);
	if (qcow2_head_write(image, at + 8, needed, err) < 0 || qcow2_flush(image, err) < 0)
		return -1;
	qcow2_store32(head->bytes + at, QCOW2_EXTENSION_ZONE_HINT);
	qcow2_store32(head->bytes + at + 4, (uint32_t)(needed - 8));
	if (qcow2_head_write(image, at, 8, err) < 0)
		return -1;
	head->hint_at = at;
	head->hint_room = room;
	pthread_mutex_lock(&image->lock);
	image->header.extensions_end = at + needed;
	image->header.zone_hint_offset = at;
	image->header.zone_hint_length = (uint32_t)(needed - 8);
	pthread_mutex_unlock(&image->lock);
	return 0;
}

/* The last extension becomes the end marker; one that others stand behind stays, empty. */
static int take_out(struct qcow2 *image, struct err *err)
{
	struct qcow2_head *head = image->head;
	size_t at = head->hint_at;

	memset(head->bytes + at + 8, 0, head->hint_room * QCOW2_ZONE_HINT_ENTRY);
	if (qcow2_head_write(image, at + 8, head->hint_room * QCOW2_ZONE_HINT_ENTRY, err) < 0)
		return -1;
	if (at + 8 + image->header.zone_hint_length != image->header.extensions_end)
		return 0;
	memset(head->bytes + at, 0, 8);
	if (qcow2_head_write(image, at, 8, err) < 0)
		return -1;
	head->hint_at = 0;
	pthread_mutex_lock(&image->lock);
	image->header.extensions_end = at;
	image->header.zone_hint_offset = 0;
	image->header.zone_hint_length = 0;
	pthread_mutex_unlock(&image->lock);
	return 0;
}

int qcow2_head_set_windows(
	struct qcow2 *image, const struct zone_window *windows, unsigned count, struct err *err)
{
	struct qcow2_head *head = image->head;
	struct zone_window *joined;
	unsigned char *entries;

	if (head->hint_impossible || (count == 0 && head->hint_at == 0))
		return 0;
	if (count == 0)
		return take_out(image, err);
	if (head->hint_at == 0) {
		if (insert(image, err) < 0)
			return -1;
		if (head->hint_at == 0)
			return 0;
	}
	joined = must_calloc(count, sizeof(*joined));
	memcpy(joined, windows, count * sizeof(*joined));
	count = zone_windows_join(joined, count, head->hint_room);
	entries = head->bytes + head->hint_at + 8;
	for (unsigned i = 0; i < head->hint_room; i++) {
		qcow2_store64(
			entries + i * QCOW2_ZONE_HINT_ENTRY, i < count ? joined[i].offset : 0);
		qcow2_store64(
			entries + i * QCOW2_ZONE_HINT_ENTRY + 8, i < count ? joined[i].length : 0);
	}
	free(joined);
	return qcow2_head_write(
		image, head->hint_at + 8, head->hint_room * QCOW2_ZONE_HINT_ENTRY, err);
}
