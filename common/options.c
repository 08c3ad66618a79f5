/* SPDX-License-Identifier: Apache-2.0 */
/* One pass over argv with the caller's table and the four options that every program has.
 *
 * Wrong usage ends the process here with status 2 and one line, so that callers need no path for
 * it. */
#include "common/options.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/attributes.h"
#include "common/log.h"

#define HELP_COLUMN 28
#define HELP_WIDTH  90

/* The options of every program; `table` is in the form of a caller's. */
struct common_options {
	bool wants_help, wants_version;
	const char *log_level, *log_format;
	struct option table[5];
};

static void common_options_init(struct common_options *common)
{
	*common = (struct common_options){
		.log_level = "info",
		.log_format = "text",
		.table =
			{
				{.name = "log-level",
					.kind = OPTION_TEXT,
					.value = &common->log_level,
					.argument = "LEVEL",
					.help = "error, warn, info or debug (default: info)."},
				{.name = "log-format",
					.kind = OPTION_TEXT,
					.value = &common->log_format,
					.argument = "FORMAT",
					.help = "text or json, on stderr (default: text)."},
				{.name = "help",
					.kind = OPTION_FLAG,
					.value = &common->wants_help,
					.help = "Print this and exit."},
				{.name = "version",
					.kind = OPTION_FLAG,
					.value = &common->wants_version,
					.help = "Print the version and exit."},
			},
	};
}

static NORETURN PRINTF_LIKE(2, 3) void usage_error(
	const struct options_usage *usage, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s: ", usage->program);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, " (see %s --help)\n", usage->program);
	exit(2);
}

/* Prints text from a column on, broken at spaces; the text's own line ends stay. */
static void print_wrapped(const char *text, size_t indent)
{
	size_t column = indent;

	while (*text) {
		size_t length = strcspn(text, " \n");
		if (column > indent && column + 1 + length > HELP_WIDTH) {
			printf("\n%*s", (int)indent, "");
			column = indent;
		} else if (column > indent) {
			putchar(' ');
			column++;
		}
		printf("%.*s", (int)length, text);
		column += length;
		text += length;
		if (*text == '\n') {
			printf("\n%*s", (int)indent, "");
			column = indent;
			text++;
		}
		while (*text == ' ')
			text++;
	}
}

static void print_indented(const char *text, bool is_repeatable)
{
	print_wrapped(text, HELP_COLUMN);
	printf("%s\n", is_repeatable ? " Repeatable." : "");
}

static void print_table(const struct option *table)
{
	for (const struct option *option = table; option->name; option++) {
		int column = option->kind == OPTION_FLAG
				     ? printf("  --%s", option->name)
				     : printf("  --%s %s", option->name, option->argument);
		if (column >= HELP_COLUMN - 1) {
			putchar('\n');
			column = 0;
		}
		printf("%*s", HELP_COLUMN - column, "");
		print_indented(option->help, option->kind == OPTION_LIST);
	}
}

static NORETURN void print_help(
	const struct options_usage *usage, const struct option *table, const struct option *common)
{
	bool has_synopsis = usage->synopsis && usage->synopsis[0];

	printf("Usage: %s%s%s\n\n", usage->program, has_synopsis ? " " : "",
		has_synopsis ? usage->synopsis : "");
	print_wrapped(usage->about, 0);
	printf("\n\nOptions:\n");
	print_table(table);
	print_table(common);
	exit(fflush(stdout) == 0 ? 0 : 1);
}

static NORETURN void print_version(const struct options_usage *usage)
{
	printf("%s %s\n", usage->program, SLUICE_VERSION);
	exit(fflush(stdout) == 0 ? 0 : 1);
}

static bool is_named(const struct option *option, const char *name, size_t length)
{
	return strncmp(option->name, name, length) == 0 && option->name[length] == '\0';
}

static const struct option *find_option(
	const struct option *table, const struct option *common, const char *name, size_t length)
{
	for (const struct option *option = table; option->name; option++) {
		if (is_named(option, name, length))
			return option;
	}
	for (const struct option *option = common; option->name; option++) {
		if (is_named(option, name, length))
			return option;
	}
	return NULL;
}

/* How many bits a size's suffix shifts by; -1: no such suffix. */
static int suffix_shift(const char *suffix)
{
	static const char letters[] = "KMGT";

	if (suffix[0] == '\0')
		return 0;
	for (int i = 0; letters[i]; i++) {
		if ((suffix[0] == letters[i] || suffix[0] == letters[i] + ('a' - 'A')) &&
			suffix[1] == '\0')
			return 10 * (i + 1);
	}
	return -1;
}

/* Digits, and a suffix where sizes are meant.  0, or -1: no such number. */
static int parse_number(const char *text, bool is_size, uint64_t *ret_number)
{
	uint64_t number = 0;
	const char *at = text;

	for (; *at >= '0' && *at <= '9'; at++) {
		uint64_t digit = (uint64_t)(*at - '0');
		if (number > (UINT64_MAX - digit) / 10)
			return -1;
		number = number * 10 + digit;
	}
	if (at == text)
		return -1;

	int shift = is_size ? suffix_shift(at) : at[0] == '\0' ? 0 : -1;
	if (shift < 0 || number > UINT64_MAX >> shift)
		return -1;
	*ret_number = number << shift;
	return 0;
}

static void store_number(
	const struct options_usage *usage, const struct option *option, const char *text)
{
	uint64_t number;

	if (parse_number(text, option->is_size, &number) < 0)
		usage_error(usage, "--%s: '%s' is no %s", option->name, text,
			option->is_size ? "size (like 65536, 64K, 16M, 1G)" : "number");
	if (number < option->minimum || number > option->maximum)
		usage_error(usage, "--%s: %s is not within %llu to %llu", option->name, text,
			(unsigned long long)option->minimum, (unsigned long long)option->maximum);
	*(uint64_t *)option->value = number;
}

static void store_value(
	const struct options_usage *usage, const struct option *option, const char *text)
{
	switch (option->kind) {
	case OPTION_FLAG:
		*(bool *)option->value = true;
		break;
	case OPTION_TEXT:
		*(const char **)option->value = text;
		break;
	case OPTION_LIST: {
		struct option_list *list = option->value;
		if (list->count == OPTION_LIST_MAX)
			usage_error(usage, "--%s: given more than %d times", option->name,
				OPTION_LIST_MAX);
		list->values[list->count++] = text;
		break;
	}
	case OPTION_NUMBER:
		store_number(usage, option, text);
		break;
	}
}

/* Reads the option at argv[i]; returns the index of its last word. */
static int parse_option(int argc, char **argv, int i, const struct options_usage *usage,
	const struct option *table, const struct option *common)
{
	const char *name = argv[i] + 2;
	const char *equals = strchr(name, '=');
	size_t length = equals ? (size_t)(equals - name) : strlen(name);
	const struct option *option = find_option(table, common, name, length);

	if (!option)
		usage_error(usage, "unknown option '--%.*s'", (int)length, name);
	if (option->kind == OPTION_FLAG) {
		if (equals)
			usage_error(usage, "--%s takes no value", option->name);
		store_value(usage, option, NULL);
		return i;
	}
	if (equals) {
		store_value(usage, option, equals + 1);
		return i;
	}
	if (i + 1 == argc)
		usage_error(usage, "--%s needs a value (%s)", option->name, option->argument);
	store_value(usage, option, argv[i + 1]);
	return i + 1;
}

static void set_up_log(const struct options_usage *usage, const struct common_options *common)
{
	enum log_level level;
	enum log_format format;

	if (!log_level_parse(common->log_level, &level))
		usage_error(usage, "--log-level: '%s' is none of error, warn, info, debug",
			common->log_level);
	if (!log_format_parse(common->log_format, &format))
		usage_error(
			usage, "--log-format: '%s' is neither text nor json", common->log_format);
	log_setup(usage->program, level, format);
}

size_t options_parse(int argc, char **argv, const struct options_usage *usage,
	const struct option *table, const char **ret_arguments)
{
	struct common_options common;
	size_t count = 0;
	bool options_ended = false;

	common_options_init(&common);
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];

		if (!options_ended && strcmp(word, "--") == 0) {
			options_ended = true;
		} else if (!options_ended && strncmp(word, "--", 2) == 0) {
			i = parse_option(argc, argv, i, usage, table, common.table);
			if (common.wants_help)
				print_help(usage, table, common.table);
			if (common.wants_version)
				print_version(usage);
		} else if (!options_ended && word[0] == '-' && word[1] != '\0') {
			usage_error(usage, "unknown option '%s'", word);
		} else {
			if (count == usage->arguments_max)
				usage_error(usage, "unexpected argument '%s'", word);
			ret_arguments[count++] = word;
		}
	}
	if (count < usage->arguments_min)
		usage_error(usage, "%zu argument%s needed: %s", usage->arguments_min,
			usage->arguments_min == 1 ? " is" : "s are", usage->synopsis);
	set_up_log(usage, &common);
	return count;
}
