"""Pairs of engines with other connectors than the one that all other tests use.

They come first in a run, before that pair starts, and each is stopped after its file: two engines that merely wait
take their part of the CPU, since NIXL's progress threads spin.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from harness import vllm
from harness.engine import Engine
from harness.procs import Fleet
from harness.vllm import Transfer

StartPair = Callable[[Transfer], tuple[Engine, Engine]]


@pytest.fixture(scope="module")
def start_pair(fleet: Fleet) -> Iterator[StartPair]:
    """Starts a pair that ends with the file of the tests that use it."""
    with ExitStack() as ends:

        def start(transfer: Transfer) -> tuple[Engine, Engine]:
            pair = vllm.start_pair(fleet, transfer)
            for engine in pair:
                ends.callback(engine.child.stop)
            for engine in pair:
                ends.callback(engine.child.terminate)
            return pair

        yield start
