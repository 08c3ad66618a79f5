/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/write_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/check.h"
#include "common/cleanup.h"
#include "common/log.h"

#define MAGIC	     UINT64_C(0x31676f6c65756c73) /* "sluelog1" */
#define HEADER_BYTES 4096
#define LOG_BYTES    (HEADER_BYTES + PENDING_SLOTS * sizeof(struct pending_slot))

/* Whose log it is: all of it must be the same. */
struct owner {
	uint64_t device, inode;
	int64_t born_seconds;
	uint32_t born_nanoseconds; /* both 0 where the file system does not say */
	uint32_t cluster_bits;
	uint64_t disk_size;
	char boot_id[72];
};

struct header {
	uint64_t magic; /* stored last */
	struct owner owner;
};

struct write_log {
	char *path; /* owned */
	unsigned char *bytes;
};

static int find_owner(
	const struct qcow2 *image, const char *boot_id, struct owner *ret_owner, struct err *err)
{
	struct statx status;

	memset(ret_owner, 0, sizeof *ret_owner);
	if (statx(image->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) < 0)
		return err_set_errno(err, errno, "%s: cannot ask for its state", image->path);
	ret_owner->device = makedev(status.stx_dev_major, status.stx_dev_minor);
	ret_owner->inode = status.stx_ino;
	if (status.stx_mask & STATX_BTIME) {
		ret_owner->born_seconds = status.stx_btime.tv_sec;
		ret_owner->born_nanoseconds = status.stx_btime.tv_nsec;
	}
	ret_owner->cluster_bits = image->header.cluster_bits;
	ret_owner->disk_size = image->header.disk_size;
	snprintf(ret_owner->boot_id, sizeof ret_owner->boot_id, "%s", boot_id);
	return 0;
}

/* Ours alone, and of the right length. */
static int check_file(const char *path, int fd, struct err *err)
{
	struct stat status;
	int number;

	if (fstat(fd, &status) < 0)
		return err_set_errno(err, errno, "%s", path);
	if (!S_ISREG(status.st_mode) || status.st_uid != geteuid())
		return err_set(err, "%s is not a file of this user", path);
	number = posix_fallocate(fd, 0, (off_t)LOG_BYTES);
	return number ? err_set_errno(err, number, "%s: no room for the log of writes", path) : 0;
}

static unsigned char *map(const char *path, int fd, struct err *err)
{
	void *bytes = mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (bytes != MAP_FAILED)
		return bytes;
	err_set_errno(err, errno, "%s: map", path);
	return NULL;
}

static void begin_anew(const char *path, unsigned char *bytes, const struct owner *owner)
{
	struct header *header = (void *)bytes;

	if (header->magic == MAGIC)
		log_warn("%s is the log of another boot, leaf or size of it, and is begun anew",
			path);

	__atomic_store_n(&header->magic, 0, __ATOMIC_SEQ_CST);
	memset(bytes + HEADER_BYTES, 0, LOG_BYTES - HEADER_BYTES);
	header->owner = *owner;
	__atomic_store_n(&header->magic, MAGIC, __ATOMIC_SEQ_CST);
}

static bool is_of(const unsigned char *bytes, const struct owner *owner)
{
	const struct header *header = (const void *)bytes;

	return header->magic == MAGIC && memcmp(&header->owner, owner, sizeof *owner) == 0;
}

int write_log_open(const char *folder, const struct qcow2 *image, const char *boot_id, bool makes,
	struct write_log **ret_log, struct err *err)
{
	struct owner owner;
	char path[4096];
	CLEANUP_CLOSE int fd = -1;
	struct write_log *log;
	unsigned char *bytes;

	*ret_log = NULL;
	if (find_owner(image, boot_id, &owner, err) < 0)
		return -1;
	snprintf(path, sizeof path, "%s/writes-%llx-%llx", folder, (unsigned long long)owner.device,
		(unsigned long long)owner.inode);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (makes ? O_CREAT : 0), 0600);
	if (fd < 0 && errno == ENOENT && !makes)
		return 0;
	if (fd < 0)
		return err_set_errno(err, errno, "%s", path);
	if (check_file(path, fd, err) < 0)
		return -1;
	bytes = map(path, fd, err);
	if (!bytes)
		return -1;
	if (!is_of(bytes, &owner))
		begin_anew(path, bytes, &owner);
	log = must_calloc(1, sizeof *log);
	log->path = must_strdup(path);
	log->bytes = bytes;
	*ret_log = log;
	return 0;
}

struct pending_slot *write_log_slots(struct write_log *log)
{
	return (void *)(log->bytes + HEADER_BYTES);
}

void write_log_void(struct write_log *log)
{
	struct header *header = (void *)log->bytes;

	__atomic_store_n(&header->magic, 0, __ATOMIC_SEQ_CST);
}

void write_log_remove(struct write_log *log)
{
	unlink(log->path);
}

void write_log_free(struct write_log *log)
{
	if (!log)
		return;
	munmap(log->bytes, LOG_BYTES);
	free(log->path);
	free(log);
}
