/* SPDX-License-Identifier: Apache-2.0 */
/* Images of a few clusters: each value stands for a cluster full of it. */
#include <stdio.h>

#include "tests/simulation/parts.h"

/* What a kept layer has where the dropped one hides it, or where it lies under data. */
#define KEPT_SHOWS 999999

static void give_layer(struct world *world, struct image *image, unsigned cluster)
{
	uint64_t roll = dice_below(&world->dice, 10);

	image->layer[cluster] = roll < 6 ? LAYER_CONTENT : roll < 8 ? LAYER_HOLE : LAYER_HIDES;
	image->layer_value[cluster] = 0;
	if (image->layer[cluster] == LAYER_CONTENT && !dice_percent(&world->dice, 15))
		image->layer_value[cluster] = ++image->last_value;
}

void image_make(struct world *world, struct image *image, unsigned number)
{
	struct dice *dice = &world->dice;

	*image = (struct image){.clusters = 4 + (unsigned)dice_below(dice, CLUSTERS_MAX - 4)};
	snprintf(image->device, sizeof(image->device), "disk%u", number);
	snprintf(image->file, sizeof(image->file), "/images/%u.qcow2", number);
	image->last_value = 1000;
	for (unsigned i = 0; i < image->clusters; i++) {
		give_layer(world, image, i);
		image->must_read[i] = image->layer_value[i];
		if (dice_percent(dice, 10)) {
			image->place[i] = PLACE_HOST;
			image->host[i] = image_allocate(image);
			image->host_value[image->host[i]] = image->must_read[i] =
				++image->last_value;
		}
	}
}

void image_renew(struct world *world, struct image *image)
{
	image->is_switched = false;
	for (unsigned i = 0; i < image->clusters; i++) {
		give_layer(world, image, i);
		if (image->place[i] == PLACE_HOST && dice_percent(&world->dice, 20))
			continue; /* written after the snapshot */
		if (image->place[i] == PLACE_HOST)
			image->host_in_use[image->host[i]] = false;
		image->place[i] = PLACE_NONE;
		image->must_read[i] = image->layer_value[i];
	}
}

unsigned image_read(const struct image *image, unsigned cluster)
{
	if (image->place[cluster] == PLACE_HOST)
		return image->host_value[image->host[cluster]];
	if (image->place[cluster] == PLACE_ZERO)
		return 0;
	if (!image->is_switched)
		return image->layer_value[cluster];
	return image->layer[cluster] == LAYER_HOLE ? 0 : KEPT_SHOWS;
}

bool image_needs(const struct image *image, unsigned cluster)
{
	return !image->is_switched && image->place[cluster] == PLACE_NONE &&
	       image->layer[cluster] != LAYER_HOLE;
}

/* The first free one: what is freed too early is used again as soon as can be. */
unsigned image_allocate(struct image *image)
{
	for (unsigned i = 0; i < image->hosts; i++)
		if (!image->host_in_use[i]) {
			image->host_in_use[i] = true;
			image->host_value[i] = 888888;
			return i;
		}
	image->host_in_use[image->hosts] = true;
	image->host_value[image->hosts] = 888888;
	return image->hosts++;
}

void image_check(struct world *world, const struct image *image)
{
	if (image->hosts >= HOSTS_MAX - 64)
		wrong(world, "%s has grown beyond all bounds", image->file);
	for (unsigned i = 0; i < image->clusters; i++)
		if (image_read(image, i) != image->must_read[i])
			wrong(world, "%s: cluster %u reads %u, must read %u", image->file, i,
				image_read(image, i), image->must_read[i]);
}
