"""What the programs have in common that drive other engines: the workers' protocol on standard input and output,
memory, and bytes that say where they belong (the same function of place and seed as on the other side of the bench)."""

import json
import mmap
import os
import select
import sys
import time
from collections import Counter

import numpy as np

U64 = np.uint64
# How many words are made at a time: the temporaries stay in a core's cache.
STEP = 1 << 16


def mix(words):
    """SplitMix64 of each word."""
    with np.errstate(over="ignore"):
        z = words + U64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return z ^ (z >> U64(31))


class Memory:
    """Page-aligned memory of this process, touched."""

    def __init__(self, size):
        self.size = (size + 4095) // 4096 * 4096
        self.map = mmap.mmap(-1, self.size)
        self.bytes = np.frombuffer(self.map, dtype=np.uint8)
        self.address = self.bytes.ctypes.data
        self.fill(0)

    def fill(self, seed):
        """Make each word a function of its place and `seed`."""
        words = self.bytes.view(U64)
        for at in range(0, len(words), STEP):
            part = np.arange(at, min(at + STEP, len(words)), dtype=U64)
            words[at : at + STEP] = mix(part ^ U64(seed))

    def first_wrong(self, at, origin, size, seed):
        """Return the first of `size` bytes at `at` that is not what lay at `origin` of memory filled with `seed`."""
        first, last = origin // 8, (origin + size + 7) // 8
        right = mix(np.arange(first, last, dtype=U64) ^ U64(seed)).view(np.uint8)
        right = right[origin - first * 8 :][:size]
        wrong = np.nonzero(self.bytes[at : at + size] != right)[0]
        return int(at + wrong[0]) if len(wrong) else None


class Latencies:
    """Times from submission to end, rounded to three digits so that few of them differ."""

    def __init__(self):
        self.counts = Counter()

    def add(self, seconds):
        """Count one."""
        nanos = max(1, int(seconds * 1e9))
        scale = 10 ** max(0, len(str(nanos)) - 3)
        self.counts[nanos // scale * scale] += 1

    def pairs(self):
        """Return (nanoseconds, how often), ascending."""
        return sorted(self.counts.items())


class Peer:
    """One end of another engine: a method for each question. Engines add `start`, `register`, `library`, `offer`,
    `connect`, `ready`, `submit` and `is_done`.
    """

    idle = None  # called while nothing is asked, if the engine needs somebody to make progress

    def open(self, ask):
        """Take memory, start the engine, register."""
        begin = time.perf_counter()
        self.memory = Memory(ask["bytes"])
        self.start()
        opened = time.perf_counter() - begin
        begin = time.perf_counter()
        self.register()
        return {"library": self.library(), "open_s": opened, "register_s": time.perf_counter() - begin}

    def fill(self, ask):
        """Fill all memory with what a seed says."""
        self.memory.fill(ask["seed"])

    def cpu(self, _ask):
        """Return user and system time of this process, seconds."""
        return time.process_time()

    def flip(self, ask):
        """Change one byte."""
        self.memory.bytes[ask["at"]] ^= 1

    def pieces(self, ask):
        """Return rows of (local, remote, bytes), shifted."""
        rows = np.fromfile(ask["pieces"], dtype="<u8").reshape(-1, 3)
        rows[:, 0] += U64(ask["shift"]["local"])
        rows[:, 1] += U64(ask["shift"]["remote"])
        return rows

    def verify(self, ask):
        """Compare every byte of the destinations."""
        reads = ask["work"]["op"] == "read"
        done = 0
        for local, remote, size in self.pieces(ask).tolist():
            at, origin = (local, remote) if reads else (remote, local)
            wrong = self.memory.first_wrong(at, origin, size, ask["seed"])
            if wrong is not None:
                return {"bytes": done, "first_wrong": wrong}
            done += size
        return {"bytes": done, "first_wrong": None}

    def prepare(self, ask):
        """Cut the pieces into transfers and let the engine get ready."""
        work, rows = ask["work"], self.pieces(ask)
        batch = work["batch"] or len(rows)
        self.depth = work["depth"]
        self.parts = [rows[at : at + batch] for at in range(0, len(rows), batch)]
        self.sizes = [(int(part[:, 2].sum()), len(part)) for part in self.parts]
        self.ready(work["op"])
        size = sum(size for size, _ in self.sizes)
        return {"blocks": len(rows), "bytes": size, "transfers": len(self.parts)}

    def run(self, ask):
        """Do whole passes until the window has passed, as workers of the bench do."""
        window, depth, count = ask["window_ms"] / 1e3, self.depth, len(self.parts)
        latencies, under_way, submit_s, next_one, moved, blocks, done = Latencies(), [], 0.0, 0, 0, 0, 0
        cpu, begin = time.process_time(), time.perf_counter()
        while True:
            while len(under_way) < depth and (
                next_one == 0 or next_one % count or time.perf_counter() - begin < window
            ):
                before = time.perf_counter()
                handle = self.submit(next_one % count)
                submit_s += time.perf_counter() - before
                under_way.append((handle, next_one % count, before))
                next_one += 1
            if not under_way:
                break
            left = []
            for handle, part, before in under_way:
                if self.is_done(handle):
                    latencies.add(time.perf_counter() - before)
                    moved, blocks, done = moved + self.sizes[part][0], blocks + self.sizes[part][1], done + 1
                else:
                    left.append((handle, part, before))
            under_way = left
        return {
            "seconds": time.perf_counter() - begin,
            "bytes": moved,
            "blocks": blocks,
            "transfers": done,
            "cpu_s": time.process_time() - cpu,
            "submit_s": submit_s,
            "latencies": latencies.pairs(),
        }


def answers(peer):
    """Answer questions until there are no more. What libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    while True:
        while peer.idle and not select.select([0], [], [], 0)[0]:
            peer.idle()
        line = sys.stdin.readline()
        if not line:
            break
        ask = json.loads(line)
        try:
            answer = {"ok": getattr(peer, ask["do"])(ask)}
        except Exception as error:  # whatever an engine raises is for the user to read
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()
    # Engines' destructors are not what is measured, and some of them hang.
    os._exit(0)
