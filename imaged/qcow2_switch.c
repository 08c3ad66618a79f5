/* SPDX-License-Identifier: Apache-2.0 */
/* The backing file in the header, changed by one write of its first sector.
 *
 * That sector holds the name's offset and length, and must hold the format extension; the name itself may be anywhere in the
 * first cluster.  So the new name goes where neither the old one nor an extension is, and is flushed; then the sector, and
 * is flushed.  An extension that changes its size moves those behind it, which is one write only where the whole
 * extension area lies in the sector; else a shorter one is followed by one without meaning that fills the place.
 *
 *   | fields: offset, length | format | names of features ... | end |  old name  |  new name  |
 *   |<------------- first sector, one write -------------->|                   ^ before it */
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_update.h"
#include "schemas/errors.gen.h"

/* The bytes [at, at+size) that the format extension has now, or will have. */
struct slot {
	size_t at, size;
};

static struct slot find_slot(const unsigned char *bytes, const struct qcow2_header *header)
{
	size_t limit = (size_t)header->extensions_end;
	size_t begin = header->version == 2 ? QCOW2_V2_LENGTH : header->header_length;
	struct slot slot = {.at = begin, .size = 0};
	struct head_extension extension;

	for (size_t at = begin; head_extension_at(bytes, limit, at, &extension);
		at = head_extension_end(&extension)) {
		bool is_format = extension.magic == QCOW2_EXTENSION_BACKING_FORMAT;

		if (is_format || extension.magic == QCOW2_EXTENSION_PAD)
			slot = (struct slot){at, head_extension_end(&extension) - at};
		if (is_format)
			break;
	}
	return slot;
}

static void write_format(unsigned char *at, const char *format)
{
	size_t length = strlen(format);

	memset(at, 0, 8 + ((length + 7) & ~(size_t)7));
	qcow2_store32(at, QCOW2_EXTENSION_BACKING_FORMAT);
	qcow2_store32(at + 4, (uint32_t)length);
	memcpy(at + 8, format, length);
}

static void write_pad(unsigned char *at, size_t size)
{
	memset(at, 0, size);
	qcow2_store32(at, QCOW2_EXTENSION_PAD);
	qcow2_store32(at + 4, (uint32_t)(size - 8));
}

/* Changes the extensions in `bytes`; *end is the end marker's offset before and after. */
static int set_format(unsigned char *bytes, const struct qcow2_header *header, const char *format,
	size_t *end, struct err *err)
{
	struct slot slot = find_slot(bytes, header);
	size_t wanted = format[0] ? 8 + ((strlen(format) + 7) & ~(size_t)7) : 0;
	size_t behind = slot.at + slot.size;

	if (slot.at + (slot.size > wanted ? slot.size : wanted) > HEAD_SECTOR)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the format of the backing file stands outside the header's first 512 bytes");
	if (slot.size != wanted && *end + 8 <= HEAD_SECTOR &&
		*end + 8 - slot.size + wanted <= HEAD_SECTOR) {
		memmove(bytes + slot.at + wanted, bytes + behind, *end + 8 - behind);
		*end = *end - slot.size + wanted;
		/* What a shorter area leaves behind it is nobody's; the name found its place before this. */
	} else if (slot.size >= wanted + 8) {
		write_pad(bytes + slot.at + wanted, slot.size - wanted);
	} else if (slot.size != wanted) {
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the header has no room for the backing file's format '%s' in its first 512 bytes",
			format);
	}
	if (wanted > 0)
		write_format(bytes + slot.at, format);
	return 0;
}

/* Where the new name goes: not over the old one, and behind the extensions as they are and as they will be. */
static size_t place_name(
	const struct qcow2_header *header, size_t room, size_t new_end, const char *name)
{
	size_t growth =
		new_end > header->extensions_end ? new_end - (size_t)header->extensions_end : 0;
	size_t hint = header->zone_hint_offset ? 0 : 8 + ZONE_WINDOWS_MAX * QCOW2_ZONE_HINT_ENTRY;
	size_t place;

	if (strcmp(name, header->backing_name) == 0 && header->backing_name_offset >= new_end + 8)
		return (size_t)header->backing_name_offset;
	place = head_place_for_name(header, room, growth + hint, strlen(name));
	return place ? place : head_place_for_name(header, room, growth, strlen(name));
}

int head_plan_backing(const unsigned char *bytes, size_t length, const struct qcow2_header *header,
	const char *name, const char *format, unsigned char **ret_bytes, size_t *ret_name_at,
	struct err *err)
{
	CLEANUP_FREE unsigned char *planned = must_calloc(1, length);
	size_t end = (size_t)header->extensions_end, place = 0;
	struct qcow2_header check;

	if (strlen(name) > QCOW2_NAME_MAX || strlen(format) > QCOW2_FORMAT_MAX)
		return err_set(err, "the backing file name is too long");
	if (header->extensions_end == 0)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the header's extensions have no end marker; qemu-img rebase -u on the image mends that");
	memcpy(planned, bytes, length);
	if (set_format(planned, header, name[0] ? format : "", &end, err) < 0)
		return -1;
	if (name[0]) {
		place = place_name(header, length, end, name);
		if (place == 0)
			return err_set(err,
				"the backing file name is too long: the first cluster has no room for '%s' beside the old one",
				name);
		memcpy(planned + place, name, strlen(name));
	}
	qcow2_store64(planned + QCOW2_AT_BACKING_NAME_OFFSET, place);
	qcow2_store32(planned + QCOW2_AT_BACKING_NAME_LENGTH, (uint32_t)strlen(name));
	if (qcow2_header_parse(planned, length, INT64_MAX, &check, err) < 0)
		return -1;
	*ret_bytes = steal(&planned);
	*ret_name_at = place;
	return 0;
}

static bool is_switched(const struct qcow2_header *header, const char *name, const char *format)
{
	return strcmp(header->backing_name, name) == 0 &&
	       strcmp(header->backing_format, name[0] ? format : "") == 0;
}

int qcow2_check_backing(struct qcow2 *image, const char *name, const char *format, struct err *err)
{
	struct qcow2_head *head = image->head;
	unsigned char *planned = NULL;
	size_t name_at;
	int outcome = 0;

	if (!head)
		return err_set_kind(
			err, ERROR_CLASS_NOT_SUPPORTED, "%s is open for reading only", image->path);
	pthread_mutex_lock(&head->lock);
	if (strlen(name) > QCOW2_NAME_MAX || strlen(format) > QCOW2_FORMAT_MAX)
		outcome = err_set(err, "the backing file name is too long");
	else if (!is_switched(&image->header, name, format))
		outcome = head_plan_backing(head->bytes, head->length, &image->header, name, format,
			&planned, &name_at, err);
	if (outcome == 0) {
		head->has_promise = true;
		memcpy(head->promised_name, name, strlen(name) + 1);
		memcpy(head->promised_format, format, strlen(format) + 1);
	}
	pthread_mutex_unlock(&head->lock);
	free(planned);
	return outcome < 0 ? err_wrap(err, "%s", image->path) : 0;
}

/* What was parsed before moved with the sector. */
static int take_over(struct qcow2 *image, unsigned char *planned, struct err *err)
{
	struct qcow2_head *head = image->head;
	struct qcow2_header header;

	memcpy(head->bytes, planned, HEAD_SECTOR);
	if (qcow2_head_write(image, 0, HEAD_SECTOR, err) < 0 || qcow2_flush(image, err) < 0)
		return -1;
	bug_if(qcow2_header_parse(head->bytes, head->length, INT64_MAX, &header, NULL) < 0);
	/* Only what a switch changes: guests read the rest meanwhile, without the lock. */
	pthread_mutex_lock(&image->lock);
	memcpy(image->header.backing_name, header.backing_name, sizeof(header.backing_name));
	memcpy(image->header.backing_format, header.backing_format, sizeof(header.backing_format));
	image->header.backing_name_offset = header.backing_name_offset;
	image->header.backing_format_offset = header.backing_format_offset;
	image->header.extensions_end = header.extensions_end;
	image->header.zone_hint_offset = header.zone_hint_offset;
	image->header.zone_hint_length = header.zone_hint_length;
	image->header.bitmaps_offset = header.bitmaps_offset;
	image->header.bitmaps_length = header.bitmaps_length;
	image->header.has_unknown_extensions = header.has_unknown_extensions;
	pthread_mutex_unlock(&image->lock);
	head->hint_at = (size_t)header.zone_hint_offset;
	return 0;
}

static int switch_locked(struct qcow2 *image, const char *name, const char *format, struct err *err)
{
	struct qcow2_head *head = image->head;
	CLEANUP_FREE unsigned char *planned = NULL;
	size_t name_at;

	if (is_switched(&image->header, name, format))
		return qcow2_flush(image, err);
	if (head_plan_backing(head->bytes, head->length, &image->header, name, format, &planned,
		    &name_at, err) < 0)
		return err_wrap(err, "%s", image->path);
	if (name[0] && name_at != image->header.backing_name_offset) {
		if (qcow2_head_write_name(image, name_at, name, err) < 0)
			return -1;
	} else if (qcow2_flush(image, err) < 0) {
		return -1;
	}
	return take_over(image, planned, err);
}

int qcow2_switch_backing(struct qcow2 *image, const char *name, const char *format, struct err *err)
{
	int outcome;

	if (!image->head)
		return err_set_kind(
			err, ERROR_CLASS_NOT_SUPPORTED, "%s is open for reading only", image->path);
	pthread_mutex_lock(&image->head->lock);
	outcome = switch_locked(image, name, format, err);
	pthread_mutex_unlock(&image->head->lock);
	return outcome;
}
