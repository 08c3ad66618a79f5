# SPDX-License-Identifier: Apache-2.0
"""Who serves an image over NBD: imaged, or QEMU's own server, with which the tests of guests are themselves tested."""

import subprocess

from harness import need, wait_until


class QemuNbd:
    """qemu-nbd with the image.  With `durable` each answered write is in the file, so that kill -9 loses nothing."""

    name = "qemu-nbd"

    def __init__(self, place, image, device="vda", image_format="qcow2", durable=True, shared=16):
        self.place, self.image, self.device, self.image_format = place, image, device, image_format
        self.socket = place.path / f"{device}.nbd"
        self.uri = f"nbd+unix:///{device}?socket={self.socket}"
        self.cache = "writethrough" if durable else "writeback"
        self.shared = shared
        self.starts = 0
        self.process = None
        self.start()

    def start(self):
        self.starts += 1
        self.socket.unlink(missing_ok=True)
        self.process = self.place.start_other(
            f"qemu-nbd.{self.device}.{self.starts}", need("qemu-nbd"), "-t", "-f", self.image_format, "-x", self.device, "-k", self.socket,
            "-e", self.shared, f"--cache={self.cache}", "--discard=unmap", self.image)
        wait_until(self._answers, "qemu-nbd")

    def _answers(self):
        self.process.check_alive()
        return subprocess.run(["nbdinfo", "--size", self.uri], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def kill(self):
        self.process.kill()

    def stop(self):
        self.process.stop(20.0)


class Imaged:
    """A device of the imaged of a System."""

    name = "imaged"

    def __init__(self, system, image, device="vda", **more):
        self.system, self.image, self.device = system, image, device
        system.attach(image, device=device, **more)
        self.uri = self.found()["nbd"]

    def found(self):
        return self.system.client.call("query-devices", 20.0, device=self.device)[0]

    def start(self):
        self.system.start_imaged()

    def kill(self):
        self.system.imaged.kill()

    def stop(self):
        self.system.imaged.stop(15.0)
