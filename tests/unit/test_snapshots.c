/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of real images that need the base or not, and tables that are damaged. */
#include "imaged/snapshots.h"
#include "schemas/errors.gen.h"
#include "tests/unit/device_fixture.h"

static struct device_fixture f;

static int check_leaf(void)
{
	struct stream stream = {.kept = f.device->live.current->chain->count};
	struct work_scope scope = stream_scope_for(f.device, &stream);

	scope.known_zero = NULL;
	return snapshots_check(&scope, &f.trouble.err);
}

static void begin_with(const char *commands)
{
	fixture_begin(&f);
	fixture_shell(&f, "qemu-img create -q -f qcow2 -b base.raw -F raw leaf.qcow2");
	fixture_shell(&f, "%s", commands);
	fixture_attach(&f, "leaf.qcow2");
}

START_TEST(a_snapshot_that_reads_from_the_base_is_named)
{
	begin_with(
		"qemu-io -c 'write 0 960k' leaf.qcow2 && qemu-img snapshot -c almost leaf.qcow2");
	ck_assert_int_eq(check_leaf(), -1);
	ck_assert_uint_eq(f.trouble.err.kind, ERROR_CLASS_NOT_SUPPORTED);
	ck_assert_msg(strstr(f.trouble.err.text, "'almost'"), "%s", f.trouble.err.text);
	fixture_end(&f);
}
END_TEST

START_TEST(each_snapshot_is_looked_at)
{
	begin_with("qemu-img snapshot -c empty leaf.qcow2 && qemu-io -c 'write 0 1M' leaf.qcow2 && "
		   "qemu-img snapshot -c full leaf.qcow2");
	ck_assert_int_eq(check_leaf(), -1);
	ck_assert_msg(strstr(f.trouble.err.text, "'empty'"), "%s", f.trouble.err.text);
	fixture_end(&f);
}
END_TEST

START_TEST(snapshots_that_hold_everything_need_no_base)
{
	begin_with("qemu-io -c 'write 0 512k' -c 'write -z 512k 512k' leaf.qcow2 && "
		   "qemu-img snapshot -c one leaf.qcow2 && qemu-img snapshot -c two leaf.qcow2");
	ck_assert_int_eq(check_leaf(), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_damaged_table_is_an_error_and_no_crash)
{
	struct qcow2_header *header;

	begin_with("qemu-img snapshot -c one leaf.qcow2");
	header = &f.device->leaf->header;
	header->snapshots = 1000;
	ck_assert_int_eq(check_leaf(), -1);
	header->snapshots_offset = UINT64_C(1) << 50;
	ck_assert_int_eq(check_leaf(), -1);
	for (uint64_t offset = 0; offset < 4096; offset += 8) {
		header->snapshots_offset = offset; /* whatever stands there */
		ck_assert_int_le(check_leaf(), 0);
	}
	fixture_end(&f);
}
END_TEST

DEVICE_MAIN("snapshots", a_snapshot_that_reads_from_the_base_is_named, each_snapshot_is_looked_at,
	snapshots_that_hold_everything_need_no_base, a_damaged_table_is_an_error_and_no_crash)
