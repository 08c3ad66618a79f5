/* SPDX-License-Identifier: Apache-2.0 */
/* Lines on stderr.
 *
 * One line is one write(2) of at most PIPE_BUF bytes, so lines of several processes on one pipe
 * never mix.  Whatever the sentence contains, a line stays one line: control characters are escaped
 * in both formats, and JSON gets only valid UTF-8.  What does not fit ends in "...". */
#include "common/log.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warn",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

static const char *log_program = "sluice";
static enum log_level log_level_max = LOG_LEVEL_INFO;
static enum log_format log_format_now = LOG_FORMAT_TEXT;

#define TAIL_BYTES 8 /* what always fits behind a sentence: ..."}\n */

struct line {
	char bytes[PIPE_BUF];
	size_t length;
};

void log_setup(const char *program, enum log_level level, enum log_format format)
{
	log_program = program;
	log_level_max = level;
	log_format_now = format;
}

bool log_level_parse(const char *word, enum log_level *ret_level)
{
	for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
		if (strcmp(word, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return true;
		}
	}
	return false;
}

bool log_format_parse(const char *word, enum log_format *ret_format)
{
	if (strcmp(word, "text") == 0)
		*ret_format = LOG_FORMAT_TEXT;
	else if (strcmp(word, "json") == 0)
		*ret_format = LOG_FORMAT_JSON;
	else
		return false;
	return true;
}

/* The length of the valid UTF-8 character at `bytes`, 0 where there is none. */
static size_t utf8_length(const unsigned char *bytes)
{
	if (bytes[0] < 0x80)
		return 1;

	size_t length = bytes[0] >= 0xf0 ? 4 : bytes[0] >= 0xe0 ? 3 : 2;
	if (bytes[0] < 0xc2 || bytes[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < length; i++) {
		if ((bytes[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((bytes[0] == 0xe0 && bytes[1] < 0xa0) || (bytes[0] == 0xed && bytes[1] > 0x9f) ||
		(bytes[0] == 0xf0 && bytes[1] < 0x90) || (bytes[0] == 0xf4 && bytes[1] > 0x8f))
		return 0;
	return length;
}

static void line_put(struct line *line, const char *bytes, size_t length)
{
	memcpy(line->bytes + line->length, bytes, length);
	line->length += length;
}

static void line_put_text(struct line *line, const char *text)
{
	line_put(line, text, strlen(text));
}

/* How one character stands in a line: itself, or an escape made in `escape`. Returns the bytes of
 * input used. */
static size_t encode_character(
	const char *text, bool is_json, char escape[8], const char **ret_bytes, size_t *ret_length)
{
	unsigned char first = (unsigned char)text[0];
	size_t length = utf8_length((const unsigned char *)text);

	*ret_bytes = escape;
	if (first == '\n')
		*ret_length = (size_t)snprintf(escape, 8, "\\n");
	else if (first < 0x20 || first == 0x7f)
		*ret_length = (size_t)snprintf(escape, 8, is_json ? "\\u%04x" : "\\x%02x", first);
	else if (is_json && (first == '"' || first == '\\'))
		*ret_length = (size_t)snprintf(escape, 8, "\\%c", first);
	else if (length == 0)
		*ret_length = (size_t)snprintf(escape, 8, is_json ? "\\ufffd" : "\\x%02x", first);
	else {
		*ret_bytes = text;
		*ret_length = length;
	}
	return length ? length : 1;
}

static void line_put_sentence(struct line *line, const char *text, bool is_json)
{
	while (*text) {
		char escape[8];
		const char *bytes;
		size_t length;
		size_t used = encode_character(text, is_json, escape, &bytes, &length);

		if (line->length + length + TAIL_BYTES > sizeof line->bytes) {
			line_put_text(line, "...");
			return;
		}
		line_put(line, bytes, length);
		text += used;
	}
}

static void line_put_time(struct line *line)
{
	uint64_t now_us = clock_realtime_us();
	time_t seconds = (time_t)(now_us / 1000000);
	char text[64];
	struct tm tm;

	gmtime_r(&seconds, &tm);
	size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + length, sizeof text - length, ".%03uZ", (unsigned)(now_us / 1000 % 1000));
	line_put_text(line, text);
}

static void write_line(const struct line *line)
{
	size_t done = 0;

	while (done < line->length) {
		ssize_t n = write(STDERR_FILENO, line->bytes + done, line->length - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		done += (size_t)n;
	}
}

static PRINTF_LIKE(2, 0) void log_line(enum log_level level, const char *format, va_list arguments)
{
	if (level > log_level_max)
		return;

	int saved_errno = errno;
	struct line line = {.length = 0};
	char sentence[PIPE_BUF];
	char program[128];
	vsnprintf(sentence, sizeof sentence, format, arguments);
	snprintf(program, sizeof program, "%s", log_program);

	if (log_format_now == LOG_FORMAT_JSON) {
		line_put_text(&line, "{\"time\":\"");
		line_put_time(&line);
		line_put_text(&line, "\",\"level\":\"");
		line_put_text(&line, level_names[level]);
		line_put_text(&line, "\",\"program\":\"");
		line_put_sentence(&line, program, true);
		line_put_text(&line, "\",\"message\":\"");
		line_put_sentence(&line, sentence, true);
		line_put_text(&line, "\"}\n");
	} else {
		line_put_time(&line);
		line_put_text(&line, " ");
		line_put_text(&line, level_names[level]);
		line_put_text(&line, " ");
		line_put_sentence(&line, program, false);
		line_put_text(&line, ": ");
		line_put_sentence(&line, sentence, false);
		line_put_text(&line, "\n");
	}
	write_line(&line);
	errno = saved_errno;
}

#define DEFINE_LOG(name, level)                     \
	void name(const char *format, ...)          \
	{                                           \
		va_list arguments;                  \
		va_start(arguments, format);        \
		log_line(level, format, arguments); \
		va_end(arguments);                  \
	}

DEFINE_LOG(log_error, LOG_LEVEL_ERROR)
DEFINE_LOG(log_warn, LOG_LEVEL_WARN)
DEFINE_LOG(log_info, LOG_LEVEL_INFO)
DEFINE_LOG(log_debug, LOG_LEVEL_DEBUG)
