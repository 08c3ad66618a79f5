/* SPDX-License-Identifier: Apache-2.0 */
/* The end of every unit test file: `UNIT_MAIN("err", a_test, another_test)`.  Each test runs in a
 * process of its own (unless CK_FORK=no), so threads, ZeroMQ contexts and signals of one never meet
 * another's. */
#ifndef SLUICE_TESTS_UNIT_UNIT_H
#define SLUICE_TESTS_UNIT_UNIT_H

#include <check.h>
#include <stddef.h>
#include <stdlib.h>

#define UNIT_TIMEOUT_SECONDS 60

static inline int unit_run(const char *name, const TTest *const *tests, size_t count)
{
	Suite *suite = suite_create(name);
	TCase *test_case = tcase_create(name);
	SRunner *runner = srunner_create(suite);

	tcase_set_timeout(test_case, UNIT_TIMEOUT_SECONDS);
	for (size_t i = 0; i < count; i++)
		tcase_add_test(test_case, tests[i]);
	suite_add_tcase(suite, test_case);
	srunner_run_all(runner, CK_ENV);

	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define UNIT_MAIN(name, ...)                                                  \
	int main(void)                                                        \
	{                                                                     \
		const TTest *const tests[] = {__VA_ARGS__};                   \
		return unit_run(name, tests, sizeof tests / sizeof tests[0]); \
	}

#endif
