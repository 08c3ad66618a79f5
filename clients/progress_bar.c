/* SPDX-License-Identifier: Apache-2.0 */
#include "clients/progress_bar.h"

#include <string.h>
#include <unistd.h>

#include "clients/format.h"
#include "clients/table.h"

#define PLAIN_INTERVAL_MS 5000
#define PLAIN_PERCENT	  10
#define BAR_MIN		  10
#define BAR_MAX		  50
#define LINE_BYTES	  512

void progress_bar_init(struct progress_bar *bar, FILE *stream)
{
	*bar = (struct progress_bar){.stream = stream};
	bar->is_terminal = stream && isatty(fileno(stream));
}

/* "1.2 GiB of 2.8 GiB  412 MiB/s  4 s left" */
static void format_figures(const struct progress *progress, char *buffer, size_t size)
{
	int used = snprintf(buffer, size, "%s of %s", format_bytes(progress->position).is,
		format_bytes(progress->end).is);

	if (progress->rate && (size_t)used < size)
		used += snprintf(
			buffer + used, size - (size_t)used, "  %s", format_rate(progress->rate).is);
	if (progress->has_eta && progress->position < progress->end && (size_t)used < size)
		snprintf(buffer + used, size - (size_t)used, "  %s left",
			format_seconds(progress->eta).is);
}

static void draw_bar(const struct progress *progress, size_t columns, char *ret_bar)
{
	size_t filled = columns;

	if (progress->position < progress->end)
		filled = (size_t)((double)progress->position / (double)progress->end *
				  (double)columns);
	memset(ret_bar, ' ', columns);
	memset(ret_bar, '=', filled);
	if (filled < columns)
		ret_bar[filled] = '>';
	ret_bar[columns] = '\0';
}

void progress_format(
	const struct progress *progress, size_t width, bool with_bar, char *buffer, size_t size)
{
	char figures[LINE_BYTES];
	char bar[BAR_MAX + 1];

	format_figures(progress, figures, sizeof figures);
	size_t without_bar = strlen("100% [] ") + strlen(figures);
	struct text share = format_share(progress->position, progress->end);
	if (with_bar && width >= without_bar + BAR_MIN) {
		size_t columns = width - without_bar;
		draw_bar(progress, columns < BAR_MAX ? columns : BAR_MAX, bar);
		snprintf(buffer, size, "%4s [%s] %s", share.is, bar, figures);
	} else {
		snprintf(buffer, size, "%4s  %s", share.is, figures);
	}
	if (width > 0 && strlen(buffer) > width)
		buffer[width] = '\0';
}

static void show_on_terminal(struct progress_bar *bar, const struct progress *progress)
{
	size_t width = table_terminal_width(bar->stream);
	char line[LINE_BYTES];

	/* The last column is left free: a character there would wrap on some terminals. */
	progress_format(progress, width > 1 ? width - 1 : 1, true, line, sizeof line);
	fprintf(bar->stream, "\r%s\033[K", line);
	fflush(bar->stream);
	bar->is_drawn = true;
}

static void show_plainly(struct progress_bar *bar, const struct progress *progress, uint64_t now_ms)
{
	unsigned percent =
		progress->end ? (unsigned)((double)progress->position * 100 / (double)progress->end)
			      : 100;
	char line[LINE_BYTES];

	if (bar->said_ms && percent < bar->said_percent + PLAIN_PERCENT &&
		now_ms < bar->said_ms + PLAIN_INTERVAL_MS)
		return;
	progress_format(progress, 0, false, line, sizeof line);
	fprintf(bar->stream, "%s\n", line);
	fflush(bar->stream);
	bar->said_ms = now_ms;
	bar->said_percent = percent;
}

void progress_bar_show(struct progress_bar *bar, const struct progress *progress, uint64_t now_ms)
{
	if (!bar->stream)
		return;
	if (bar->is_terminal)
		show_on_terminal(bar, progress);
	else
		show_plainly(bar, progress, now_ms);
}

void progress_bar_note(struct progress_bar *bar, const char *text)
{
	if (!bar->stream)
		return;
	progress_bar_clear(bar);
	fprintf(bar->stream, "%s\n", text);
	fflush(bar->stream);
}

void progress_bar_clear(struct progress_bar *bar)
{
	if (!bar->is_drawn)
		return;
	fputs("\r\033[K", bar->stream);
	fflush(bar->stream);
	bar->is_drawn = false;
}
