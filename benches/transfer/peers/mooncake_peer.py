"""Mooncake's transfer engine over TCP, without a metadata server, in batches of all blocks of a transfer."""

import os
from importlib.metadata import version

import numpy as np
from common import Peer, answers
from mooncake.engine import TransferEngine


class MooncakePeer(Peer):
    """One transfer engine."""

    def start(self):
        """Make the engine."""
        self.engine = TransferEngine()
        if self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") != 0:
            raise RuntimeError("Mooncake's engine does not start")

    def register(self):
        """Make the memory known."""
        if self.engine.register_memory(self.memory.address, self.memory.size) != 0:
            raise RuntimeError("Mooncake refuses the memory")

    def library(self):
        """Return what was loaded, and its settings."""
        lanes = os.environ.get("MC_TCP_LANES_PER_PEER", "its own")
        slices = os.environ.get("MC_TCP_SLICE_SIZE", "its own")
        package = version("mooncake-transfer-engine-non-cuda")
        return f"Mooncake {package} through Python, lanes {lanes}, slices {slices}"

    def offer(self, _ask):
        """Return what the other engine needs."""
        return {"name": f"127.0.0.1:{self.engine.get_rpc_port()}", "address": self.memory.address}

    def connect(self, ask):
        """Remember the other engine, which is met at the first transfer."""
        if len(ask["offers"]) != 1:
            raise ValueError("one peer at a time")
        self.target = ask["offers"][0]["name"]
        self.remote_address = ask["offers"][0]["address"]
        return {"lanes": ["tcp"], "seconds": 0.0}

    def ready(self, op):
        """Make the lists of each batch."""
        self.start_batch = getattr(self.engine, f"batch_transfer_async_{op}")
        self.batches = []
        for part in self.parts:
            rows = part.astype(np.int64)
            local, remote = rows[:, 0] + self.memory.address, rows[:, 1] + self.remote_address
            self.batches.append((local.tolist(), remote.tolist(), rows[:, 2].tolist()))

    def submit(self, part):
        """Begin a batch."""
        batch = self.start_batch(self.target, *self.batches[part])
        if batch == 0:
            raise RuntimeError("Mooncake refuses the batch")
        return batch

    def is_done(self, batch):
        """Wait for a batch, which is the only way there is."""
        if self.engine.get_batch_transfer_status([batch]) != 0:
            raise RuntimeError("the batch has failed")
        return True


answers(MooncakePeer())
