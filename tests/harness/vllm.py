"""Starts real vLLM engines on the CPU, a prefill and a decode engine that hand over KV through NIXL on loopback."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.engine import MODEL, Engine
from harness.paths import LOGS, REPO, TINY_MODEL, VENV_PYTHON
from harness.ports import HOST, free_ports
from harness.procs import Failed, Fleet
from harness.tiny_model import DTYPE, KV_BYTES_PER_TOKEN, is_made

# Two engines that start together on two cores take 40 to 90 s; a CI machine that compiles beside them more.
READY_S = 400.0
BLOCK_SIZE = 32  # the smallest that the CPU's attention kernels take
MAX_MODEL_LEN = 2048
# How long a prefill engine keeps KV that nobody fetched. vLLM's default, spelled out because tests rely on being
# much faster than it.
LEASE_S = 30

ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


@dataclass(frozen=True)
class Transfer:
    """How a pair of engines hands over KV: the connector, and what is set for it on both sides.

    `module`: the one below `tests` that the connector's class is in; "" for those that vLLM brings.
    """

    name: str
    connector: str
    extra: dict = field(default_factory=dict)
    module: str = ""
    env: dict[str, str] = field(default_factory=dict)


PULL = Transfer("pull", "NixlConnector", {"kv_lease_duration": LEASE_S})


@dataclass
class Plan:
    """Where one engine will listen: enough to start it, and to start it again at the same place."""

    role: str
    port: int
    side_channel_port: int
    transfer: Transfer = PULL

    @property
    def name(self) -> str:
        """What to call it in messages, and its log."""
        return f"{self.role} engine" if self.transfer is PULL else f"{self.role} engine ({self.transfer.name})"

    @property
    def log(self) -> Path:
        """Where it logs."""
        kind = "" if self.transfer is PULL else f"-{self.transfer.name}"
        return LOGS / f"vllm-{self.role}{kind}.log"

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{HOST}:{self.port}"


@dataclass
class VllmEngine(Engine):
    """A running vLLM engine, and what it takes to start another in its place."""

    plan: Plan


def plan_pair(transfer: Transfer = PULL) -> tuple[Plan, Plan]:
    """Ports for a prefill and a decode engine."""
    ports = free_ports(4)
    return Plan("prefill", *ports[:2], transfer), Plan("decode", *ports[2:], transfer)


def ensure_model() -> None:
    """Makes the tiny model unless it is there."""
    if is_made(TINY_MODEL):
        return
    maker = REPO / "tests" / "harness" / "tiny_model.py"
    made = subprocess.run([VENV_PYTHON, maker, TINY_MODEL], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise Failed(f"the tiny model could not be made:\n{made.stderr}")


def launch(fleet: Fleet, plan: Plan) -> VllmEngine:
    """Starts an engine without waiting for it, so that two can start side by side."""
    vllm = VENV_PYTHON.with_name("vllm")
    if not vllm.exists():
        raise Failed(f"{vllm} is missing; run: make setup")
    transfer = {
        "kv_connector": plan.transfer.connector,
        "kv_role": ROLES[plan.role],
        "kv_buffer_device": "cpu",
        "kv_connector_extra_config": plan.transfer.extra,
    }
    if plan.transfer.module:
        transfer["kv_connector_module_path"] = plan.transfer.module
    command = [str(vllm), "serve", str(TINY_MODEL), "--served-model-name", MODEL]
    command += ["--host", HOST, "--port", str(plan.port), "--enforce-eager", "--dtype", DTYPE]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--block-size", str(BLOCK_SIZE)]
    # With VLLM_ENABLE_V1_MULTIPROCESSING=0 below: the only worker lives in the engine's core. One process less to
    # start, which is mostly the import of a very large program, and so a third of the time.
    command += ["--distributed-executor-backend", "uni"]
    # Without this one, /inference/v1/generate answers 404.
    command += ["--enable-scale-out"]
    # Usage then says how much of a prompt was cached, which is one of the few things that the sidecar edits.
    command += ["--enable-prompt-tokens-details"]
    # The parser that needs no special tokens. A prefill engine without one refuses requests with tools.
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "pythonic"]
    command += ["--kv-transfer-config", json.dumps(transfer)]
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        # Some sampler code compiles itself on first use, which takes half a minute and the headers of Python.
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": HOST,
        "VLLM_NIXL_SIDE_CHANNEL_HOST": HOST,
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(plan.side_channel_port),
        # For /reset_prefix_cache: an engine that has seen a prompt would answer it again from its own cache.
        "VLLM_SERVER_DEV_MODE": "1",
    }
    if plan.transfer.module:
        env["PYTHONPATH"] = os.pathsep.join([str(REPO / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = fleet.start(plan.name, command, plan.log, env | plan.transfer.env)
    return VllmEngine(child.name, plan.url, child, BLOCK_SIZE, KV_BYTES_PER_TOKEN, plan)


def start_pair(fleet: Fleet, transfer: Transfer = PULL) -> tuple[VllmEngine, VllmEngine]:
    """Starts a prefill and a decode engine side by side, and waits until both serve."""
    ensure_model()
    prefill, decode = (launch(fleet, plan) for plan in plan_pair(transfer))
    for engine in (prefill, decode):
        wait_ready(engine)
    return prefill, decode


def wait_ready(engine: Engine, on_wait: Callable[[Engine], None] = lambda _: None) -> None:
    """Waits until the engine serves; calls `on_wait` again and again meanwhile."""

    def ready() -> bool:
        on_wait(engine)
        return engine.is_healthy()

    engine.child.wait_until(ready, READY_S, "serve")
