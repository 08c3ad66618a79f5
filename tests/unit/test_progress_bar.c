/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "clients/progress_bar.h"
#include "common/cleanup.h"
#include "tests/unit/unit.h"

START_TEST(a_line_never_exceeds_the_width)
{
	for (size_t width = 1; width < 200; width++) {
		for (uint64_t position = 0; position <= 1000; position += 125) {
			const struct progress progress = {.position = position << 30,
				.end = (uint64_t)1000 << 30,
				.rate = (uint64_t)1 << 33,
				.has_eta = true,
				.eta = 99999};
			char line[256];

			progress_format(&progress, width, true, line, sizeof line);
			ck_assert_uint_le(strlen(line), width);
		}
	}
}
END_TEST

START_TEST(the_bar_is_full_only_at_the_end)
{
	struct progress progress = {.position = 99, .end = 100};
	char line[256];

	progress_format(&progress, 60, true, line, sizeof line);
	ck_assert_ptr_nonnull(strstr(line, "=>]"));
	progress.position = 100;
	progress_format(&progress, 60, true, line, sizeof line);
	ck_assert_ptr_nonnull(strstr(line, "100% ["));
	ck_assert_ptr_nonnull(strstr(line, "==]"));
	progress.end = 0;
	progress.position = 0;
	progress_format(&progress, 60, true, line, sizeof line);
	ck_assert_ptr_nonnull(strstr(line, "100% ["));
}
END_TEST

START_TEST(plain_lines_come_now_and_then)
{
	char *text = NULL;
	size_t length = 0;
	FILE *stream = open_memstream(&text, &length);
	struct progress_bar bar = {.stream = stream};
	size_t lines = 0;

	/* 1000 steps of a tenth of a percent, 10 ms apart: a line every ten percent */
	for (uint64_t i = 0; i <= 1000; i++) {
		const struct progress progress = {.position = i, .end = 1000};
		progress_bar_show(&bar, &progress, 1000 + i * 10);
	}
	/* then 100 seconds without a step: one every five seconds */
	for (uint64_t i = 0; i < 1000; i++) {
		const struct progress progress = {.position = 1000, .end = 1000};
		progress_bar_show(&bar, &progress, 11000 + i * 100);
	}
	fclose(stream);
	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	ck_assert_uint_ge(lines, 11 + 18);
	ck_assert_uint_le(lines, 11 + 21);
	ck_assert_ptr_null(strchr(text, '\r'));
	free(text);
}
END_TEST

UNIT_MAIN("progress_bar", a_line_never_exceeds_the_width, the_bar_is_full_only_at_the_end,
	plain_lines_come_now_and_then)
