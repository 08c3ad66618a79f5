/* SPDX-License-Identifier: Apache-2.0 */
#include "imaged/guest_write.h"

#include <errno.h>

#include "common/attributes.h"
#include "imaged/qcow2_update.h"

bool guest_can_write(const struct device *device UNUSED)
{
	return false;
}

int guest_write(struct device *device UNUSED, const void *buffer UNUSED, uint64_t offset UNUSED,
	uint64_t length UNUSED)
{
	return EROFS;
}

int guest_zero(struct device *device UNUSED, uint64_t offset UNUSED, uint64_t length UNUSED,
	bool may_trim UNUSED)
{
	return EROFS;
}

int guest_trim(struct device *device UNUSED, uint64_t offset UNUSED, uint64_t length UNUSED)
{
	return EROFS;
}

int guest_flush(struct device *device)
{
	struct err err = {0};

	if (qcow2_flush(device->leaf, &err) < 0)
		return err.number ? err.number : EIO;
	return 0;
}

int guest_cache(struct device *device UNUSED, uint64_t offset UNUSED, uint64_t length UNUSED)
{
	return 0;
}
