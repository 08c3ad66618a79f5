# SPDX-License-Identifier: Apache-2.0
"""Real processes for system and interop tests: start, wait for "ready", end, leave nothing behind.

    from harness import Workplace, run

    def a_broker_says_ready(place):
        broker = place.start("sluice-broker")
        broker.stop()                         # SIGTERM, must exit 0 within a second or so

    run(globals())

Every public function of the test file whose only parameter is `place` is a test; its name is a sentence.  Each gets a
Workplace of its own: a short temporary folder with run/ and state/ (SLUICE_RUN_DIR and SLUICE_STATE_DIR of all that is
started there), removed at the end together with every process that still lives.  The kernel ends the processes when the
test itself is killed.  Programs are found in the folder $SLUICE_BIN (as `meson install` fills it), else on PATH.
"""

import argparse
import ctypes
import inspect
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

SKIP_STATUS = 77
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """The test can't run here; says why."""


class Failed(AssertionError):
    """Something of the system did not do what it must."""


def check(condition, words):
    """Fails the test with words unless the condition holds (assert statements may be compiled away)."""
    if not condition:
        raise Failed(words)


def check_equal(found, wanted, what="value"):
    if found != wanted:
        raise Failed(f"{what}: found {found!r}, wanted {wanted!r}")


def wait_until(condition, what, seconds=10.0, every=0.01):
    """Calls `condition` until it returns something true, which is returned; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s in vain for: {what}")
        time.sleep(every)


def quickest_rate(marks, amount):
    """The greatest rate at which a figure grew over a piece of `amount` or a little more; marks: [(time, figure)], both rising.
    What is too slow is so in every piece, and a stall of the machine spoils only those in which it falls."""
    rates = []
    for at, figure in marks:
        rates += [(grown - figure) / (later - at) for later, grown in marks if grown >= figure + amount][:1]
    check(rates, f"there is no piece of {amount} in {marks}")
    return max(rates)


def own_tcp_address():
    """HOST:PORT at which nobody else listens.  All of 127.0.0.0/8 is this machine, so each test has a host of its own there, while a
    free port of 127.0.0.1 may be another's before it is used; and the port is none of those that are given to whoever wants any."""
    pid = os.getpid()
    return f"127.{1 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}:20809"


def program(name):
    """The path of a program of Sluice."""
    folder = os.environ.get("SLUICE_BIN")
    path = os.path.join(folder, name) if folder else shutil.which(name)
    if not path or not os.access(path, os.X_OK):
        if folder:
            raise Failed(f"SLUICE_BIN={folder} has no {name}")
        raise Skip(f"{name} is not built: set SLUICE_BIN to the folder with the programs")
    return path


def need(name):
    """The path of somebody else's program, or the test is skipped."""
    path = shutil.which(name)
    if not path:
        raise Skip(f"{name} is not installed")
    return path


class Process:
    """One process under test.  Its stderr and stdout are files in the workplace."""

    def __init__(self, place, name, command, environment, cwd=None, limits=None):
        self.place = place
        self.name = name
        self.command = [str(part) for part in command]
        self.err_path = place.path / f"{name}.err"
        self.out_path = place.path / f"{name}.out"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(place.path / f"{name}.notify"))
        environment = dict(environment)
        environment["NOTIFY_SOCKET"] = str(place.path / f"{name}.notify")
        environment["SLUICE_EXIT_WITH_PARENT"] = "1"
        parent = os.getpid()

        def before_exec():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            for which, value in (limits or {}).items():
                resource.setrlimit(which, (value, value))

        with open(self.err_path, "ab") as err, open(self.out_path, "ab") as out:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                          env=environment, cwd=cwd, preexec_fn=before_exec,
                                          start_new_session=True)
        self.pid = self.child.pid

    def wait_ready(self, seconds=10.0):
        """Until it says READY=1; fails at once if it ends before."""
        self.notify.settimeout(0.02)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in self.notify.recv(4096):
                    return self
            except TimeoutError:
                if self.child.poll() is not None:
                    raise Failed(f"{self.name} ended with {self.child.returncode} before it was ready:\n"
                                 f"{self.err_text()}") from None
        raise Failed(f"{self.name} was not ready within {seconds} s:\n{self.err_text()}")

    def is_alive(self):
        return self.child.poll() is None

    def check_alive(self):
        if not self.is_alive():
            raise Failed(f"{self.name} ended with {self.child.returncode}:\n{self.err_text()}")

    def wait(self, seconds=10.0):
        """Its exit status (negative: the signal that ended it); fails if it lives on."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still runs after {seconds} s:\n{self.err_text()}") from None

    def signal(self, number):
        self.child.send_signal(number)

    def stop(self, seconds=10.0, status=0):
        """SIGTERM; it must end with `status` in time.  Returns the seconds it took."""
        begun = time.monotonic()
        self.signal(signal.SIGTERM)
        found = self.wait(seconds)
        if found != status:
            raise Failed(f"{self.name} ended with {found} after SIGTERM, wanted {status}:\n{self.err_text()}")
        return time.monotonic() - begun

    def kill(self):
        """SIGKILL.  Whether it was alive (a kill that hit nobody proves nothing)."""
        alive = self.is_alive()
        if alive:
            self.child.kill()
        self.child.wait()
        return alive

    def err_text(self, most=8000):
        text = self.err_path.read_text(errors="replace")
        return text[-most:]

    def out_text(self):
        return self.out_path.read_text(errors="replace")

    def memory_kib(self):
        """Resident memory now."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        raise Failed(f"{self.name} has no VmRSS")

    def processor_seconds(self):
        """What all its threads have used so far, in hundredths; a machine that is busy with others makes it no more."""
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as stat:
            user, system = stat.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.notify.close()


def memory_folder(room=2 << 30):
    """Where nothing waits for a disk, if there is room; else None."""
    usable = os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > room
    return "/dev/shm" if usable else None


def stay_in_memory():
    """All workplaces of this test, which says how long something may take: a program may wait for its disk as long as that needs."""
    if memory_folder():
        os.environ.setdefault("SLUICE_TEST_TMP", memory_folder())


class Workplace:
    """A temporary folder and the processes that work in it."""

    def __init__(self, seed=0):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="sl-", dir=os.environ.get("SLUICE_TEST_TMP", "/tmp")))
        self.run_dir = self.path / "run"
        self.state_dir = self.path / "state"
        self.random = random.Random(seed)
        self.seed = seed
        self.processes = []
        self.at_end = []
        self.counts = {}

    def environment(self, **more):
        found = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "HOME": str(self.path),
                 "SLUICE_RUN_DIR": str(self.run_dir), "SLUICE_STATE_DIR": str(self.state_dir)}
        for name in ("SLUICE_BIN", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LD_PRELOAD"):
            if name in os.environ:
                found[name] = os.environ[name]
        found.update({name: str(value) for name, value in more.items()})
        return found

    def own_environment(self, more):
        """For a program of Sluice: with what SLUICE_TEST_PRELOAD names, which a sanitizer needs first in a process whose program was
        built without it, as nbdkit is."""
        preload = os.environ.get("SLUICE_TEST_PRELOAD")
        return self.environment(**({"LD_PRELOAD": preload} if preload else {}) | (more or {}))

    def keep_state_in_memory(self):
        """As stay_in_memory, where the disk with the images does not matter."""
        self.state_dir = pathlib.Path(tempfile.mkdtemp(prefix="sl-", dir=memory_folder(32 << 20)))

    def endpoint(self, name):
        return f"ipc://{self.run_dir}/{name}"

    def start(self, name, *arguments, ready=True, environment=None, limits=None, cwd=None, seconds=10.0, wrap=()):
        """Starts a program of Sluice, waits until it is ready (unless ready=False), returns its Process."""
        number = self.counts.get(name, 0) + 1
        self.counts[name] = number
        process = Process(self, f"{name}.{number}", [*wrap, program(name), *arguments],
                          self.own_environment(environment), cwd=cwd, limits=limits)
        self.processes.append(process)
        if ready:
            process.wait_ready(seconds)
        return process

    def start_other(self, name, *command, environment=None, cwd=None):
        """Starts somebody else's program; when it is ready only the caller can know."""
        process = Process(self, name, command, self.environment(**(environment or {})), cwd=cwd)
        self.processes.append(process)
        return process

    def call(self, *command, seconds=60.0, status=0, input_text=None, environment=None):
        """Runs a command to its end; checks its exit status unless status is None; returns CompletedProcess."""
        command = [str(part) for part in command]
        found = self.environment(**(environment or {}))
        if command[0].startswith("sluice"):
            command[0] = program(command[0])
            found = self.own_environment(environment)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, input=input_text,
                              timeout=seconds, env=found, check=False)
        if status is not None and done.returncode != status:
            raise Failed(f"{' '.join(command)}\nended with {done.returncode}, wanted {status}:\n"
                         f"{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done

    def finally_do(self, action):
        """`action()` runs before the workplace goes away, last come first."""
        self.at_end.append(action)

    def logs(self):
        """The ends of all processes' stderr, for a failed test."""
        return "".join(f"--- {process.name} (status {process.child.poll()})\n{process.err_text(3000)}"
                       for process in self.processes)

    def close(self):
        for action in reversed(self.at_end):
            try:
                action()
            except Exception:  # what comes after must be cleaned up as well
                traceback.print_exc()
        for process in reversed(self.processes):
            process.close()
        if os.environ.get("SLUICE_TEST_KEEP"):
            print(f"# kept: {self.path} {self.state_dir}")
        else:
            shutil.rmtree(self.state_dir, ignore_errors=True)  # it may be elsewhere
            shutil.rmtree(self.path, ignore_errors=True)


def tests_of(names):
    """The tests of a module, in the order in which they are written."""
    found = [thing for name, thing in names.items()
             if inspect.isfunction(thing) and not name.startswith("_")
             and list(inspect.signature(thing).parameters) == ["place"] and thing.__module__ == names["__name__"]]
    return sorted(found, key=lambda test: test.__code__.co_firstlineno)


def run(names):
    """Runs the module's tests (or those whose name contains an argument), prints TAP, exits."""
    if names["__name__"] != "__main__":
        return
    options = argparse.ArgumentParser(description=names.get("__doc__"))
    options.add_argument("--seed", type=int, default=int(os.environ.get("SLUICE_TEST_SEED", "1")))
    options.add_argument("only", nargs="*", help="run only tests whose name contains one of these")
    chosen = options.parse_args()
    tests = [test for test in tests_of(names)
             if not chosen.only or any(word in test.__name__ for word in chosen.only)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"1..{len(tests)}", flush=True)
    failures = skipped = 0
    for number, test in enumerate(tests, 1):
        outcome = run_one(number, test, chosen.seed)
        failures += outcome == "failed"
        skipped += outcome == "skipped"
    sys.exit(1 if failures else SKIP_STATUS if tests and skipped == len(tests) else 0)


def run_one(number, test, seed):
    """Runs one test in a workplace of its own: "passed", "skipped" or "failed"."""
    title = test.__name__.replace("_", " ")
    begun = time.monotonic()
    place = Workplace(seed)
    try:
        test(place)
        line, outcome = f"ok {number} - {title}", "passed"
    except Skip as why:
        line, outcome = f"ok {number} - {title} # SKIP {why}", "skipped"
    except Exception:
        for text in (traceback.format_exc() + place.logs()).splitlines():
            print(f"# {text}")
        print(f"# seed {seed}")
        line, outcome = f"not ok {number} - {title}", "failed"
    finally:
        place.close()
    print(line, flush=True)
    print(f"# {time.monotonic() - begun:.2f} s", flush=True)
    return outcome
