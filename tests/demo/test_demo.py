"""`make demo` on emulators shows what it promises, and an interrupt at any moment leaves nothing running."""

import os
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

DEMO = [sys.executable, str(Path(__file__).with_name("demo.py"))]
BAR = "[█▉▊▋▌▍▎▏]+"
TIME = r"[\d.]+ m?s"
# The whole demo takes about five seconds; the interrupts fall before, between and after its parts.
INTERRUPTS_S = (0.05, 0.15, 0.3, 0.6, 1.0, 1.5, 2.2, 3.0)


def descendants(pid: int) -> set[int]:
    """The processes below one, as /proc tells."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
        except (OSError, ValueError):
            continue
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


class Demo(unittest.TestCase):
    def test_it_shows_the_answer_the_timeline_and_that_both_answers_agree(self):
        env = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}
        done = subprocess.run(DEMO, capture_output=True, text=True, env=env, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        for row in (
            rf"^prefill +{BAR} +{TIME}, [\d,]+ tokens$",
            rf"^KV moved +{BAR} +{TIME}, [\d.]+ MB, [\d.]+ GB/s$",
            rf"^handover +{BAR} +{TIME} to the first token$",
            rf"^decode +{BAR} +48 tokens, {TIME} each$",
            rf"^total +{BAR} +{TIME}, first token after {TIME}$",
            r"^same answer both ways: 48 of 48 token ids are equal$",
        ):
            self.assertRegex(done.stdout, re.compile(row, re.MULTILINE))
        self.assertNotIn("\033", done.stdout, "colour in a pipe")

    def test_a_terminal_without_unicode_gets_plain_bars(self):
        env = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run(DEMO, capture_output=True, env=env, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout.decode("ascii"), re.compile(r"^prefill +#+", re.MULTILINE))

    def test_ctrl_c_at_any_moment_leaves_nothing_running(self):
        for moment in INTERRUPTS_S:
            with self.subTest(seconds=moment):
                demo = subprocess.Popen(DEMO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                seen: set[int] = set()
                end = time.monotonic() + moment
                while time.monotonic() < end:
                    seen |= descendants(demo.pid)
                    time.sleep(0.01)
                seen |= descendants(demo.pid)
                demo.send_signal(signal.SIGINT)
                _, errors = demo.communicate(timeout=30)
                left = [pid for pid in seen if Path(f"/proc/{pid}").exists()]
                self.assertEqual(left, [])
                # Earlier than its first child, the interrupt may meet the interpreter's own start instead of the demo.
                if seen:
                    self.assertIn(demo.returncode, (130, 0), errors.decode())
