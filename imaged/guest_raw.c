/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/guest_raw.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/log.h"

#define ZEROES_BYTES 65536

static bool is_unsupported(int number)
{
	return number == EOPNOTSUPP || number == ENOSYS || number == EINVAL || number == ENODEV;
}

static int allocate(int fd, int mode, uint64_t offset, uint64_t length)
{
	int r;

	do {
		r = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
	} while (r < 0 && errno == EINTR);
	return r < 0 ? errno : 0;
}

static int write_zeroes(int fd, uint64_t offset, uint64_t length)
{
	static const unsigned char zeroes[ZEROES_BYTES];

	while (length > 0) {
		size_t piece = length < sizeof zeroes ? (size_t)length : sizeof zeroes;

		if (pwrite_full(fd, zeroes, piece, offset) < 0)
			return errno;
		offset += piece;
		length -= piece;
	}
	return 0;
}

/* A file that somebody cut short reads as zeroes past its new end. */
int guest_raw_read(struct device *device, void *ret_bytes, uint64_t offset, uint64_t length)
{
	int64_t found = pread_up_to(device->raw_fd, ret_bytes, length, offset);

	if (found < 0)
		return errno;
	memset((char *)ret_bytes + found, 0, length - (uint64_t)found);
	return 0;
}

int guest_raw_write(struct device *device, const void *bytes, uint64_t offset, uint64_t length)
{
	if (atomic_load(&device->has_raw_failed))
		return EIO;
	return pwrite_full(device->raw_fd, bytes, length, offset) < 0 ? errno : 0;
}

/* What may be trimmed is punched, all else stays allocated; where the file system can do neither, zeroes are written. */
int guest_raw_zero(struct device *device, uint64_t offset, uint64_t length, bool may_trim)
{
	int first = may_trim ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
	int number;

	if (atomic_load(&device->has_raw_failed))
		return EIO;
	number = allocate(device->raw_fd, first, offset, length);
	return is_unsupported(number) ? write_zeroes(device->raw_fd, offset, length) : number;
}

int guest_raw_trim(struct device *device, uint64_t offset, uint64_t length)
{
	int number;

	if (atomic_load(&device->has_raw_failed))
		return EIO;
	number = allocate(device->raw_fd, FALLOC_FL_PUNCH_HOLE, offset, length);
	return is_unsupported(number) ? 0 : number; /* it was advice */
}

/* For all that had asked when it began. */
static void run_flush(struct device *device, struct raw_flushes *flushes)
{
	uint64_t asked = flushes->asked;

	flushes->is_running = true;
	pthread_mutex_unlock(&flushes->lock);
	if (!atomic_load(&device->has_raw_failed) && fdatasync(device->raw_fd) < 0) {
		log_error("device=%s flushing it failed: %s", device->name, strerrordesc_np(errno));
		atomic_store(&device->has_raw_failed, true);
	}
	pthread_mutex_lock(&flushes->lock);
	flushes->is_running = false;
	flushes->done = asked;
	pthread_cond_broadcast(&flushes->served);
}

/* The kernel tells a descriptor of a failed write to the disk once: of two flushes at a time one would be told that all is well. */
int guest_raw_flush(struct device *device)
{
	struct raw_flushes *flushes = &device->raw_flushes;
	uint64_t mine;

	pthread_mutex_lock(&flushes->lock);
	mine = ++flushes->asked;
	while (flushes->done < mine) {
		if (flushes->is_running)
			pthread_cond_wait(&flushes->served, &flushes->lock);
		else
			run_flush(device, flushes);
	}
	pthread_mutex_unlock(&flushes->lock);
	/* Not what the system said: no room, for one, would mean that one may ask again. */
	return atomic_load(&device->has_raw_failed) ? EIO : 0;
}
