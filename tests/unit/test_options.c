/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines, right and wrong; the wrong ones in a child, as they end the process. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/log.h"
#include "common/options.h"
#include "tests/unit/unit.h"

struct choices {
	bool is_insecure;
	const char *name;
	struct option_list roots;
	uint64_t slots, speed;
	const char *arguments[2];
	size_t arguments_count;
};

static const struct options_usage usage = {.program = "sluice-test",
	.synopsis = "[OPTION]... FROM [TO]",
	.about = "Tests its options.",
	.arguments_min = 1,
	.arguments_max = 2};

/* argv is what follows the program's name, at most 16 words, NULL at the end. */
static void parse(struct choices *choices, const char *const *words)
{
	const struct option table[] = {
		{.name = "insecure",
			.kind = OPTION_FLAG,
			.value = &choices->is_insecure,
			.help = "Allow it."},
		{.name = "name",
			.kind = OPTION_TEXT,
			.value = &choices->name,
			.argument = "NAME",
			.help = "Its name (default: none)."},
		{.name = "root",
			.kind = OPTION_LIST,
			.value = &choices->roots,
			.argument = "DIR",
			.help = "A folder."},
		{.name = "slots",
			.kind = OPTION_NUMBER,
			.value = &choices->slots,
			.argument = "N",
			.help = "Ranges held at once, which is a sentence so long that help has to break it in two (default: 2).",
			.minimum = 1,
			.maximum = 64},
		{.name = "speed",
			.kind = OPTION_NUMBER,
			.value = &choices->speed,
			.argument = "BYTES",
			.help = "Bytes per second.",
			.maximum = INT64_MAX,
			.is_size = true},
		{.name = NULL},
	};
	char *argv[20] = {(char *)"sluice-test"};
	int argc = 1;

	for (; words[argc - 1]; argc++)
		argv[argc] = (char *)words[argc - 1];
	choices->arguments_count = options_parse(argc, argv, &usage, table, choices->arguments);
}

#define PARSE(choices, ...) parse(choices, (const char *const[]){__VA_ARGS__, NULL})

struct ending {
	int status;
	char out[8192], err[1024];
};

/* A child with stdout and stderr caught; status 99 if options_parse came back. */
static struct ending parse_in_child(const char *const *words)
{
	struct ending ending = {.status = -1};
	FILE *out = tmpfile();
	FILE *err = tmpfile();
	int status;

	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct choices choices = {0};
		dup2(fileno(out), STDOUT_FILENO);
		dup2(fileno(err), STDERR_FILENO);
		parse(&choices, words);
		_exit(99);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ending.status = WEXITSTATUS(status);
	ck_assert_int_ge(pread(fileno(out), ending.out, sizeof ending.out - 1, 0), 0);
	ck_assert_int_ge(pread(fileno(err), ending.err, sizeof ending.err - 1, 0), 0);
	fclose(out);
	fclose(err);
	return ending;
}

static void assert_wrong(const char *const *words, const char *sentence)
{
	struct ending ending = parse_in_child(words);
	size_t length = strlen(ending.err);

	ck_assert_msg(ending.status == 2, "status %d for %s", ending.status, sentence);
	ck_assert_str_eq(ending.out, "");
	ck_assert_msg(strstr(ending.err, sentence) != NULL, "%s", ending.err);
	ck_assert_int_eq(strncmp(ending.err, "sluice-test: ", 13), 0);
	ck_assert_ptr_eq(strchr(ending.err, '\n'), ending.err + length - 1);
}

#define ASSERT_WRONG(sentence, ...) assert_wrong((const char *const[]){__VA_ARGS__, NULL}, sentence)

START_TEST(defaults_stay_where_nothing_is_given)
{
	struct choices choices = {.name = "default", .slots = 2};

	PARSE(&choices, "from");

	ck_assert(!choices.is_insecure);
	ck_assert_str_eq(choices.name, "default");
	ck_assert_uint_eq(choices.slots, 2);
	ck_assert_uint_eq(choices.roots.count, 0);
	ck_assert_uint_eq(choices.arguments_count, 1);
	ck_assert_str_eq(choices.arguments[0], "from");
}
END_TEST

START_TEST(values_follow_their_option_or_an_equals_sign)
{
	struct choices choices = {0};

	PARSE(&choices, "--name", "a", "from", "--slots=7", "--insecure", "to", "--root=/a",
		"--root", "/b=c", "--speed", "5M");

	ck_assert(choices.is_insecure);
	ck_assert_str_eq(choices.name, "a");
	ck_assert_uint_eq(choices.slots, 7);
	ck_assert_uint_eq(choices.speed, 5 << 20);
	ck_assert_uint_eq(choices.roots.count, 2);
	ck_assert_str_eq(choices.roots.values[0], "/a");
	ck_assert_str_eq(choices.roots.values[1], "/b=c");
	ck_assert_uint_eq(choices.arguments_count, 2);
	ck_assert_str_eq(choices.arguments[1], "to");
}
END_TEST

START_TEST(the_last_value_wins_and_an_empty_one_is_a_value)
{
	struct choices choices = {0};

	PARSE(&choices, "--name", "a", "--name=", "from", "--slots", "3", "--slots", "4");

	ck_assert_str_eq(choices.name, "");
	ck_assert_uint_eq(choices.slots, 4);
}
END_TEST

START_TEST(after_two_dashes_all_are_arguments_and_one_dash_is_one)
{
	struct choices choices = {0};

	PARSE(&choices, "-", "--", "--name");

	ck_assert_uint_eq(choices.arguments_count, 2);
	ck_assert_str_eq(choices.arguments[0], "-");
	ck_assert_str_eq(choices.arguments[1], "--name");
}
END_TEST

START_TEST(sizes_have_suffixes_of_powers_of_1024)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {{"0", 0}, {"65536", 65536}, {"64K", 65536}, {"64k", 65536}, {"3M", 3145728},
		{"2G", UINT64_C(2) << 30}, {"1T", UINT64_C(1) << 40},
		{"9223372036854775807", INT64_MAX}};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct choices choices = {0};
		PARSE(&choices, "from", "--speed", cases[i].text);
		ck_assert_uint_eq(choices.speed, cases[i].bytes);
	}
}
END_TEST

START_TEST(wrong_numbers_are_wrong_usage)
{
	static const char *const sizes[] = {"", "K", "-1", "+1", "1X", "1KB", "1.5M", " 1", "0x10",
		"one", "1 K", "18446744073709551616", "99999999999999999999", "16777216T"};

	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		ASSERT_WRONG("is no size (like 65536, 64K, 16M, 1G)", "from", "--speed", sizes[i]);
	ASSERT_WRONG("--slots: '2K' is no number", "from", "--slots", "2K");
	ASSERT_WRONG("--slots: 0 is not within 1 to 64", "from", "--slots", "0");
	ASSERT_WRONG("--slots: 65 is not within 1 to 64", "from", "--slots=65");
	ASSERT_WRONG("--speed: 8388608T is not within 0 to 9223372036854775807", "from",
		"--speed=8388608T");
}
END_TEST

START_TEST(wrong_usage_is_one_line_and_status_2)
{
	ASSERT_WRONG("unknown option '--frobnicate'", "from", "--frobnicate");
	ASSERT_WRONG("unknown option '--nam'", "from", "--nam=x");
	ASSERT_WRONG("unknown option '-n'", "from", "-n");
	ASSERT_WRONG("--name needs a value (NAME)", "from", "--name");
	ASSERT_WRONG("--insecure takes no value", "from", "--insecure=yes");
	ASSERT_WRONG("unexpected argument 'c'", "a", "b", "c");
	ASSERT_WRONG("1 argument is needed", "--insecure");
	ASSERT_WRONG("--log-level: 'loud'", "from", "--log-level", "loud");
	ASSERT_WRONG("--log-format: 'xml'", "from", "--log-format=xml");
}
END_TEST

START_TEST(a_list_has_a_limit)
{
	struct choices choices = {.roots = {.count = OPTION_LIST_MAX - 1}};

	PARSE(&choices, "from", "--root", "last");
	ck_assert_uint_eq(choices.roots.count, OPTION_LIST_MAX);

	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		close(STDERR_FILENO);
		PARSE(&choices, "from", "--root", "one more");
		_exit(99);
	}
	int status;
	waitpid(pid, &status, 0);
	ck_assert_int_eq(WEXITSTATUS(status), 2);
}
END_TEST

START_TEST(help_tells_every_option_and_nothing_else_is_needed)
{
	struct ending ending = parse_in_child((const char *const[]){"--help", NULL});

	ck_assert_int_eq(ending.status, 0);
	ck_assert_str_eq(ending.err, "");
	ck_assert_ptr_eq(
		strstr(ending.out,
			"Usage: sluice-test [OPTION]... FROM [TO]\n\nTests its options.\n"),
		ending.out);
	ck_assert_ptr_nonnull(strstr(ending.out, "\n  --insecure                Allow it.\n"));
	ck_assert_ptr_nonnull(
		strstr(ending.out, "\n  --root DIR                A folder. Repeatable.\n"));
	ck_assert_ptr_nonnull(strstr(ending.out, "\n  --log-format FORMAT "));
	ck_assert_ptr_nonnull(strstr(ending.out, "\n  --version "));
	for (char *line = strtok(ending.out, "\n"); line; line = strtok(NULL, "\n"))
		ck_assert_uint_le(strlen(line), 90);
}
END_TEST

START_TEST(version_names_program_and_number)
{
	struct ending ending = parse_in_child((const char *const[]){"--version", NULL});

	ck_assert_int_eq(ending.status, 0);
	ck_assert_str_eq(ending.out, "sluice-test " SLUICE_VERSION "\n");
}
END_TEST

START_TEST(the_log_is_set_up_as_asked)
{
	struct choices choices = {0};
	char line[512] = "";
	FILE *caught = tmpfile();

	PARSE(&choices, "from", "--log-level=debug", "--log-format", "json");
	dup2(fileno(caught), STDERR_FILENO);
	log_debug("here");

	ck_assert_int_gt(pread(fileno(caught), line, sizeof line - 1, 0), 0);
	ck_assert_ptr_nonnull(strstr(
		line, "\"level\":\"debug\",\"program\":\"sluice-test\",\"message\":\"here\"}"));
	fclose(caught);
}
END_TEST

UNIT_MAIN("options", defaults_stay_where_nothing_is_given,
	values_follow_their_option_or_an_equals_sign,
	the_last_value_wins_and_an_empty_one_is_a_value,
	after_two_dashes_all_are_arguments_and_one_dash_is_one,
	sizes_have_suffixes_of_powers_of_1024, wrong_numbers_are_wrong_usage,
	wrong_usage_is_one_line_and_status_2, a_list_has_a_limit,
	help_tells_every_option_and_nothing_else_is_needed, version_names_program_and_number,
	the_log_is_set_up_as_asked)
