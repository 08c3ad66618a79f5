/* SPDX-License-Identifier: Apache-2.0 */
/* Dice that roll the same for the same seed (splitmix64). */
#include "tests/simulation/world.h"

uint64_t dice_roll(struct dice *dice)
{
	uint64_t value = dice->state += UINT64_C(0x9e3779b97f4a7c15);

	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

uint64_t dice_below(struct dice *dice, uint64_t below)
{
	return dice_roll(dice) % below;
}

bool dice_percent(struct dice *dice, unsigned percent)
{
	return dice_below(dice, 100) < percent;
}

bool dice_permille(struct dice *dice, unsigned permille)
{
	return dice_below(dice, 1000) < permille;
}
