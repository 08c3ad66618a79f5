# SPDX-License-Identifier: Apache-2.0
"""qemu-storage-daemon, spoken to over QMP: the peer that Sluice is compared with."""

import json
import pathlib
import socket
import subprocess

from harness import wait_until


class QemuDaemon:
    """Files of its own lie in `folder`.  Events that came while an answer was awaited are kept."""

    def __init__(self, folder):
        self.path = str(folder / "qmp")
        self.nbd_socket = folder / "peer.nbd"
        self.early = []
        self.child = subprocess.Popen(["qemu-storage-daemon", "--chardev", f"socket,id=c,path={self.path},server=on,wait=off",
                                       "--monitor", "chardev=c"])
        self.socket = socket.socket(socket.AF_UNIX)
        wait_until(self._connected, "the monitor of qemu-storage-daemon")
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.execute("qmp_capabilities")

    def _connected(self):
        try:
            self.socket.connect(self.path)
            return True
        except OSError:
            return False

    def execute(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            if "return" in answer:
                return answer["return"]
            self.early.append(answer)

    def until(self, *events):
        """The data of the next of these events."""
        while True:
            for number, one in enumerate(self.early):
                if one.get("event") in events:
                    return self.early.pop(number).get("data")
            self.early.append(json.loads(self.file.readline()))

    def open(self, base, leaf):
        self.execute("blockdev-add", **{"node-name": "base", "driver": "raw", "read-only": True,
                                        "file": {"driver": "file", "filename": str(base), "aio": "io_uring"}})
        self.execute("blockdev-add", **{"node-name": "leaf", "driver": "qcow2", "backing": "base", "discard": "unmap",
                                        "file": {"driver": "file", "filename": str(leaf), "aio": "io_uring", "discard": "unmap"}})

    def close_images(self):
        self.execute("blockdev-del", **{"node-name": "leaf"})
        self.execute("blockdev-del", **{"node-name": "base"})

    def serve(self, name="vda"):
        """The URI of the leaf; ended by withdraw()."""
        if not self.nbd_socket.exists():
            self.execute("nbd-server-start", addr={"type": "unix", "data": {"path": str(self.nbd_socket)}}, **{"max-connections": 0})
        self.execute("block-export-add", type="nbd", id="export", name=name, writable=True, **{"node-name": "leaf"})
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def withdraw(self):
        self.execute("block-export-del", id="export", mode="hard")
        self.until("BLOCK_EXPORT_DELETED")

    def begin_stream(self, **arguments):
        self.execute("block-stream", **{"job-id": "job", "device": "leaf"}, **arguments)

    def position(self):
        """Of the job; None when it has ended."""
        jobs = [job for job in self.execute("query-block-jobs") if job["device"] == "job"]
        return jobs[0]["offset"] if jobs else None

    def cancel(self):
        """Ends the job, in whatever way it does."""
        try:
            self.execute("block-job-cancel", device="job")
        except RuntimeError:
            pass  # it has just ended
        return self.until("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")

    def memory_kib(self):
        with open(f"/proc/{self.child.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    def close(self):
        self.child.terminate()
        self.child.wait()
        pathlib.Path(self.path).unlink(missing_ok=True)
