/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "tests/unit/unit.h"
#include "workers/reports.h"

START_TEST(a_report_is_kept_until_it_is_forgotten)
{
	struct reports *reports = reports_new();
	char text[] = "copied 1";

	for (uint64_t lease = 1; lease <= 100; lease++) {
		text[7] = (char)('0' + lease % 10);
		reports_add(reports, lease, text, strlen(text));
	}
	memset(text, 0, sizeof text);

	ck_assert_uint_eq(reports_count(reports), 100);
	ck_assert_mem_eq(reports_find(reports, 42)->bytes, "copied 2", 8);
	ck_assert(reports_forget(reports, 42));
	ck_assert(!reports_forget(reports, 42));
	ck_assert_ptr_null(reports_find(reports, 42));
	ck_assert_uint_eq(reports_count(reports), 99);
	ck_assert_uint_eq(reports_at(reports, 0)->lease, 1);
	ck_assert_uint_eq(reports_at(reports, 41)->lease, 43);
	ck_assert_uint_eq(reports_at(reports, 98)->lease, 100);
	reports_free(reports);
}
END_TEST

UNIT_MAIN("reports", a_report_is_kept_until_it_is_forgotten)
