"""No child outlives its fleet, whichever way the fleet ends, and a failure to start says why."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path

from harness.paths import REPO
from harness.procs import Child, Failed, Fleet

# A child with a child of its own, as an engine has; both print their pids and then stay.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(condition, seconds: float = 10.0) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


class EndsWhatItStarted(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = Path(folder.name) / "child.log"

    def family(self, fleet: Fleet) -> tuple[Child, list[int]]:
        child = fleet.start("family", [sys.executable, "-c", FAMILY], self.log)
        child.wait_until(lambda: len(child.log_text().split()) == 2, 10)
        return child, [int(pid) for pid in child.log_text().split()]

    def test_leaving_the_block_ends_children_and_their_children(self):
        with Fleet() as fleet:
            _, pids = self.family(fleet)
            self.assertTrue(all(alive(pid) for pid in pids))
        self.assertFalse(any(alive(pid) for pid in pids))

    def test_an_exception_ends_them_too(self):
        with self.assertRaises(ZeroDivisionError), Fleet() as fleet:
            _, pids = self.family(fleet)
            _ = 1 / 0
        self.assertFalse(any(alive(pid) for pid in pids))

    def test_kill_takes_the_whole_group_at_once(self):
        with Fleet() as fleet:
            child, pids = self.family(fleet)
            child.kill()
            self.assertFalse(any(alive(pid) for pid in pids))
            self.assertEqual(child.exit_code(), -signal.SIGKILL)

    def test_a_child_deaf_to_sigterm_is_killed_after_its_grace(self):
        child = Child("deaf", [sys.executable, "-c", STUBBORN], self.log)
        child.wait_until(lambda: "deaf" in child.log_text(), 10)
        child.stop(grace_s=0.2)
        self.assertEqual(child.exit_code(), -signal.SIGKILL)

    def test_every_way_to_end_the_driver_ends_its_children(self):
        driver = f"""
            import sys, time
            sys.path.insert(0, {str(REPO / "tests")!r})
            from pathlib import Path
            from harness.procs import Fleet
            with Fleet() as fleet:
                fleet.start("family", [sys.executable, "-c", {FAMILY!r}], Path({str(self.log)!r}))
                time.sleep(600)
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            with self.subTest(signal=number.name):
                self.log.write_text("")
                started = subprocess.Popen([sys.executable, "-c", textwrap.dedent(driver)], stderr=subprocess.DEVNULL)
                self.assertTrue(wait_for(lambda: len(self.log.read_text().split()) == 2))
                leader, worker = (int(pid) for pid in self.log.read_text().split())
                started.send_signal(number)
                started.wait(10)
                if number == signal.SIGKILL:
                    # Then only the kernel can tell the leader; its own children are the leader's to end, as an
                    # engine's are. This one does not, so the test does.
                    self.assertTrue(wait_for(lambda pid=leader: not alive(pid)))
                    os.kill(worker, signal.SIGKILL)
                else:
                    self.assertFalse(alive(leader) or alive(worker))


class SaysWhyItFailed(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = Path(folder.name) / "child.log"

    def test_a_child_that_ends_early_shows_its_exit_code_and_the_end_of_its_log(self):
        with Fleet() as fleet:
            child = fleet.start("engine", [sys.executable, "-c", "print('no such model'); exit(3)"], self.log)
            with self.assertRaisesRegex(Failed, r"(?s)engine ended with exit code 3 .*no such model"):
                child.wait_until(lambda: False, 10)

    def test_a_child_that_is_not_ready_in_time_shows_the_end_of_its_log(self):
        with Fleet() as fleet:
            code = "import time; print('loading', flush=True); time.sleep(600)"
            child = fleet.start("engine", [sys.executable, "-c", code], self.log)
            with self.assertRaisesRegex(Failed, r"(?s)engine did not become ready within 1 s.*loading"):
                child.wait_until(lambda: False, 1)

    def test_a_missing_program_is_named(self):
        with Fleet() as fleet, self.assertRaisesRegex(Failed, "engine cannot be started: /no/such/program"):
            fleet.start("engine", ["/no/such/program"], self.log)
