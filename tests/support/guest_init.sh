#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first and only process of the guest of tests/system/real_guest.py.  Says on its console what it has done, in lines that begin with
# GUEST; `phase=` on the kernel's command line says what to do.  It works until a line comes in on its second serial port.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
echo 3 >/proc/sys/kernel/printk

say() { echo "GUEST $*"; }
fail() {
	say "FAILED: $*"
	dmesg | tail -n 30
	poweroff -f
}

for module in $(cat /modules/order); do
	insmod "/modules/$module" || fail "insmod $module"
done
phase=$(sed 's/.*phase=\([a-z]*\).*/\1/' /proc/cmdline)
mount -t ext4 -o "$([ "$phase" = read ] && echo ro || echo rw)" /dev/vda /mnt || fail mount
cd /mnt || fail cd
say "mounted for $phase"

forget() { # what is in memory, so that the disk is asked
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

if [ "$phase" = work ]; then
	md5sum -c -s /sums || fail "the files of the base"
	say "verified the base"
	(
		read -r _ </dev/ttyS1
		touch /tmp/enough
	) &
	round=1
	while [ $round -le 10 ] || [ ! -e /tmp/enough ]; do
		mkdir -p "new/$round"
		dd if=/dev/urandom of="new/$round/random" bs=64k count=20 2>/dev/null || fail "writing in round $round"
		cp "files/$((round % 30 + 1)).bin" "new/$round/copy" || fail "copying in round $round"
		md5sum "new/$round/random" "new/$round/copy" >>/tmp/new
		dd if=/dev/urandom of="files/$((round % 30 + 1)).bin" bs=4k seek=$((round * 7 % 200)) count=9 conv=notrunc 2>/dev/null || fail "overwriting"
		[ $((round % 3)) != 0 ] || [ $round -gt 9 ] || rm -r "files/gone/$round" || fail "removing"
		forget
		md5sum -c -s /tmp/new || fail "what was written up to round $round"
		[ $round != 5 ] || fstrim /mnt || fail "fstrim"
		if [ $round -gt 20 ]; then # the disk is small
			rm -r "new/$round"
			sed -i "/new.$round./d" /tmp/new
		fi
		say "round $round"
		round=$((round + 1))
	done
	fstrim /mnt || fail "fstrim"
	find files new -type f | sort | xargs md5sum >sums || fail "sums"
	forget
fi
md5sum -c -s sums || fail "the files of the last boot"
say "sums $(md5sum <sums) of $(wc -l <sums) files"
cd /
umount /mnt || fail umount
! dmesg | grep -E 'I/O error|EXT4-fs (error|warning)' || fail "the kernel complains"
say "done"
sync
poweroff -f
