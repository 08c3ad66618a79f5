/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the bitmap directory and sets the in-use flags in it; the only other thing that is written are the autoclear bits. */
#include "imaged/qcow2_bitmaps.h"

#include <errno.h>
#include <stdlib.h>

#include "common/check.h"
#include "common/io.h"
#include "common/log.h"
#include "imaged/qcow2_format.h"
#include "imaged/qcow2_head.h"
#include "imaged/qcow2_refcount.h"
#include "imaged/qcow2_update.h"

#define ENTRY_MIN	  24
#define ENTRY_FLAGS	  12
#define FLAG_IN_USE	  UINT32_C(1)
#define BITMAPS_MAX	  65535
#define DIRECTORY_MAX	  (UINT64_C(256) << 20)
#define TABLE_ENTRIES_MAX (UINT32_C(1) << 27) /* as in QEMU */
#define BITMAPS_EXTENSION 24

/* The directory's place as the header extension gives it; offset 0: none. */
static int find_directory(
	const struct qcow2 *image, struct bitmap_directory *directory, struct err *err)
{
	struct head_extension extension;
	const unsigned char *content;
	uint64_t length;

	if (!(image->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS) ||
		!head_extension_find(image, QCOW2_EXTENSION_BITMAPS, &extension))
		return 0;
	if (extension.length != BITMAPS_EXTENSION)
		return err_set(err, "the bitmaps extension has %u bytes", extension.length);
	content = image->head->bytes + extension.at + 8;
	length = qcow2_load64(content + 8);
	directory->count = qcow2_load32(content);
	directory->offset = qcow2_load64(content + 16);
	if (directory->count > BITMAPS_MAX || length > DIRECTORY_MAX ||
		length < (uint64_t)directory->count * ENTRY_MIN)
		return err_set(err, "a bitmap directory of %u bitmaps cannot have %llu bytes",
			directory->count, (unsigned long long)length);
	if (directory->offset < image->header.cluster_size ||
		directory->offset % image->header.cluster_size)
		return err_set(err, "the bitmap directory is at %llu, which is no cluster",
			(unsigned long long)directory->offset);
	directory->length = (size_t)length;
	return 0;
}

int qcow2_bitmaps_read(
	const struct qcow2 *image, struct bitmap_directory *ret_directory, struct err *err)
{
	struct bitmap_directory directory = {.offset = 0};

	if (find_directory(image, &directory, err) < 0)
		return -1;
	if (directory.offset == 0) {
		*ret_directory = directory;
		return 0;
	}
	directory.bytes = must_calloc(1, directory.length + 1);
	if (pread_full(image->fd, directory.bytes, directory.length, directory.offset) < 0) {
		free(directory.bytes);
		return err_set_errno(err, errno, "cannot read the bitmap directory");
	}
	*ret_directory = directory;
	return 0;
}

int bitmap_entry_parse(const struct bitmap_directory *directory, size_t at,
	struct bitmap_entry *ret_entry, struct err *err)
{
	const unsigned char *bytes = directory->bytes + at;
	uint64_t size;

	if (at + ENTRY_MIN > directory->length)
		return err_set(err, "the bitmap directory ends within an entry");
	size = ENTRY_MIN + (uint64_t)qcow2_load16(bytes + 18) + qcow2_load32(bytes + 20);
	size = (size + 7) & ~UINT64_C(7);
	if (size > directory->length - at)
		return err_set(err, "the bitmap directory ends within an entry");
	if (qcow2_load32(bytes + 8) > TABLE_ENTRIES_MAX)
		return err_set(
			err, "the table of a bitmap has %u entries", qcow2_load32(bytes + 8));
	*ret_entry = (struct bitmap_entry){.table_offset = qcow2_load64(bytes),
		.table_entries = qcow2_load32(bytes + 8),
		.at = at,
		.end = at + (size_t)size};
	return 0;
}

static int mark_all(struct bitmap_directory *directory, struct err *err)
{
	struct bitmap_entry entry = {.end = 0};

	for (uint32_t i = 0; i < directory->count; i++) {
		unsigned char *flags;

		if (bitmap_entry_parse(directory, entry.end, &entry, err) < 0)
			return -1;
		flags = directory->bytes + entry.at + ENTRY_FLAGS;
		qcow2_store32(flags, qcow2_load32(flags) | FLAG_IN_USE);
	}
	return 0;
}

/* 0: all are marked (or there are none). 1: they cannot be understood. */
static int mark_in_use(struct qcow2 *image, struct err *err)
{
	struct bitmap_directory directory = {.offset = 0};
	struct err why;
	int outcome = 0;

	if (qcow2_bitmaps_read(image, &directory, &why) < 0 || mark_all(&directory, &why) < 0) {
		log_warn("%s: its bitmaps are declared inconsistent: %s", image->path, why.text);
		outcome = 1;
	} else if (directory.count > 0) {
		if (pwrite_full(image->fd, directory.bytes, directory.length, directory.offset) < 0)
			outcome = err_set_errno(
				err, errno, "%s: cannot mark its bitmaps as in use", image->path);
		else
			outcome = qcow2_flush(image, err);
	}
	free(directory.bytes);
	return outcome;
}

int qcow2_bitmaps_before_writing(struct qcow2 *image, struct err *err)
{
	uint64_t keep = QCOW2_AUTOCLEAR_BITMAPS;
	int marked;

	if (image->header.version < 3 || image->header.autoclear == 0)
		return 0;
	marked = mark_in_use(image, err);
	if (marked < 0)
		return -1;
	if (marked > 0 || !image->header.has_bitmaps)
		keep = 0;
	if ((image->header.autoclear & ~keep) == 0)
		return 0;
	if (qcow2_head_set_features(
		    image, image->header.incompatible, image->header.autoclear & keep, err) < 0)
		return -1;
	return qcow2_flush(image, err);
}
