/* SPDX-License-Identifier: Apache-2.0 */
/* The list of effects of a step. */
#include "broker/core/effects.h"

#include <stdlib.h>

#include "common/check.h"

void effects_init(struct effects *effects)
{
	*effects = (struct effects){0};
}

void effects_clear(struct effects *effects)
{
	for (size_t i = 0; i < effects->count; i++)
		free(effects->items[i].bytes);
	effects->count = 0;
}

void effects_done(struct effects *effects)
{
	effects_clear(effects);
	free(effects->items);
	*effects = (struct effects){0};
}

struct effect *effects_add(struct effects *effects, enum effect_kind kind, bool settled)
{
	struct effect *effect;

	if (effects->count == effects->capacity) {
		effects->capacity = effects->capacity ? 2 * effects->capacity : 16;
		effects->items =
			must_realloc(effects->items, effects->capacity, sizeof(*effects->items));
	}
	effect = &effects->items[effects->count++];
	*effect = (struct effect){.kind = kind, .settled = settled};
	return effect;
}
