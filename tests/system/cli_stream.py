#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`sluice stream` and `sluice up` with the real programs: outcomes, words, Ctrl-C, deaths, and that nothing is left behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))

import images
from engine_judge import work_folder
from harness import check, check_equal, program, quickest_rate, run, wait_until
from images import MIB
from sluice_wire import Events


class Chain:
    """base.raw <- mid.qcow2 <- leaf.qcow2 (empty) in a folder, and what the leaf reads as."""

    def __init__(self, place, size=24 * MIB, folder="images"):
        self.place = place
        self.folder = place.path / folder
        self.folder.mkdir()
        self.base = images.create_raw(self.folder / "base.raw", size, [(0, images.pattern(size - MIB, 1))])
        self.mid = images.create(self.folder / "mid.qcow2", size, "base.raw")
        images.io(self.mid, "write -P 7 1M 3M")
        self.leaf = images.create(self.folder / "leaf.qcow2", size, "mid.qcow2")
        self.reference = images.flatten(self.leaf, place.path / f"{folder}.reference")

    def judge(self, backing=None):
        images.check_clean(self.leaf)
        images.compare(self.leaf, self.reference)
        check_equal(images.info(self.leaf).get("backing-filename"), backing, "backing file")


def _temporary(place):
    """TMPDIR of the command, so that what it leaves behind is seen."""
    folder = place.path / "t"
    folder.mkdir(exist_ok=True)
    return folder


def _sluice(place, *arguments, **options):
    return place.call("sluice", *arguments, environment={"TMPDIR": _temporary(place)}, **options)


def _start(place, *arguments):
    return place.start("sluice", *arguments, ready=False, environment={"TMPDIR": _temporary(place)})


def children_of(pid):
    """{pid: name} of the children of a process."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name, rest = (entry / "stat").read_text().split("(", 1)[1].rsplit(") ", 1)
        except OSError:
            continue
        if int(rest.split()[1]) == pid and rest[0] != "Z":
            found[int(entry.name)] = name
    return found


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def _check_nothing_is_left(place):
    check_equal(os.listdir(_temporary(place)), [], "files left behind")


def one_line(text):
    check_equal(text.count("\n"), 1, f"lines of '{text}'")
    return text


def an_image_is_streamed_with_nothing_else_running(place):
    chain = Chain(place)
    done = _sluice(place, "stream", chain.leaf)
    check("needs no other file" in done.stdout, done.stdout)
    check_equal(done.stderr, "", "stderr")
    chain.judge()
    _check_nothing_is_left(place)


def json_ends_with_the_completion_event(place):
    chain = Chain(place)
    done = _sluice(place, "stream", chain.leaf, "--json", "--workers", 1)
    data = json.loads(done.stdout.splitlines()[-1])
    check_equal((data["type"], data["position"], data["end"]), ("stream", 24 * MIB, 24 * MIB))
    check(0 < data["seconds"] < 60 and "error" not in data, f"{data}")
    chain.judge()
    done = _sluice(place, "stream", chain.leaf, "--json")  # nothing to do is no error
    check_equal(json.loads(done.stdout)["position"], 24 * MIB)


def a_base_stays_however_it_is_named(place):
    for number, name in enumerate(("base.raw", "./base.raw", None)):
        chain = Chain(place, folder=f"images{number}")
        subprocess.run([program("sluice"), "stream", "leaf.qcow2", "--base", name or str(chain.base), "--no-progress"],
                       cwd=chain.folder, env=place.environment(), stdout=subprocess.DEVNULL, check=True)
        chain.judge(backing="base.raw")


def what_is_refused_says_why_in_one_line(place):
    chain = Chain(place)
    raw = images.create_raw(place.path / "plain.raw", MIB)
    digest = images.digest(chain.leaf)
    for words, arguments in [("No such file", [place.path / "missing.qcow2"]),
                             ("not in the chain", [chain.leaf, "--base", "nothing.raw"]),
                             ("Operation is not supported", [raw]),
                             ("No such file", [chain.leaf, "--root", place.path / "missing"])]:
        done = _sluice(place, "stream", *arguments, status=1)
        check(words in one_line(done.stderr), f"{arguments}: '{done.stderr}' lacks '{words}'")
        _check_nothing_is_left(place)
    check_equal(images.digest(chain.leaf), digest, "the leaf")


def a_layer_outside_the_roots_is_refused_with_the_option_to_add(place):
    chain = Chain(place)
    outside = place.path / "outside"
    outside.mkdir()
    chain.base.rename(outside / "base.raw")
    images.tool("qemu-img", "rebase", "-u", "-b", "../outside/base.raw", "-F", "raw", chain.mid)
    done = _sluice(place, "stream", chain.leaf, status=1)
    check(f"--root {outside}" in one_line(done.stderr), done.stderr)
    _sluice(place, "stream", chain.leaf, "--root", outside)
    chain.judge()


def _chain_in_memory(place, size=24 * MIB):
    """Where it matters how long something takes: a slow disk would be what takes it."""
    memory = work_folder()
    place.finally_do(memory.cleanup)
    (place.path / "t").symlink_to(tempfile.mkdtemp(dir=memory.name))
    return Chain(place, size, f"{memory.name}/images")


def ctrl_c_cancels_and_a_new_run_completes(place):
    chain = _chain_in_memory(place)
    process = _start(place, "stream", chain.leaf, "--speed", "1M")
    wait_until(lambda: "MiB of" in process.out_text(), "progress", 20.0)
    process.signal(signal.SIGINT)
    check_equal(process.wait(5.0), 1, "status")
    check("cancelled" in one_line(process.err_text()), process.err_text())
    _check_nothing_is_left(place)
    chain.judge(backing="mid.qcow2")
    _sluice(place, "stream", chain.leaf)
    chain.judge()


def the_limit_is_kept(place):
    chain = _chain_in_memory(place, 32 * MIB)
    process = _start(place, "stream", chain.leaf, "--speed", "8M", "--json")
    socket = wait_until(lambda: next(_temporary(place).glob("*/run/events"), None), "the broker's socket")
    feed = Events(place, "BLOCK_JOB_PROGRESS/", f"ipc://{socket}")
    check_equal(process.wait(60.0), 0, "status")
    while feed.next(0.1):
        pass
    seconds = json.loads(process.out_text())["seconds"]
    check(seconds > 31 / 8 * 0.8, f"31 MiB at 8 MiB/s took {seconds} s")
    marks = [(event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6, event["data"]["copied"])
             for _, event in feed.seen]
    rate = quickest_rate([one for one in marks if one[1] >= 8 * MIB], 4 * MIB) / MIB  # without what may have come at once
    check(rate > 8 / 1.4, f"no 4 MiB were quicker than {rate:.1f} MiB/s with a limit of 8 MiB/s")
    chain.judge()


def workers_that_die_are_replaced(place):
    chain = Chain(place)
    process = _start(place, "stream", chain.leaf, "--speed", "8M")
    wait_until(lambda: "MiB of" in process.out_text(), "progress", 20.0)
    workers = [pid for pid, name in children_of(process.pid).items() if name == "sluice-worker"]
    check_equal(len(workers), 2, "workers")
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    check_equal(process.wait(60.0), 0, "status")
    check("another takes its place" in process.out_text(), process.out_text())
    chain.judge()
    _check_nothing_is_left(place)


def a_broker_or_imaged_that_dies_is_a_clear_end(place):
    chain = Chain(place)
    for name in ("sluice-broker", "sluice-imaged"):
        process = _start(place, "stream", chain.leaf, "--speed", "4M")
        wait_until(lambda found=process: "MiB of" in found.out_text(), "progress", 20.0)
        victim = next(pid for pid, found in children_of(process.pid).items() if found.startswith(name))
        os.kill(victim, signal.SIGKILL)
        check_equal(process.wait(30.0), 1, "status")
        check(f"{name} was ended by signal 9" in one_line(process.err_text()), process.err_text())
        _check_nothing_is_left(place)
    images.check_no_error(chain.leaf)
    images.compare(chain.leaf, chain.reference)
    _sluice(place, "stream", chain.leaf)
    chain.judge()


def children_end_with_a_killed_parent(place):
    chain = Chain(place)
    process = _start(place, "stream", chain.leaf, "--speed", "4M")
    wait_until(lambda: "MiB of" in process.out_text(), "progress", 20.0)
    children = children_of(process.pid)
    check_equal(len(children), 4, f"children {children}")
    process.kill()
    wait_until(lambda: not any(is_running(pid) for pid in children), "the end of all children", 15.0)
    images.check_no_error(chain.leaf)
    images.compare(chain.leaf, chain.reference)


def up_runs_everything_until_ctrl_c(place):
    chain = Chain(place)
    up = place.start("sluice", "up", "--device", f"vda={chain.leaf}", "--root", chain.folder, seconds=20.0)
    children = children_of(up.pid)
    check_equal(len(children), 4, f"children {children}")
    wait_until(lambda: "vda" in place.call("sluice", "devices").stdout, "the device")
    where = f"nbd+unix:///vda?socket={place.run_dir}/nbd"
    check(f"Guests of vda connect to {where}\n" in up.out_text(), f"where guests connect: {up.out_text()}")
    check_equal(place.call("nbdinfo", "--size", where).stdout.strip(), str(images.virtual_size(chain.leaf)), "size at that place")
    check_equal(wait_until(lambda: place.call("sluice", "workers").stdout.count("\n") == 3, "two workers"), True)
    check("MiB" in place.call("sluice", "plan", "vda").stdout, "plan")
    done = place.call("sluice", "block-stream", "vda", "--wait", "--base", "base.raw")
    check("done in" in done.stdout, done.stdout)
    check("base.raw" in place.call("sluice", "devices").stdout, "chain")
    place.call("sluice", "block-stream", "vda", "--speed", "1M")
    check("running" in place.call("sluice", "jobs").stdout, "jobs")
    place.call("sluice", "set-speed", "vda", "2M")
    jobs = json.loads(place.call("sluice", "jobs", "--json").stdout)
    check_equal(jobs["return"][0]["speed"], 2 * MIB)
    check("is in use" in place.call("sluice", "detach", "vda", status=1).stderr, "detach with a job")
    place.call("sluice", "cancel", "vda")
    wait_until(lambda: place.call("sluice", "jobs").stdout == "no jobs\n", "the end of the job")
    names = [json.loads(line)["event"] for line in place.call("sluice", "events").stdout.splitlines()]
    check("BLOCK_JOB_COMPLETED" in names and "BLOCK_JOB_CANCELLED" in names, f"{names}")
    place.call("sluice", "block-stream", "vda", "--wait", "--json")
    place.call("sluice", "detach", "vda")
    up.signal(signal.SIGINT)
    check_equal(up.wait(15.0), 0, "status")
    check(not any(is_running(pid) for pid in children), "children live on")
    chain.judge()


def odd_file_names_become_device_names(place):
    chain = Chain(place, size=8 * MIB)
    odd = chain.folder / "1 ümlaut & co.img"
    chain.leaf.rename(odd)
    chain.leaf = odd
    done = _sluice(place, "stream", odd, "--json")
    check(json.loads(done.stdout)["device"].startswith("disk-1_"), done.stdout)
    chain.judge()


run(globals())
