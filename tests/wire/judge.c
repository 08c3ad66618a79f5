/* SPDX-License-Identifier: Apache-2.0 */
/* Says of each message on stdin (a line of hexadecimal digits) what the guard thinks: `yes` and the value as JSON, or `no` and
 * why.  For tests/wire/oracle.py, which knows a second opinion. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schemas/wire.h"

static unsigned hex_digit(char digit)
{
	return (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static void judge(char *line, size_t digits)
{
	struct wire_buffer text = {0};
	struct wire_bytes packed = {.bytes = line, .length = digits / 2};
	struct err err = {0};

	for (size_t i = 0; i < digits / 2; i++)
		line[i] = (char)(hex_digit(line[2 * i]) << 4 | hex_digit(line[2 * i + 1]));
	if (wire_format(&text, packed, &wire_limits_request, &err) == 0)
		(void)printf("yes %.*s\n", (int)text.length, (const char *)text.bytes);
	else
		(void)printf("no %s\n", err.text);
	wire_buffer_done(&text);
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t length;

	while ((length = getline(&line, &room, stdin)) > 0)
		judge(line, (size_t)length - 1);
	free(line);
	return 0;
}
