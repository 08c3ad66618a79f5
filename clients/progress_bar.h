/* SPDX-License-Identifier: Apache-2.0 */
/* How far a job is: a bar that moves on a terminal, a plain line now and then elsewhere. */
#ifndef SLUICE_CLIENTS_PROGRESS_BAR_H
#define SLUICE_CLIENTS_PROGRESS_BAR_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress_bar {
	FILE *stream; /* NULL: shows nothing */
	bool is_terminal;
	bool is_drawn;	  /* a line stands there that the next one overwrites */
	uint64_t said_ms; /* when the last plain line was printed; 0: none */
	unsigned said_percent;
};

struct progress {
	uint64_t position, end; /* bytes */
	uint64_t rate;		/* bytes a second; 0: not known */
	bool has_eta;
	uint64_t eta; /* seconds */
};

/* All zero but the stream is a new one. */
void progress_bar_init(struct progress_bar *bar, FILE *stream);
void progress_bar_show(struct progress_bar *bar, const struct progress *progress, uint64_t now_ms);
/* A line of its own, above the bar. */
void progress_bar_note(struct progress_bar *bar, const char *text);
/* Takes the bar away. */
void progress_bar_clear(struct progress_bar *bar);

/* One line of at most `width` columns, without a newline; `bar` or plain. */
void progress_format(
	const struct progress *progress, size_t width, bool with_bar, char *buffer, size_t size);

#endif
