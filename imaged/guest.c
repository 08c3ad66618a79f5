/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/guest.h"

#include <errno.h>
#include <stdlib.h>

#include "common/check.h"
#include "common/clock.h"
#include "imaged/guest_raw.h"
#include "imaged/guest_write.h"

#define MAP_US UINT64_C(100000) /* of one request for a map */

struct guest {
	struct device_host *host;
	struct device *device;
	uint64_t size;
	struct device_file file;
	uint64_t failures; /* of the device, when the client came */
	bool is_writable, are_zeroes_fast;
};

static bool is_writable(const struct device *device)
{
	return device->raw_fd >= 0 || (device->leaf && guest_can_write(device));
}

static bool look_at(struct guest *guest)
{
	struct device *device = guest->device;
	unsigned side = gate_enter(&device->gate);
	bool is_served = device->is_served;

	guest->size = device->guest_size;
	guest->file = device->guest_file;
	/* Who comes when it has failed already is answered for nothing that may be lost. */
	guest->failures = device->failures + (is_served && device_has_failed(device));
	guest->is_writable = is_served && is_writable(device);
	guest->are_zeroes_fast =
		guest->is_writable && device->leaf && device->leaf->header.version >= 3;
	gate_leave(&device->gate, side);
	return is_served;
}

struct guest *guest_open(struct device_host *host, const char *name)
{
	struct device *device = device_host_admit(host, name);
	struct guest *guest;

	if (!device)
		return NULL;
	guest = must_calloc(1, sizeof *guest);
	guest->host = host;
	guest->device = device;
	if (look_at(guest))
		return guest;
	guest_close(guest);
	return NULL;
}

void guest_close(struct guest *guest)
{
	device_host_dismiss(guest->host, guest->device);
	free(guest);
}

uint64_t guest_size(const struct guest *guest)
{
	return guest->size;
}

bool guest_is_writable(const struct guest *guest)
{
	return guest->is_writable;
}

bool guest_zeroes_are_fast(const struct guest *guest)
{
	return guest->are_zeroes_fast;
}

/* ---- each request */

/* The name alone says nothing: a failed device may have been attached anew with another image. */
static bool is_same_file(const struct device_file *one, const struct device_file *other)
{
	return one->device == other->device && one->inode == other->inode &&
	       one->block_device == other->block_device;
}

/* 0: inside.  EIO: the device is not what the client was told. */
static int enter(struct guest *guest, unsigned *ret_side)
{
	struct device *device = guest->device;
	unsigned side = gate_enter(&device->gate);

	if (device->is_served && device->guest_size == guest->size &&
		is_same_file(&device->guest_file, &guest->file)) {
		*ret_side = side;
		return 0;
	}
	gate_leave(&device->gate, side);
	return EIO;
}

/* The same; EIO as well where what this client was answered for may be lost. */
static int enter_to_flush(struct guest *guest, unsigned *ret_side)
{
	int number = enter(guest, ret_side);

	if (number || guest->failures == guest->device->failures)
		return number;
	gate_leave(&guest->device->gate, *ret_side);
	return EIO;
}

static int enter_to_write(struct guest *guest, unsigned *ret_side)
{
	int number;

	if (!guest->is_writable)
		return EROFS;
	number = enter_to_flush(guest, ret_side);
	if (number || is_writable(guest->device))
		return number;
	gate_leave(&guest->device->gate, *ret_side);
	return EIO; /* it came back read-only */
}

typedef int enter_device(struct guest *guest, unsigned *ret_side);

/* Begins a request that counts as the guest's work; each is followed by finish(). */
static int begin(struct guest *guest, enter_device *enter_it, unsigned *ret_side)
{
	int number = enter_it(guest, ret_side);

	if (number == 0)
		guest_activity_begin(&guest->device->activity);
	return number;
}

/* `may_be_lost`: something that was written might be.  Whether the device is still good is for its strand to find out. */
static int finish(struct guest *guest, unsigned side, int number, bool may_be_lost)
{
	guest_activity_end(&guest->device->activity);
	if (number && may_be_lost)
		atomic_store(&guest->device->is_suspect, true);
	gate_leave(&guest->device->gate, side);
	return number;
}

static int read_chain(struct device *device, void *ret_bytes, uint64_t offset, uint64_t length)
{
	struct chain_view *view = live_chain_enter(&device->live);
	int number = guest_read_chain(device, view->chain, 0, ret_bytes, offset, length);

	live_chain_leave(&device->live, view);
	return number;
}

int guest_pread(struct guest *guest, void *ret_bytes, uint64_t offset, uint64_t length)
{
	struct device *device = guest->device;
	unsigned side;
	int number = begin(guest, enter, &side);

	if (number)
		return number;
	number = device->raw_fd >= 0 ? guest_raw_read(device, ret_bytes, offset, length)
				     : read_chain(device, ret_bytes, offset, length);
	return finish(guest, side, number, false);
}

int guest_pwrite(struct guest *guest, const void *bytes, uint64_t offset, uint64_t length)
{
	struct device *device = guest->device;
	unsigned side;
	int number = begin(guest, enter_to_write, &side);

	if (number)
		return number;
	number = device->raw_fd >= 0 ? guest_raw_write(device, bytes, offset, length)
				     : guest_write(device, bytes, offset, length);
	return finish(guest, side, number, true);
}

int guest_put_zeroes(struct guest *guest, uint64_t offset, uint64_t length, bool may_trim)
{
	struct device *device = guest->device;
	unsigned side;
	int number = begin(guest, enter_to_write, &side);

	if (number)
		return number;
	number = device->raw_fd >= 0 ? guest_raw_zero(device, offset, length, may_trim)
				     : guest_zero(device, offset, length, may_trim);
	return finish(guest, side, number, true);
}

int guest_discard(struct guest *guest, uint64_t offset, uint64_t length)
{
	struct device *device = guest->device;
	unsigned side;
	int number = begin(guest, enter_to_write, &side);

	if (number)
		return number;
	number = device->raw_fd >= 0 ? guest_raw_trim(device, offset, length)
				     : guest_trim(device, offset, length);
	return finish(guest, side, number, true);
}

int guest_sync(struct guest *guest)
{
	struct device *device = guest->device;
	unsigned side;
	int number = begin(guest, enter_to_flush, &side);

	if (number)
		return number;
	if (device->raw_fd >= 0)
		number = guest_raw_flush(device);
	else if (device->leaf)
		number = guest_flush(device);
	return finish(guest, side, number, true);
}

int guest_prefetch(struct guest *guest, uint64_t offset, uint64_t length)
{
	struct device *device = guest->device;
	unsigned side;
	int number = enter(guest, &side);

	if (number)
		return number;
	if (device->leaf)
		number = guest_cache(device, offset, length);
	gate_leave(&device->gate, side);
	return number;
}

/* ---- the map */

struct status {
	uint64_t length;
	bool is_hole, is_zero;
};

/* A layer's data is no hole, wherever in the chain it is: the guest sees it. */
static int look_up(struct chain *chain, uint64_t offset, uint64_t length, struct status *ret_status)
{
	struct err err = {0};
	struct extent extent;

	if (chain_map(chain, 0, chain->count, offset, length, &extent, &err) < 0)
		return err.number ? err.number : EIO;
	ret_status->length = extent.length;
	ret_status->is_zero = extent.kind == EXTENT_ZERO || extent.kind == EXTENT_ABSENT;
	ret_status->is_hole = ret_status->is_zero && extent.host_offset == 0;
	return 0;
}

static int map_chain(
	struct chain *chain, uint64_t offset, uint64_t length, guest_map_visit *visit, void *owner)
{
	uint64_t deadline_us = clock_monotonic_us() + MAP_US;
	struct status piece, next;
	int number = look_up(chain, offset, length, &piece);

	if (number)
		return number;
	while (piece.length < length && clock_monotonic_us() < deadline_us &&
		look_up(chain, offset + piece.length, length - piece.length, &next) == 0) {
		if (next.is_hole == piece.is_hole && next.is_zero == piece.is_zero) {
			piece.length += next.length;
			continue;
		}
		if (!visit(owner, offset, piece.length, piece.is_hole, piece.is_zero))
			return 0;
		offset += piece.length;
		length -= piece.length;
		piece = next;
	}
	(void)visit(owner, offset, piece.length, piece.is_hole, piece.is_zero);
	return 0;
}

int guest_map(
	struct guest *guest, uint64_t offset, uint64_t length, guest_map_visit *visit, void *owner)
{
	struct device *device = guest->device;
	struct chain_view *view;
	unsigned side;
	int number = enter(guest, &side);

	if (number)
		return number;
	view = live_chain_enter(&device->live);
	number = map_chain(view->chain, offset, length, visit, owner);
	live_chain_leave(&device->live, view);
	gate_leave(&device->gate, side);
	return number;
}
