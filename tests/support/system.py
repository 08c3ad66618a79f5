# SPDX-License-Identifier: Apache-2.0
"""The whole system in a workplace: a broker, an imaged, workers; jobs on it; and the oracles that judge a streamed leaf."""

import time

import images
from harness import Failed, check, check_equal, wait_until
from sluice_wire import Client, CommandError, Events


class System:
    """Programs of one run directory.  `root` is the folder beneath which images lie."""

    def __init__(self, place, workers=2, root=None, broker_options=(), start=True):
        self.place = place
        self.root = root or place.path
        self.broker_options = broker_options
        self.worker_count = 0
        self.broker = self.imaged = None
        self.workers = []
        self.client = None
        if start:
            self.start_broker()
            self.start_imaged()
            for _ in range(workers):
                self.start_worker()

    def start_broker(self):
        self.broker = self.place.start("sluice-broker", *self.broker_options)
        if self.client is None:
            self.client = Client(self.place)
        return self.broker

    def start_imaged(self, environment=None):
        self.imaged = self.place.start("sluice-imaged", "--root", self.root, "--name", "alpha", "--realm", "here",
                                       environment=environment)
        return self.imaged

    def start_worker(self, *options, environment=None):
        self.worker_count += 1
        worker = self.place.start("sluice-worker", "--root", self.root, "--realm", "here", "--name",
                                  f"worker-{self.worker_count}", *options, environment=environment)
        self.workers.append(worker)
        return worker

    def events(self, prefix=""):
        """A subscriber that certainly hears what comes from now on."""
        found = Events(self.place, prefix)
        check(found.next(5.0) if prefix == "" else True, "no heartbeat")
        return found

    def attach(self, file, device="vda", seconds=20.0, **more):
        wait_until(lambda: self.try_attach(file, device, more), f"attaching {file}", seconds)

    def try_attach(self, file, device, more):
        try:
            self.client.call("device-attach", 20.0, device=device, file=str(file), **more)
            return True
        except CommandError as error:
            if error.error_class == "DeviceOffline" or "no imaged" in error.desc.lower():
                return False
            raise

    def try_detach(self, device):
        """Whether it is detached now; False while its imaged is away or its job is just ending."""
        try:
            self.client.call("device-detach", 20.0, device=device)
            return True
        except CommandError as error:
            if error.error_class in ("DeviceOffline", "DeviceInUse"):
                return False
            raise

    def detach(self, device="vda"):
        self.client.call("device-detach", 20.0, device=device)

    def stream(self, device="vda", seconds=20.0, **more):
        self.client.call("block_stream", seconds, device=device, **more)

    def stream_once_online(self, device="vda", **more):
        """With a --peer-timeout of a second a machine that stands still for as long takes the device away; it comes back by itself."""
        wait_until(lambda: self._try_stream(device, more), f"a job on {device}", 20.0)

    def _try_stream(self, device, more):
        try:
            self.stream(device, **more)
            return True
        except CommandError as error:
            if error.error_class == "DeviceOffline":
                return False
            raise

    def terminal_events(self, job=None):
        """All durable events of the log that end a job."""
        return [event for event in self.client.all_events()
                if event["event"] in ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
                and (job is None or event["data"]["job-id"] == job)]

    def wait_end(self, job="vda", seconds=60.0, before=0):
        """The job's terminal event, the `before`-th skipped; by the log, so it survives a broker's death."""
        def ended():
            try:
                found = self.terminal_events(job)
            except Failed:
                return None
            return found[before] if len(found) > before else None
        return wait_until(ended, f"the end of job {job}", seconds, every=0.02)

    def complete(self, device="vda", seconds=60.0, **more):
        """Streams to the end; returns the event's data of a job that ended well."""
        job = more.get("job_id", device)
        before = len(self.terminal_events(job))
        self.stream(device, **more)
        event = self.wait_end(job, seconds, before)
        check_equal(event["event"], "BLOCK_JOB_COMPLETED", "end")
        check("error" not in event["data"], f"the job failed: {event['data'].get('error')}")
        check_equal(event["data"]["position"], event["data"]["end"], "position at the end")
        check_equal(event["data"]["offset"], event["data"]["len"], "offset at the end")
        return event["data"]

    def job(self, job="vda"):
        """The job in the list, or None."""
        for one in self.client.call("query-block-jobs"):
            if one["job-id"] == job:
                return one
        return None

    def kill_all(self):
        for process in [self.broker, self.imaged, *self.workers]:
            process.kill()

    def stop_all(self):
        for process in [*self.workers, self.imaged, self.broker]:
            if process.is_alive():
                process.stop(15.0)


class Judge:
    """Remembers a chain before a job and judges its leaf after it (oracles O1 to O3 and O5)."""

    def __init__(self, place, leaf, layers=()):
        self.leaf = leaf
        self.reference = place.path / f"{leaf.name}.reference"
        images.flatten(leaf, self.reference)
        self.layers = {layer: images.digest(layer) for layer in layers}

    def judge(self, backing=None, clean=True):
        """`backing`: the name that the header must hold now, None for none."""
        (images.check_clean if clean else images.check_no_error)(self.leaf)
        images.compare(self.leaf, self.reference)
        found = images.info(self.leaf)
        check_equal(found.get("backing-filename"), backing, "backing file in the header")
        for layer, digest in self.layers.items():
            check(images.digest(layer) == digest, f"{layer} was changed")

    def alone(self, place):
        """O1 without the chain: the leaf moved to a folder of its own still reads the same."""
        folder = place.path / f"alone-{time.monotonic_ns()}"
        folder.mkdir()
        moved = self.leaf.rename(folder / self.leaf.name)
        try:
            images.compare(moved, self.reference)
        finally:
            moved.rename(self.leaf)
