#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How long a broker with many stored jobs takes from its start to its first answer.  tests/bench/restart.py [JOBS]"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from harness import Workplace, wait_until
from sluice_wire import Client, FakeImaged

DEVICES_EACH = 1000


def fill(place, count):
    """`count` devices, each with a job that waits for a worker."""
    client = Client(place)
    imageds = [FakeImaged(place, name=f"imaged-{i}", incarnation=10 + i).begin()
               for i in range((count + DEVICES_EACH - 1) // DEVICES_EACH)]
    wait_until(lambda: client.ask("device-attach", device="d0", file="/i/0", imaged="imaged-0").get("return"),
               "the first device", 30)
    waiting = [client.send("device-attach", device=f"d{i}", file=f"/i/{i}", imaged=f"imaged-{i // DEVICES_EACH}")
               for i in range(1, count)]
    for number in waiting:
        client.reply(number, 120)
    waiting = [client.send("block_stream", device=f"d{i}") for i in range(count)]
    for number in waiting:
        answer = client.reply(number, 120)
        if "error" in answer:
            sys.exit(f"block_stream: {answer['error']}")
    for imaged in imageds:
        imaged.stop()


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    place = Workplace()
    try:
        broker = place.start("sluice-broker")
        fill(place, count)
        broker.kill()
        figures = []
        for _ in range(3):
            begun = time.monotonic()
            broker = place.start("sluice-broker", ready=False)
            client = Client(place)
            jobs = sum(client.call("query-status", 60)["jobs"].values())
            figures.append(time.monotonic() - begun)
            memory = broker.memory_kib() // 1024
            size = sum(file.stat().st_blocks for file in place.state_dir.iterdir() if file.name == "data.mdb") * 512
            broker.kill()
        figures.sort()
        print(f"{jobs} jobs stored ({size >> 20} MiB): first answer after {figures[1]:.2f} s "
              f"(of three), {memory} MiB resident")
        sys.exit(0 if figures[1] < 1.0 and jobs == count else 1)
    finally:
        place.close()


main()
