#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The lock on released messages: a copy of the schemas is changed in one place at a time, and the generator must say so.

    lock.py FOLDER_OF_SCHEMAS"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# file, what stands there, what shall stand there, what the generator must say ("" : nothing, it must accept)
CHANGES = [
    ("events.toml", 'name = "imaged", type = "str", max = 64', 'name = "imaged", type = "str", max = 63', "event DEVICE_ONLINE was released and changed"),
    ("events.toml", "[event.WORKER_LOST]", "[event.WORKER_GONE]", "event WORKER_LOST was released and is gone"),
    ("events.toml", "durable = true", "durable = false", "event BLOCK_JOB_COMPLETED was released and changed"),
    ("client_broker.toml", "[command.query-version]", "[command.query-versions]", "command query-version was released and is gone"),
    ("client_broker.toml", '{ name = "force", type = "bool", optional = true', '{ name = "forced", type = "bool", optional = true', "command block_job_cancel was released and changed"),
    ("client_broker.toml", 'errors = ["DeviceNotActive"]', 'errors = []', "command block_job_cancel was released and changed"),
    ("client_broker.toml", '{ name = "minor", type = "uint", about = "minor" },', "", "minor"),
    ("types.toml", '{ name = "node-name", type = "str", max = 80', '{ name = "node-name", type = "str", max = 81', "command query-devices was released and changed"),
    # Noticed at the first command that names it, before the lock is asked.
    ("errors.toml", '{ name = "NoSpace", about', '{ name = "NoRoom", about', "NoSpace"),
    ("types.toml", 'name = "flush"', 'name = "sync"', "enum operation was released and its values changed"),
    ("types.toml", '    { name = "flush"', '    { name = "open", about = "opening" },\n    { name = "flush"', "enum operation was released and its values changed"),
    # What may change: words for people, and an enum at its end; and what is not in the lock.
    ("events.toml", "A worker left the roster.", "A worker is not in the roster any more.", ""),
    ("errors.toml", "},\n]", '},\n    { name = "Newest", about = "for the test" },\n]', ""),
    ("worker_broker.toml", "max = 256", "max = 128", ""),
]


def generate(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-B", folder / "generate.py", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def change(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    if old not in text:
        sys.exit(f"{name} has no '{old}' any more: this test needs another one")
    path.write_text(text.replace(old, new, 1))
    return text


def expect(done, words, what):
    if words and (done.returncode == 0 or words not in done.stdout):
        sys.exit(f"{what}: expected '{words}', got {done.returncode} and '{done.stdout}'")
    if not words and done.returncode != 0:
        sys.exit(f"{what}: should be accepted: '{done.stdout}'")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "schemas"
        shutil.copytree(sys.argv[1], folder)
        expect(generate(folder, "--check-lock"), "", "unchanged")
        for name, old, new, words in CHANGES:
            kept = change(folder, name, old, new)
            expect(generate(folder, "--check-lock"), words, f"{name}: {old} -> {new}")
            (folder / name).write_text(kept)

        # A changed one is renewed only by name; a message may be locked by name.
        change(folder, *CHANGES[0][:3])
        generate(folder, "--lock")
        expect(generate(folder, "--check-lock"), CHANGES[0][3], "renewed without being named")
        expect(generate(folder, "--lock", "event/DEVICE_ONLINE", "event/DEVICE_OFFLINE", "message/joined"), "", "lock by name")
        expect(generate(folder, "--check-lock"), "", "after renewal")
        expect(generate(folder, "--lock", "event/NO_SUCH"), "is not defined", "lock of nothing")
        change(folder, "worker_broker.toml", 'name = "inode"', 'name = "node"')
        expect(generate(folder, "--check-lock"), "example", "changed message")
        change(folder, "worker_broker.toml", "inode = 12 }", "node = 12 }")
        expect(generate(folder, "--check-lock"), "message joined was released and changed", "changed message")
    print(f"{len(CHANGES)} changes, each judged as it should be")


if __name__ == "__main__":
    main()
