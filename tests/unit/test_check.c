/* SPDX-License-Identifier: Apache-2.0 */
/* How our own mistakes end: at once, with a signal. */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/check.h"
#include "tests/unit/unit.h"

/* Runs `act` in a child; returns how it ended, as of waitpid. */
static int run_in_child(void (*act)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct rlimit no_core = {0, 0};
		setrlimit(RLIMIT_CORE, &no_core);
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		act();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void break_an_invariant(void)
{
	int one = 1;

	bug_if(one + one == 2);
}

static void keep_an_invariant(void)
{
	int one = 1;

	bug_if(one + one == 3);
}

static void overflow_a_size(void)
{
	volatile unsigned long huge = ~0UL;

	free(must_realloc(NULL, huge, 16));
}

START_TEST(a_broken_invariant_aborts)
{
	int status = run_in_child(break_an_invariant);

	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGABRT);
}
END_TEST

START_TEST(a_kept_invariant_costs_nothing)
{
	int status = run_in_child(keep_an_invariant);

	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

START_TEST(a_size_that_overflows_is_no_small_allocation)
{
	int status = run_in_child(overflow_a_size);

	ck_assert(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
}
END_TEST

START_TEST(memory_is_zeroed_grown_and_copied)
{
	char *memory = must_calloc(4, 2);
	ck_assert_mem_eq(memory, "\0\0\0\0\0\0\0\0", 8);
	memcpy(memory, "abcdefg", 8);
	memory = must_realloc(memory, 1000, 10);
	ck_assert_str_eq(memory, "abcdefg");
	char *copy = must_strdup(memory);
	free(memory);

	ck_assert_str_eq(copy, "abcdefg");
	free(copy);
}
END_TEST

START_TEST(nothing_of_something_is_still_memory)
{
	void *none = must_calloc(0, 8);

	ck_assert_ptr_nonnull(none);
	none = must_realloc(none, 0, 8);
	ck_assert_ptr_nonnull(none);
	free(none);
}
END_TEST

UNIT_MAIN("check", a_broken_invariant_aborts, a_kept_invariant_costs_nothing,
	a_size_that_overflows_is_no_small_allocation, memory_is_zeroed_grown_and_copied,
	nothing_of_something_is_still_memory)
