/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a qcow2 header, checked field by field.
 *
 * Everything here was written by a stranger.  The order is: what the file is (magic, version), what it needs of its reader
 * (features, refused by name), the numbers by themselves, the numbers against the file's length and against each other, and
 * at last the extensions and the backing file's name, which share the rest of the first cluster.
 *
 *   0            header_length                          backing name           cluster_size
 *   | the fields | ext | ext | ... | end marker |  ...  | base.qcow2 |  ...   |
 *
 * The result is filled in a local copy and handed over whole: a refused header leaves nothing behind. */
#include "imaged/qcow2_header.h"

#include <stdio.h>
#include <string.h>

#include "imaged/qcow2_format.h"
#include "schemas/errors.gen.h"
#include "schemas/wire.h"

#define INCOMPATIBLE_DATA_FILE	 (UINT64_C(1) << 2)
#define INCOMPATIBLE_COMPRESSION (UINT64_C(1) << 3)
#define INCOMPATIBLE_EXTENDED_L2 (UINT64_C(1) << 4)
#define INCOMPATIBLE_KNOWN                                                                \
	(QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT | INCOMPATIBLE_DATA_FILE | \
		INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2)

/* A part of the file that the header points to. */
struct place {
	const char *name;
	uint64_t offset, length;
};

bool qcow2_header_is(const void *bytes, size_t length)
{
	return length >= 4 && qcow2_load32(bytes) == QCOW2_MAGIC;
}

static int not_supported(struct err *err, const char *feature)
{
	return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
		"the image uses a qcow2 feature that is not supported: %s", feature);
}

static int check_encryption(uint32_t method, struct err *err)
{
	switch (method) {
	case 0:
		return 0;
	case 1:
		return not_supported(err, "AES encryption");
	case 2:
		return not_supported(err, "LUKS encryption");
	}
	return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
		"the image uses an unknown encryption method (number %u)", method);
}

static int unknown_bits(uint64_t bits, struct err *err)
{
	char list[64 * 4] = "";
	size_t used = 0;

	for (unsigned bit = 0; bit < 64; bit++) {
		if (bits >> bit & 1)
			used += (size_t)snprintf(
				list + used, sizeof(list) - used, "%s%u", used ? ", " : "", bit);
	}
	return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
		"the image uses unknown incompatible qcow2 features: bits %s", list);
}

static int check_features(const struct qcow2_header *header, struct err *err)
{
	if (header->incompatible & ~INCOMPATIBLE_KNOWN)
		return unknown_bits(header->incompatible & ~INCOMPATIBLE_KNOWN, err);
	if (header->incompatible & INCOMPATIBLE_DATA_FILE)
		return not_supported(err, "external data file (incompatible bit 2)");
	if (header->incompatible & INCOMPATIBLE_EXTENDED_L2)
		return not_supported(err, "extended L2 entries (incompatible bit 4)");
	if (header->incompatible & QCOW2_INCOMPATIBLE_CORRUPT)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the image is marked corrupt (incompatible bit 1); run qemu-img check -r all on it");
	return 0;
}

/* The type is there only in a header longer than 104 bytes, and must agree with its feature bit. */
static int parse_compression(
	const unsigned char *bytes, struct qcow2_header *header, struct err *err)
{
	bool flagged = header->incompatible & INCOMPATIBLE_COMPRESSION;
	unsigned type = 0;

	if (header->header_length > QCOW2_AT_COMPRESSION_TYPE)
		type = bytes[QCOW2_AT_COMPRESSION_TYPE];
	if (type > 1)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the image uses an unknown compression type (number %u)", type);
	if (flagged != (type != 0))
		return err_set(err,
			"the compression type (%u) contradicts incompatible feature bit 3", type);
	header->zstd = type == 1;
	return 0;
}

static int parse_version_3(
	const unsigned char *bytes, size_t length, struct qcow2_header *header, struct err *err)
{
	if (length < QCOW2_V3_LENGTH)
		return err_set(err, "the file ends within its qcow2 header");
	header->incompatible = qcow2_load64(bytes + QCOW2_AT_INCOMPATIBLE);
	header->compatible = qcow2_load64(bytes + QCOW2_AT_COMPATIBLE);
	header->autoclear = qcow2_load64(bytes + QCOW2_AT_AUTOCLEAR);
	header->refcount_order = qcow2_load32(bytes + QCOW2_AT_REFCOUNT_ORDER);
	header->header_length = qcow2_load32(bytes + QCOW2_AT_HEADER_LENGTH);
	if (check_features(header, err) < 0)
		return -1;
	if (header->refcount_order > QCOW2_REFCOUNT_ORDER_MAX)
		return err_set(err, "the refcount order is %u, more than %u",
			header->refcount_order, QCOW2_REFCOUNT_ORDER_MAX);
	if (header->header_length < QCOW2_V3_LENGTH || header->header_length % 8 != 0 ||
		header->header_length > header->cluster_size)
		return err_set(
			err, "the header's length (%u bytes) is impossible", header->header_length);
	if (header->header_length > length)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the header is longer (%u bytes) than %zu bytes", header->header_length,
			length);
	return parse_compression(bytes, header, err);
}

static int parse_fields(
	const unsigned char *bytes, size_t length, struct qcow2_header *header, struct err *err)
{
	uint32_t cluster_bits = qcow2_load32(bytes + QCOW2_AT_CLUSTER_BITS);

	if (cluster_bits < QCOW2_CLUSTER_BITS_MIN || cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"clusters of 2^%u bytes are not supported, only 512 bytes to 2 MiB",
			cluster_bits);
	header->cluster_bits = cluster_bits;
	header->cluster_size = UINT64_C(1) << cluster_bits;
	header->disk_size = qcow2_load64(bytes + QCOW2_AT_DISK_SIZE);
	header->l1_entries = qcow2_load32(bytes + QCOW2_AT_L1_ENTRIES);
	header->l1_offset = qcow2_load64(bytes + QCOW2_AT_L1_OFFSET);
	header->refcount_table_offset = qcow2_load64(bytes + QCOW2_AT_REFCOUNT_TABLE_OFFSET);
	header->refcount_table_clusters = qcow2_load32(bytes + QCOW2_AT_REFCOUNT_TABLE_CLUSTERS);
	header->snapshots = qcow2_load32(bytes + QCOW2_AT_SNAPSHOTS);
	header->snapshots_offset = qcow2_load64(bytes + QCOW2_AT_SNAPSHOTS_OFFSET);
	if (header->l1_entries == 0)
		header->l1_offset = 0; /* where nothing is means nothing */
	if (header->snapshots == 0)
		header->snapshots_offset = 0;
	header->refcount_order = 4;
	header->header_length = QCOW2_V2_LENGTH;
	if (header->version == 3 && parse_version_3(bytes, length, header, err) < 0)
		return -1;
	return check_encryption(qcow2_load32(bytes + QCOW2_AT_ENCRYPTION), err);
}

static int check_place(
	const struct place *place, uint64_t cluster_size, uint64_t file_size, struct err *err)
{
	if (place->length == 0)
		return 0;
	if (place->offset % cluster_size != 0)
		return err_set(err, "the %s is not at the start of a cluster (offset 0x%llx)",
			place->name, (unsigned long long)place->offset);
	if (place->offset < cluster_size)
		return err_set(err, "the %s lies in the header's cluster", place->name);
	if (place->offset > file_size || place->length > file_size - place->offset)
		return err_set(err,
			"the %s (offset 0x%llx, %llu bytes) reaches outside the file of %llu bytes",
			place->name, (unsigned long long)place->offset,
			(unsigned long long)place->length, (unsigned long long)file_size);
	return 0;
}

static bool places_overlap(const struct place *one, const struct place *other)
{
	return one->length && other->length && one->offset < other->offset + other->length &&
	       other->offset < one->offset + one->length;
}

static int check_table_sizes(const struct qcow2_header *header, struct err *err)
{
	unsigned l2_bits =
		header->cluster_bits * 2 - 3; /* guest bytes of one L2 table, as a power */
	uint64_t needed = (header->disk_size >> l2_bits) +
			  ((header->disk_size & ((UINT64_C(1) << l2_bits) - 1)) != 0);

	if (header->l1_entries * UINT64_C(8) > QCOW2_L1_BYTES_MAX)
		return err_set(err, "the L1 table is too large (%u entries)", header->l1_entries);
	if (header->l1_entries < needed)
		return err_set(err,
			"the L1 table of %u entries is too small for a disk of %llu bytes",
			header->l1_entries, (unsigned long long)header->disk_size);
	if (header->refcount_table_clusters == 0)
		return err_set(err, "the image has no refcount table");
	if (header->refcount_table_clusters > QCOW2_REFCOUNT_TABLE_BYTES_MAX >>
		header->cluster_bits)
		return err_set(err, "the refcount table is too large (%u clusters)",
			header->refcount_table_clusters);
	if (header->snapshots > QCOW2_SNAPSHOTS_MAX)
		return err_set(err, "too many internal snapshots (%u)", header->snapshots);
	return 0;
}

static int check_tables(const struct qcow2_header *header, uint64_t file_size, struct err *err)
{
	const struct place places[] = {
		{"L1 table", header->l1_offset, header->l1_entries * UINT64_C(8)},
		{"refcount table", header->refcount_table_offset,
			(uint64_t)header->refcount_table_clusters << header->cluster_bits},
		{"snapshot table", header->snapshots_offset,
			(uint64_t)header->snapshots * QCOW2_SNAPSHOT_ENTRY_MIN},
	};
	const size_t count = sizeof(places) / sizeof(places[0]);

	for (size_t i = 0; i < count; i++) {
		if (check_place(&places[i], header->cluster_size, file_size, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < count; i++) {
		for (size_t j = i + 1; j < count; j++) {
			if (places_overlap(&places[i], &places[j]))
				return err_set(err, "the %s and the %s overlap", places[i].name,
					places[j].name);
		}
	}
	return 0;
}

/* UTF-8 without control characters: it will be shown on terminals, sent, and compared with what users type. */
static bool is_plain_text(const unsigned char *bytes, size_t length)
{
	size_t character;

	for (size_t i = 0; i < length; i += character) {
		character = wire_utf8_character(bytes + i, length - i);
		if (character == 0 || bytes[i] < 0x20 || bytes[i] == 0x7f)
			return false;
		if (bytes[i] == 0xc2 && bytes[i + 1] < 0xa0) /* U+0080 to U+009F */
			return false;
	}
	return true;
}

static int copy_text(char *ret_text, const unsigned char *bytes, uint32_t length, const char *what,
	struct err *err)
{
	if (!is_plain_text(bytes, length))
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the %s in the header is not UTF-8 text without control characters", what);
	memcpy(ret_text, bytes, length);
	ret_text[length] = '\0';
	return 0;
}

static int parse_backing_name(
	const unsigned char *bytes, size_t length, struct qcow2_header *header, struct err *err)
{
	uint64_t offset = qcow2_load64(bytes + QCOW2_AT_BACKING_NAME_OFFSET);
	uint32_t name_length = qcow2_load32(bytes + QCOW2_AT_BACKING_NAME_LENGTH);

	if (offset == 0 || name_length == 0)
		return 0;
	if (name_length > QCOW2_NAME_MAX)
		return err_set(err, "the backing file's name is too long (%u bytes)", name_length);
	if (offset < header->header_length || offset >= header->cluster_size ||
		name_length > header->cluster_size - offset)
		return err_set(err,
			"the backing file's name (offset 0x%llx, %u bytes) is not in the first cluster",
			(unsigned long long)offset, name_length);
	if (offset > length || name_length > length - offset)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the backing file's name is not in the first %zu bytes of the file",
			length);
	header->backing_name_offset = offset;
	return copy_text(
		header->backing_name, bytes + offset, name_length, "backing file's name", err);
}

static int parse_backing_format(struct qcow2_header *header, uint64_t offset,
	const unsigned char *content, uint32_t length, struct err *err)
{
	if (header->backing_format_offset)
		return err_set(err, "the header names the backing file's format twice");
	if (length > QCOW2_FORMAT_MAX)
		return err_set(err, "the name of the backing file's format is too long (%u bytes)",
			length);
	header->backing_format_offset = offset;
	return copy_text(header->backing_format, content, length, "backing file's format", err);
}

static int parse_bitmaps(
	struct qcow2_header *header, uint64_t offset, uint32_t length, struct err *err)
{
	if (header->has_bitmaps)
		return err_set(err, "the header has two bitmaps extensions");
	header->has_bitmaps = true;
	header->bitmaps_offset = offset;
	header->bitmaps_length = length;
	return 0;
}

static int parse_zone_hint(
	struct qcow2_header *header, uint64_t offset, uint32_t length, struct err *err)
{
	if (header->zone_hint_offset)
		return err_set(err, "the header has two zone hint extensions");
	if (length % QCOW2_ZONE_HINT_ENTRY != 0)
		return err_set(err, "the zone hint's length (%u bytes) is impossible", length);
	header->zone_hint_offset = offset;
	header->zone_hint_length = length;
	return 0;
}

static int parse_extension(struct qcow2_header *header, const unsigned char *bytes, uint64_t offset,
	uint32_t length, struct err *err)
{
	switch (qcow2_load32(bytes + offset)) {
	case QCOW2_EXTENSION_BACKING_FORMAT:
		return parse_backing_format(header, offset, bytes + offset + 8, length, err);
	case QCOW2_EXTENSION_BITMAPS:
		return parse_bitmaps(header, offset, length, err);
	case QCOW2_EXTENSION_ZONE_HINT:
		return parse_zone_hint(header, offset, length, err);
	case QCOW2_EXTENSION_ENCRYPTION:
		header->has_encryption_header = true;
		return 0;
	case QCOW2_EXTENSION_FEATURE_NAMES:
	case QCOW2_EXTENSION_DATA_FILE:
	case QCOW2_EXTENSION_PAD:
		return 0;
	}
	header->has_unknown_extensions = true;
	return 0;
}

/* The extensions stand between the fields and the backing file's name, or the end of the first cluster.  They need not fill it,
 * nor end with a marker. */
static int parse_extensions(
	const unsigned char *bytes, size_t length, struct qcow2_header *header, struct err *err)
{
	uint64_t offset = header->header_length;
	uint64_t area_end =
		header->backing_name_offset ? header->backing_name_offset : header->cluster_size;

	while (offset + 8 <= area_end) {
		uint32_t extension_length;

		if (offset + 8 > length)
			break;
		if (qcow2_load32(bytes + offset) == QCOW2_EXTENSION_END) {
			header->extensions_end = offset;
			return 0;
		}
		extension_length = qcow2_load32(bytes + offset + 4);
		if (extension_length > area_end - offset - 8)
			return err_set(err,
				"the header extension 0x%08x at offset 0x%llx is too long (%u bytes)",
				qcow2_load32(bytes + offset), (unsigned long long)offset,
				extension_length);
		if (extension_length > length - offset - 8)
			break;
		if (parse_extension(header, bytes, offset, extension_length, err) < 0)
			return -1;
		offset += 8 + (extension_length + UINT64_C(7)) / 8 * 8;
	}
	if (length < area_end && offset + 8 <= area_end)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"the header extensions do not end in the first %zu bytes of the file",
			length);
	return 0;
}

int qcow2_header_parse(const void *bytes, size_t length, uint64_t file_size,
	struct qcow2_header *ret_header, struct err *err)
{
	struct qcow2_header header = {0};

	if (!qcow2_header_is(bytes, length))
		return err_set(err, "the file is not in qcow2 format");
	if (length < QCOW2_V2_LENGTH)
		return err_set(err, "the file ends within its qcow2 header");
	header.version = qcow2_load32((const unsigned char *)bytes + QCOW2_AT_VERSION);
	if (header.version != 2 && header.version != 3)
		return err_set_kind(err, ERROR_CLASS_NOT_SUPPORTED,
			"qcow2 version %u is not supported, only 2 and 3", header.version);
	if (parse_fields(bytes, length, &header, err) < 0 || check_table_sizes(&header, err) < 0 ||
		check_tables(&header, file_size, err) < 0 ||
		parse_backing_name(bytes, length, &header, err) < 0 ||
		parse_extensions(bytes, length, &header, err) < 0)
		return -1;
	*ret_header = header;
	return 0;
}
