/* SPDX-License-Identifier: Apache-2.0 */
/* Sentences about failures.
 *
 * Every text is made in a buffer of its own before it lands in the struct, so a caller may use the
 * old text as an argument for the new one.  A text that does not fit is cut, never in the middle of
 * a UTF-8 character. */
#include "common/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Cuts an unfinished UTF-8 character off the end. */
static void cut_partial_character(char *text, size_t length)
{
	size_t start = length;

	while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80)
		start--;
	if (start == 0 || (unsigned char)text[start - 1] < 0xc0)
		return;

	unsigned char lead = (unsigned char)text[start - 1];
	size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
	if (length - (start - 1) < wanted)
		text[start - 1] = '\0';
}

static void put_text(struct err *err, const char *text)
{
	size_t length = strnlen(text, sizeof err->text);

	if (length < sizeof err->text) {
		memcpy(err->text, text, length + 1);
		return;
	}
	memcpy(err->text, text, sizeof err->text - 1);
	err->text[sizeof err->text - 1] = '\0';
	cut_partial_character(err->text, sizeof err->text - 1);
}

int err_set(struct err *err, const char *format, ...)
{
	char text[ERR_TEXT_MAX + 8];
	va_list arguments;

	if (!err)
		return -1;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	put_text(err, text);
	err->number = 0;
	err->kind = 0;
	return -1;
}

int err_set_kind(struct err *err, unsigned kind, const char *format, ...)
{
	char text[ERR_TEXT_MAX + 8];
	va_list arguments;

	if (!err)
		return -1;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	put_text(err, text);
	err->number = 0;
	err->kind = kind;
	return -1;
}

int err_set_errno(struct err *err, int number, const char *format, ...)
{
	char clause[ERR_TEXT_MAX + 8];
	char text[ERR_TEXT_MAX + 128];
	va_list arguments;

	if (!err)
		return -1;
	va_start(arguments, format);
	vsnprintf(clause, sizeof clause, format, arguments);
	va_end(arguments);

	const char *words = strerrordesc_np(number);
	if (words)
		snprintf(text, sizeof text, "%s: %s", clause, words);
	else
		snprintf(text, sizeof text, "%s: error %d", clause, number);
	put_text(err, text);
	err->number = number;
	err->kind = 0;
	return -1;
}

int err_wrap(struct err *err, const char *format, ...)
{
	char clause[ERR_TEXT_MAX + 8];
	char text[2 * ERR_TEXT_MAX + 16];
	va_list arguments;

	if (!err)
		return -1;
	va_start(arguments, format);
	vsnprintf(clause, sizeof clause, format, arguments);
	va_end(arguments);
	snprintf(text, sizeof text, "%s: %s", clause, err->text);
	put_text(err, text);
	return -1;
}

const char *err_number_name(int number)
{
	const char *name = strerrorname_np(number);

	return name && number != 0 ? name : "E?";
}
