/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the first cluster, walks its extensions, writes its sectors. */
#include "imaged/qcow2_head.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/check.h"
#include "common/io.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"

bool head_extension_at(
	const unsigned char *bytes, size_t length, size_t at, struct head_extension *ret_extension)
{
	struct head_extension extension;

	if (at + 8 > length)
		return false;
	extension.magic = qcow2_load32(bytes + at);
	extension.length = qcow2_load32(bytes + at + 4);
	extension.at = at;
	if (extension.magic == QCOW2_EXTENSION_END || extension.length > length - at - 8)
		return false;
	*ret_extension = extension;
	return true;
}

size_t head_extension_end(const struct head_extension *extension)
{
	return extension->at + 8 + ((extension->length + 7) & ~(size_t)7);
}

size_t head_extensions_begin(const struct qcow2 *image)
{
	return image->header.version == 2 ? QCOW2_V2_LENGTH : image->header.header_length;
}

/* The extensions end where their marker says, or where the backing file's name begins. */
static size_t extensions_limit(const struct qcow2 *image)
{
	uint64_t limit = image->head->length;

	if (image->header.extensions_end != 0)
		limit = image->header.extensions_end;
	else if (image->header.backing_name_offset != 0 &&
		 image->header.backing_name_offset < limit)
		limit = image->header.backing_name_offset;
	return (size_t)limit;
}

bool head_extension_find(
	const struct qcow2 *image, uint32_t magic, struct head_extension *ret_extension)
{
	size_t limit = extensions_limit(image);
	struct head_extension extension;

	for (size_t at = head_extensions_begin(image);
		head_extension_at(image->head->bytes, limit, at, &extension);
		at = head_extension_end(&extension)) {
		if (extension.magic == magic) {
			*ret_extension = extension;
			return true;
		}
	}
	return false;
}

int qcow2_head_load(struct qcow2 *image, struct err *err)
{
	struct qcow2_head *head = must_calloc(1, sizeof(*head));
	struct head_extension hint;
	pthread_mutexattr_t attributes;

	head->length = image->header.cluster_size < QCOW2_HEADER_BYTES_MAX
			       ? (size_t)image->header.cluster_size
			       : QCOW2_HEADER_BYTES_MAX;
	head->bytes = must_calloc(1, head->length);
	if (pread_full(image->fd, head->bytes, head->length, 0) < 0 && errno != ENODATA) {
		err_set_errno(err, errno, "%s: cannot read the header", image->path);
		free(head->bytes);
		free(head);
		return -1;
	}
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&head->lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
	image->head = head;
	if (image->header.extensions_end == 0)
		head->hint_impossible = true;
	else if (head_extension_find(image, QCOW2_EXTENSION_ZONE_HINT, &hint)) {
		head->hint_at = hint.at;
		head->hint_room = hint.length / QCOW2_ZONE_HINT_ENTRY;
		if (head->hint_room > ZONE_WINDOWS_MAX)
			head->hint_room = ZONE_WINDOWS_MAX;
		head->hint_impossible = head->hint_room == 0;
	}
	return 0;
}

void qcow2_head_free(struct qcow2_head *head)
{
	if (!head)
		return;
	pthread_mutex_destroy(&head->lock);
	free(head->bytes);
	free(head);
}

int qcow2_head_write(struct qcow2 *image, size_t at, size_t length, struct err *err)
{
	size_t from = at & ~(size_t)(HEAD_SECTOR - 1);
	size_t to = (at + length + HEAD_SECTOR - 1) & ~(size_t)(HEAD_SECTOR - 1);

	bug_if(to > image->head->length);
	if (pwrite_full(image->fd, image->head->bytes + from, to - from, from) < 0) {
		int number = errno;

		pthread_mutex_lock(&image->lock);
		qcow2_fail(image, number, "cannot write the header", err);
		pthread_mutex_unlock(&image->lock);
		return -1;
	}
	return 0;
}

size_t head_place_for_name(
	const struct qcow2_header *header, size_t room, size_t keep, size_t length)
{
	size_t name_begin = (size_t)header->backing_name_offset;
	size_t name_end = name_begin + strlen(header->backing_name);
	size_t begin = (size_t)header->extensions_end + 8 + keep;

	if (header->extensions_end == 0)
		return 0;
	if (name_begin != 0 && begin < name_end && begin + length > name_begin)
		begin = (name_end + 7) & ~(size_t)7;
	return begin + length <= room ? begin : 0;
}

int qcow2_head_write_name(struct qcow2 *image, size_t at, const char *name, struct err *err)
{
	memcpy(image->head->bytes + at, name, strlen(name));
	if (qcow2_head_write(image, at, strlen(name), err) < 0)
		return -1;
	return qcow2_flush(image, err);
}

int qcow2_head_set_refcount_table(
	struct qcow2 *image, uint64_t offset, uint32_t clusters, struct err *err)
{
	unsigned char *bytes = image->head->bytes;

	qcow2_store64(bytes + QCOW2_AT_REFCOUNT_TABLE_OFFSET, offset);
	qcow2_store32(bytes + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS, clusters);
	if (pwrite_full(image->fd, bytes, HEAD_SECTOR, 0) < 0)
		return qcow2_fail(image, errno, "cannot write the header", err);
	return 0;
}

int qcow2_head_set_features(
	struct qcow2 *image, uint64_t incompatible, uint64_t autoclear, struct err *err)
{
	if (image->header.version < 3)
		return 0;
	qcow2_store64(image->head->bytes + QCOW2_AT_INCOMPATIBLE, incompatible);
	qcow2_store64(image->head->bytes + QCOW2_AT_AUTOCLEAR, autoclear);
	if (qcow2_head_write(image, 0, HEAD_SECTOR, err) < 0)
		return -1;
	pthread_mutex_lock(&image->lock);
	image->header.incompatible = incompatible;
	image->header.autoclear = autoclear;
	pthread_mutex_unlock(&image->lock);
	return 0;
}
