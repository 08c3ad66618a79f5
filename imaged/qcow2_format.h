/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of the qcow2 format that header, tables and writers share: where the header's fields stand, the magics of its
 * extensions, the limits that we set, and big-endian loads and stores.  Nothing here knows of files. */
#ifndef SLUICE_IMAGED_QCOW2_FORMAT_H
#define SLUICE_IMAGED_QCOW2_FORMAT_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define QCOW2_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

/* Byte offsets of the header's fields, all big-endian. */
#define QCOW2_AT_MAGIC			 0
#define QCOW2_AT_VERSION		 4
#define QCOW2_AT_BACKING_NAME_OFFSET	 8
#define QCOW2_AT_BACKING_NAME_LENGTH	 16
#define QCOW2_AT_CLUSTER_BITS		 20
#define QCOW2_AT_DISK_SIZE		 24
#define QCOW2_AT_ENCRYPTION		 32
#define QCOW2_AT_L1_ENTRIES		 36
#define QCOW2_AT_L1_OFFSET		 40
#define QCOW2_AT_REFCOUNT_TABLE_OFFSET	 48
#define QCOW2_AT_REFCOUNT_TABLE_CLUSTERS 56
#define QCOW2_AT_SNAPSHOTS		 60
#define QCOW2_AT_SNAPSHOTS_OFFSET	 64
#define QCOW2_V2_LENGTH			 72
/* Version 3 only */
#define QCOW2_AT_INCOMPATIBLE	  72
#define QCOW2_AT_COMPATIBLE	  80
#define QCOW2_AT_AUTOCLEAR	  88
#define QCOW2_AT_REFCOUNT_ORDER	  96
#define QCOW2_AT_HEADER_LENGTH	  100
#define QCOW2_AT_COMPRESSION_TYPE 104 /* there only where the header's length says so */
#define QCOW2_V3_LENGTH		  104

/* Header extensions: be32 magic, be32 length, then the content, padded to a multiple of 8. */
#define QCOW2_EXTENSION_END	       UINT32_C(0)
#define QCOW2_EXTENSION_BACKING_FORMAT UINT32_C(0xe2792aca)
#define QCOW2_EXTENSION_FEATURE_NAMES  UINT32_C(0x6803f857)
#define QCOW2_EXTENSION_BITMAPS	       UINT32_C(0x23852875)
#define QCOW2_EXTENSION_ENCRYPTION     UINT32_C(0x0537be77)
#define QCOW2_EXTENSION_DATA_FILE      UINT32_C(0x44415441)
/* Ours, "Slz1": the zones that were open when the header was written, a list of (be64 first host byte, be64 bytes). */
#define QCOW2_EXTENSION_ZONE_HINT UINT32_C(0x536c7a31)
#define QCOW2_ZONE_HINT_ENTRY	  16
/* Ours, "Slz0": no meaning; it keeps the place of an extension that is no longer needed. */
#define QCOW2_EXTENSION_PAD UINT32_C(0x536c7a30)

#define QCOW2_CLUSTER_BITS_MIN	 9
#define QCOW2_CLUSTER_BITS_MAX	 21
#define QCOW2_REFCOUNT_ORDER_MAX 6
/* Larger tables exist in no image that another program would open. */
#define QCOW2_L1_BYTES_MAX	       (UINT64_C(32) << 20)
#define QCOW2_REFCOUNT_TABLE_BYTES_MAX (UINT64_C(8) << 20)
#define QCOW2_SNAPSHOTS_MAX	       65536
#define QCOW2_SNAPSHOT_ENTRY_MIN       40
/* Entries of L1 and L2 tables hold offsets below this. */
#define QCOW2_HOST_BYTES_MAX (UINT64_C(1) << 56)
/* No more of the first cluster than this is looked at for extensions and names. */
#define QCOW2_HEADER_BYTES_MAX (UINT32_C(64) << 10)

/* Bits of table entries that the specification wants to be zero. */
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe)

static inline uint16_t qcow2_load16(const void *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return be16toh(value);
}

static inline uint32_t qcow2_load32(const void *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return be32toh(value);
}

static inline uint64_t qcow2_load64(const void *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return be64toh(value);
}

static inline void qcow2_store16(void *bytes, uint16_t value)
{
	value = htobe16(value);
	memcpy(bytes, &value, sizeof(value));
}

static inline void qcow2_store32(void *bytes, uint32_t value)
{
	value = htobe32(value);
	memcpy(bytes, &value, sizeof(value));
}

static inline void qcow2_store64(void *bytes, uint64_t value)
{
	value = htobe64(value);
	memcpy(bytes, &value, sizeof(value));
}

#endif
