/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/format.h"

#include <inttypes.h>
#include <stdio.h>

static struct text scale(uint64_t bytes, const char *const units[7])
{
	double number = (double)bytes;
	struct text text;
	unsigned unit = 0;

	while (number >= 1023.95 && unit < 6) {
		number /= 1024;
		unit++;
	}
	int decimals = unit == 0 || number >= 99.95 ? 0 : 1;
	snprintf(text.is, sizeof text.is, "%.*f %s", decimals, number, units[unit]);
	return text;
}

struct text format_bytes(uint64_t bytes)
{
	static const char *const units[7] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

	return scale(bytes, units);
}

struct text format_rate(uint64_t bytes_per_second)
{
	static const char *const units[7] = {
		"B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s", "PiB/s", "EiB/s"};

	return scale(bytes_per_second, units);
}

struct text format_seconds(uint64_t seconds)
{
	struct text text;
	uint64_t minutes = seconds / 60;

	if (seconds < 60)
		snprintf(text.is, sizeof text.is, "%" PRIu64 " s", seconds);
	else if (minutes < 60)
		snprintf(text.is, sizeof text.is, "%" PRIu64 " min %" PRIu64 " s", minutes,
			seconds % 60);
	else if (minutes < 48 * 60)
		snprintf(text.is, sizeof text.is, "%" PRIu64 " h %" PRIu64 " min", minutes / 60,
			minutes % 60);
	else
		snprintf(text.is, sizeof text.is, "%" PRIu64 " days", minutes / 60 / 24);
	return text;
}

struct text format_share(uint64_t part, uint64_t of)
{
	struct text text;
	unsigned percent = 100;

	if (part < of)
		percent = (unsigned)((double)part / (double)of * 100);
	if (part < of && percent > 99)
		percent = 99;
	snprintf(text.is, sizeof text.is, "%u%%", percent);
	return text;
}
