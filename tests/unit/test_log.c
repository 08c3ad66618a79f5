/* SPDX-License-Identifier: Apache-2.0 */
/* What lands on stderr: one line an event, in both formats, whatever the sentence contains. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <regex.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/unit/unit.h"

/* stderr, caught in a pipe. */
static int caught = -1;

static void catch_stderr(void)
{
	int ends[2];

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
	close(ends[1]);
	caught = ends[0];
	fcntl(caught, F_SETFL, O_NONBLOCK);
}

/* What was written since, at most one pipe's buffer; static memory. */
static const char *caught_text(void)
{
	static char text[65536];
	ssize_t n = read(caught, text, sizeof text - 1);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void assert_matches(const char *text, const char *pattern)
{
	regex_t regex;

	ck_assert_int_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
	ck_assert_msg(
		regexec(&regex, text, 0, NULL, 0) == 0, "'%s' is not like '%s'", text, pattern);
	regfree(&regex);
}

/* The line's "message", checked to be one JSON object of the four members; the caller frees. */
static char *json_message(const char *line)
{
	json_error_t error;
	json_t *object = json_loads(line, 0, &error);

	ck_assert_msg(object != NULL, "%s: %s", error.text, line);
	ck_assert_uint_eq(json_object_size(object), 4);
	ck_assert(json_is_string(json_object_get(object, "time")));
	ck_assert(json_is_string(json_object_get(object, "level")));
	ck_assert(json_is_string(json_object_get(object, "program")));
	char *message = strdup(json_string_value(json_object_get(object, "message")));
	json_decref(object);
	return message;
}

START_TEST(a_text_line_has_time_level_program_and_sentence)
{
	catch_stderr();
	log_setup("sluice-worker", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);

	log_info("joined leaf device=%s", "virtio0");

	assert_matches(caught_text(),
		"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "
		"info sluice-worker: joined leaf device=virtio0\n$");
}
END_TEST

START_TEST(what_is_below_the_level_is_not_said)
{
	catch_stderr();
	log_setup("p", LOG_LEVEL_WARN, LOG_FORMAT_TEXT);

	log_debug("no");
	log_info("no");
	log_warn("one");
	log_error("two");

	assert_matches(caught_text(), "^[^\n]* warn p: one\n[^\n]* error p: two\n$");
}
END_TEST

START_TEST(a_sentence_cannot_make_a_second_line)
{
	catch_stderr();
	log_setup("p", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);

	log_info("%s", "file=a\n2026-01-01T00:00:00.000Z error p: forged\x1b[31m\xff");

	const char *text = caught_text();
	ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
	ck_assert_ptr_nonnull(strstr(text, "file=a\\n2026"));
	ck_assert_ptr_nonnull(strstr(text, "forged\\x1b[31m\\xff\n"));
}
END_TEST

START_TEST(a_json_line_is_an_object_with_the_sentence_as_it_was)
{
	static const char sentence[] =
		"quote \" backslash \\ tab \t line \n bell \a euro \xe2\x82\xac";

	catch_stderr();
	log_setup("sluice-broker", LOG_LEVEL_DEBUG, LOG_FORMAT_JSON);

	log_debug("%s", sentence);

	const char *line = caught_text();
	ck_assert_ptr_eq(strchr(line, '\n'), line + strlen(line) - 1);
	char *message = json_message(line);
	ck_assert_str_eq(message, sentence);
	free(message);
}
END_TEST

START_TEST(json_gets_only_valid_utf_8)
{
	static const char *const sentences[] = {"\xff", "\xc0\x80", "\xe2\x82", "\xed\xa0\x80",
		"\xf4\x90\x80\x80", "\x80", "\xf0\x80\x80\x80", "a\xc3"};

	catch_stderr();
	log_setup("p", LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	for (size_t i = 0; i < sizeof sentences / sizeof sentences[0]; i++) {
		log_info("%s", sentences[i]);

		char *message = json_message(caught_text());
		ck_assert_ptr_nonnull(strstr(message, "\xef\xbf\xbd"));
		free(message);
	}
}
END_TEST

START_TEST(a_long_sentence_is_cut_and_its_line_still_whole)
{
	static char sentence[3 * PIPE_BUF];

	catch_stderr();
	for (int shift = 0; shift < 8; shift++) {
		memset(sentence, '\n', sizeof sentence - 1);
		memset(sentence, 'x', (size_t)shift);
		log_setup("p", LOG_LEVEL_INFO, LOG_FORMAT_JSON);
		log_info("%s", sentence);
		const char *line = caught_text();
		ck_assert_uint_le(strlen(line), PIPE_BUF);
		ck_assert_uint_gt(strlen(line), PIPE_BUF - 16);
		char *message = json_message(line);
		ck_assert_str_eq(message + strlen(message) - 4, "\n...");
		free(message);

		log_setup("p", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
		log_info("%s", sentence);
		line = caught_text();
		ck_assert_uint_le(strlen(line), PIPE_BUF);
		ck_assert_str_eq(line + strlen(line) - 4, "...\n");
	}
}
END_TEST

static void *log_many(void *name)
{
	for (int i = 0; i < 200; i++)
		log_info("%s %s %s", (char *)name, (char *)name, (char *)name);
	return NULL;
}

START_TEST(lines_of_several_threads_do_not_mix)
{
	static char names[4][8] = {"aaaa", "bbbb", "cccc", "dddd"};
	pthread_t threads[4];
	unsigned lines = 0;

	catch_stderr();
	log_setup("p", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	fcntl(caught, F_SETPIPE_SZ, 1 << 20);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, log_many, names[i]);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);

	static char text[1 << 20];
	ssize_t n = read(caught, text, sizeof text - 1);
	ck_assert_int_gt(n, 0);
	text[n] = '\0';
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		assert_matches(line,
			" info p: (aaaa aaaa aaaa|bbbb bbbb bbbb|cccc cccc cccc|dddd dddd dddd)$");
		lines++;
	}
	ck_assert_uint_eq(lines, 800);
}
END_TEST

START_TEST(a_full_pipe_or_a_closed_stderr_disturbs_nobody_and_errno_stays)
{
	log_setup("p", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
	close(STDERR_FILENO);
	errno = ENOSPC;

	log_info("into the void");

	ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

START_TEST(words_of_level_and_format_are_known)
{
	enum log_level level = LOG_LEVEL_DEBUG;
	enum log_format format = LOG_FORMAT_TEXT;

	ck_assert(log_level_parse("warn", &level));
	ck_assert_int_eq(level, LOG_LEVEL_WARN);
	ck_assert(!log_level_parse("loud", &level));
	ck_assert_int_eq(level, LOG_LEVEL_WARN);
	ck_assert(log_format_parse("json", &format));
	ck_assert_int_eq(format, LOG_FORMAT_JSON);
	ck_assert(!log_format_parse("xml", &format));
}
END_TEST

UNIT_MAIN("log", a_text_line_has_time_level_program_and_sentence,
	what_is_below_the_level_is_not_said, a_sentence_cannot_make_a_second_line,
	a_json_line_is_an_object_with_the_sentence_as_it_was, json_gets_only_valid_utf_8,
	a_long_sentence_is_cut_and_its_line_still_whole, lines_of_several_threads_do_not_mix,
	a_full_pipe_or_a_closed_stderr_disturbs_nobody_and_errno_stays,
	words_of_level_and_format_are_known)
