# SPDX-License-Identifier: Apache-2.0
"""A worker's copying threads, held in the midst of their orders, and no other thread of it.

What is held goes from one system call to the next only when it is let.  So a test finds it between its first write and its last
however late the test looks, and to the worker it is as if the disk did not answer.
"""

import ctypes
import os
import signal

from harness import Failed, Skip, check, wait_until

PTRACE_DETACH, PTRACE_SYSCALL, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 17, 24, 0x4206, 0x4207, 0x40000000
BEGUN_BYTES = 1 << 20  # more than this is written: there is progress to be told
LIBC = ctypes.CDLL(None, use_errno=True)


def _trace(request, thread, trouble=Failed):
    if LIBC.ptrace(request, thread, None, None) < 0:
        raise trouble(f"ptrace: {os.strerror(ctypes.get_errno())}")


def _has_ended(thread):
    try:
        found, status = os.waitpid(thread, WALL | os.WNOHANG)
    except ChildProcessError:  # that was seen before
        return True
    return found == thread and not os.WIFSTOPPED(status)


class HeldCopying:
    """Holds the threads from its making on; they are idle if no order was given yet."""

    def __init__(self, place, worker):
        self.pid = worker.pid
        self.threads = []
        place.finally_do(self._end)
        for thread in map(int, os.listdir(f"/proc/{self.pid}/task")):
            if self._told(thread, "comm").strip() == "copy":
                _trace(PTRACE_SEIZE, thread, Skip)
                self.threads.append(thread)
                _trace(PTRACE_INTERRUPT, thread)
                os.waitpid(thread, WALL)
        check(self.threads, "no copying threads")

    def _told(self, thread, name):
        with open(f"/proc/{self.pid}/task/{thread}/{name}", encoding="ascii") as file:
            return file.read()

    def _has_begun(self, thread):
        told = dict(line.split(": ") for line in self._told(thread, "io").splitlines())
        return int(told["wchar"]) > BEGUN_BYTES

    def let_begin(self, broker):
        """Lets each thread take up an order and write the first of it."""
        moving = set(self.threads)
        for thread in moving:
            _trace(PTRACE_SYSCALL, thread)

        def all_have_begun():
            broker.beat_if_due()
            for thread in sorted(moving):
                if os.waitpid(thread, WALL | os.WNOHANG)[0] == 0:
                    continue
                if self._has_begun(thread):
                    moving.remove(thread)
                else:
                    _trace(PTRACE_SYSCALL, thread)
            return not moving

        wait_until(all_have_begun, "an order for each copying thread, and its first bytes", 30.0, every=0.001)

    def release(self):
        while self.threads:
            _trace(PTRACE_DETACH, self.threads.pop())

    def wait_for_end(self, seconds):
        """Until the process has ended them.  Before that nobody can wait for the process itself."""
        while self.threads:
            wait_until(lambda: _has_ended(self.threads[-1]), "the end of a held thread", seconds)
            self.threads.pop()

    def _end(self):
        """After a test that failed."""
        if self.threads:
            os.kill(self.pid, signal.SIGKILL)
            self.wait_for_end(30.0)
