# SPDX-License-Identifier: Apache-2.0
"""One device with guests on it, and what can happen to it: jobs that start, end, are cancelled; workers that die or fall asleep; an
imaged or a broker that is killed, or stopped for an upgrade.  Actions are methods; a test draws them by name and weight."""

import os
import signal

import images
from harness import check, check_equal, wait_until
from nbd_server import Imaged
from nbd_traffic import Traffic, read_all
from sluice_wire import Client, CommandError

LIBRARY = os.path.join(os.environ.get("SLUICE_BUILD", ""), "tests/kill_after.so")


class Stage:
    """`system` outlives it.  `job` is the job that runs, for all that is known; `jobs` are all that were accepted."""

    def __init__(self, system, chain, number, draw, mix=None):
        self.system, self.chain, self.draw = system, chain, draw
        self.device = f"d{number}"
        self.jobs, self.job = [], None
        self.sleepers = []
        self.done = []
        content = chain.content()
        self.server = Imaged(system, chain.leaf, self.device, copy_on_read=draw.random() < 0.3)
        self.traffic = Traffic(self.server.uri, content, number, cluster=chain.cluster, mix=mix).begin()

    # Jobs.

    def start_job(self):
        if self.job:
            return
        found = self.server.found()["chain"]
        base = self.draw.choice([None, None, *[layer["file"] for layer in found[1:]]])
        arguments = {"job_id": f"{self.device}-{len(self.done)}", "speed": self.draw.choice((0, self.chain.size, self.chain.size // 4))}
        try:
            self.system.stream(self.device, **arguments, **({"base": base} if base else {}))
        except CommandError as error:
            self.must_be_refused(error)
            return
        self.job = arguments["job_id"]
        self.jobs.append(self.job)

    def must_be_refused(self, error):
        """A leaf whose snapshots need the layers, a header that has no room for the name, a device that comes back right now."""
        if error.error_class == "NotSupported" and self.chain.snapshots:
            return
        if error.error_class == "GenericError" and ("room" in error.desc or "header" in error.desc):
            return
        self.must_come_back(error)

    def must_come_back(self, error):
        """The device: its imaged was not heard of because the machine stood still for the time of --peer-timeout.  Whoever says what the
        broker does not believe goes and comes back as well, but is at fault."""
        if error.error_class != "DeviceOffline":
            raise error
        self.wait_online()
        for event in self.system.client.all_events():
            if event["event"] == "DEVICE_OFFLINE" and event["data"]["device"] == self.device:
                reason = event["data"]["reason"]
                check("believed" not in reason and "understood" not in reason, f"{self.device} went offline: {reason}")

    def cancel_job(self):
        if self.job:
            try:
                self.system.client.call("block_job_cancel", 20.0, device=self.job)
            except CommandError as error:
                if error.error_class != "DeviceNotActive":
                    raise
            self.wait_job()

    def finish_job(self):
        """At full speed to its end; all that sleep may be what it waits for."""
        if self.job:
            try:
                self.system.client.call("block_job_set_speed", 20.0, device=self.job, speed=0)
            except CommandError as error:
                if error.error_class != "DeviceNotActive":
                    raise
            self.wait_job()

    def wait_job(self):
        event = self.system.wait_end(self.job, 60.0)
        check("error" not in event["data"], f"{self.job} failed: {event['data'].get('error')}")
        self.job = None

    def look(self):
        """The questions that walk the tables."""
        try:
            self.system.client.call("query-allocation", 20.0, device=self.device)
        except CommandError as error:
            self.must_come_back(error)
        try:
            self.system.client.call("query-stream-plan", 20.0, device=self.device)
        except CommandError as error:
            self.must_be_refused(error)

    # Trouble.

    def kill_worker(self):
        worker = self.draw.choice(self.system.workers)
        worker.kill()
        self.system.workers.remove(worker)
        self.system.start_worker()

    def stop_worker(self):
        """Wherever it is; it misses its leases."""
        worker = self.draw.choice(self.system.workers)
        worker.signal(signal.SIGSTOP)
        self.system.workers.remove(worker)
        self.sleepers.append(worker)
        self.system.start_worker()

    def late_worker(self):
        """One that will stop itself right before a write to the leaf."""
        if os.path.exists(LIBRARY):
            worker = self.system.start_worker(environment={"LD_PRELOAD": LIBRARY, "SLUICE_KILL_UNDER": self.chain.leaf,
                                                           "SLUICE_STOP_BEFORE": self.draw.randrange(1, 6)})
            self.system.workers.remove(worker)
            self.sleepers.append(worker)

    def wake_workers(self):
        """They may not all have fallen asleep; a late one sleeps but once."""
        for worker in self.sleepers:
            worker.signal(signal.SIGCONT)

    def kill_imaged(self):
        self.traffic.interrupted(lambda: (self.server.kill(), self.server.start()))
        self.wait_online()

    def upgrade_imaged(self):
        self.traffic.interrupted(lambda: (self.server.stop(), self.server.start()))
        self.wait_online()

    def wait_online(self):
        wait_until(lambda: self.server.found()["online"], f"{self.device} to be online", 20)

    def kill_broker(self):
        self.system.broker.kill()
        self.system.start_broker()
        self.system.client.close()
        self.system.client = Client(self.system.place)
        wait_until(self.is_known_again, f"the new broker to have {self.device} online", 20)

    def is_known_again(self):
        return any(one["online"] for one in self.system.client.call("query-devices", 20.0) if one["device"] == self.device)

    # The test.

    def act(self, weights):
        name = self.draw.choices(list(weights), list(weights.values()))[0]
        self.done.append(name)
        getattr(self, name)()

    def end(self):
        """All guests leave, the job ends, the file is judged."""
        self.wake_workers()
        self.draw.choice((self.finish_job, self.cancel_job))()
        self.dismiss_sleepers()
        model = self.traffic.stop()
        read_all(self.server.uri, model)
        if self.draw.random() < 0.3:
            self.server.stop()
            self.judge(model, images.check_no_error)
            self.server.start()
            self.wait_online()
        wait_until(lambda: self.system.try_detach(self.device), f"detaching {self.device}", 30)
        self.judge(model, self.check_clean)
        for job in self.jobs:
            check_equal(len(self.system.terminal_events(job)), 1, f"ends of {job} in the log")

    def dismiss_sleepers(self):
        for worker in self.sleepers:
            wait_until(lambda: self.is_awake(worker), "a sleeper to wake", 10)
            worker.stop(20.0)
        self.sleepers.clear()

    def is_awake(self, worker):
        worker.signal(signal.SIGCONT)
        with open(f"/proc/{worker.pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "T"

    def check_clean(self, leaf):
        """Nothing is leaked, at the latest when the leaf was attached once more after a death.  A header of 512 bytes has no room to say
        where something leaked when imaged was killed."""
        images.check_no_error(leaf)
        if self.system.worker_count != len(self.system.workers) or "kill_imaged" in self.done:
            self.system.attach(leaf, device=self.device)
            wait_until(lambda: self.system.try_detach(self.device), f"detaching {self.device}", 30)
        if self.chain.cluster > 512 or "kill_imaged" not in self.done:
            images.check_clean(leaf)

    def judge(self, model, check_leaf):
        check_leaf(self.chain.leaf)
        target = self.chain.folder / "end.raw"
        model.check_file(images.flatten(self.chain.leaf, target))
        target.unlink()
        self.chain.check_untouched()
