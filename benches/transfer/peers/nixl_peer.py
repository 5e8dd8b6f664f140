"""NIXL's Python agent as vLLM's connector uses it: lists of descriptors prepared once, transfers made of indices."""

import os
import sys
import time
import uuid
from importlib.metadata import version

import numpy as np
from common import Peer, answers
from nixl._api import nixl_agent, nixl_agent_config


class NixlPeer(Peer):
    """One NIXL agent."""

    def start(self):
        """Make the agent, with a progress thread or with this one spinning instead."""
        self.threaded = sys.argv[1] == "thread"
        threads = int(sys.argv[2])
        # The plugin is UCX by default. vLLM asks for threads of the plugin's own and for telemetry.
        config = nixl_agent_config(enable_prog_thread=self.threaded, num_threads=threads, capture_telemetry=threads > 0)
        if not self.threaded:
            self.idle = self.progress
        self.name = f"bench-{uuid.uuid4()}"
        self.agent = nixl_agent(self.name, config)

    def progress(self):
        """Let the agent look after what its peer does here."""
        self.agent.get_new_notifs()

    def register(self):
        """Make the memory known."""
        self.registered = self.agent.register_memory([(self.memory.address, self.memory.size, 0, "")], "DRAM")

    def library(self):
        """Return what was loaded."""
        return f"NIXL {version('nixl')} through Python"

    def offer(self, _ask):
        """Return what the other agent needs."""
        metadata = self.agent.get_agent_metadata().hex()
        return {"metadata": metadata, "address": self.memory.address, "bytes": self.memory.size}

    def connect(self, ask):
        """Meet the other agent."""
        if len(ask["offers"]) != 1:
            raise ValueError("one peer at a time")
        begin, offer = time.perf_counter(), ask["offers"][0]
        self.remote = self.agent.add_remote_agent(bytes.fromhex(offer["metadata"]))
        self.agent.make_connection(self.remote)
        self.remote_address = offer["address"]
        return {"lanes": [os.environ.get("UCX_TLS", "as UCX chooses")], "seconds": time.perf_counter() - begin}

    def ready(self, op):
        """Prepare both lists of descriptors, and the indices of each transfer."""
        self.op = op.upper()
        rows = np.concatenate(self.parts).astype(np.int64)
        zeros = np.zeros(len(rows), dtype=np.int64)

        def descriptors(base, column):
            return self.agent.get_xfer_descs(np.column_stack([rows[:, column] + base, rows[:, 2], zeros]), "DRAM")

        self.local = self.agent.prep_xfer_dlist("NIXL_INIT_AGENT", descriptors(self.memory.address, 0))
        self.distant = self.agent.prep_xfer_dlist(self.remote, descriptors(self.remote_address, 1))
        at, self.indices = 0, []
        for part in self.parts:
            self.indices.append(np.arange(at, at + len(part), dtype=np.int32))
            at += len(part)

    def submit(self, part):
        """Make a transfer and post it."""
        indices = self.indices[part]
        handle = self.agent.make_prepped_xfer(self.op, self.local, indices, self.distant, indices)
        if self.agent.transfer(handle) == "ERR":
            raise RuntimeError("NIXL refuses the transfer")
        return handle

    def is_done(self, handle):
        """Return whether a transfer is done; if so, it is released."""
        state = self.agent.check_xfer_state(handle)
        if state == "ERR":
            raise RuntimeError("the transfer has failed")
        if state != "DONE":
            return False
        self.agent.release_xfer_handle(handle)
        return True


answers(NixlPeer())
