"""Two real vLLM engines and the sidecar, started once for all tests.

Every fixture that starts something hands it to one fleet, which ends all of it when the session is over, also when
it is interrupted.
"""

from collections.abc import Iterator

import pytest
from harness import sidecar, vllm
from harness.engine import Engine
from harness.procs import Fleet
from harness.sidecar import Sidecar
from stage import REQUEST_TIMEOUT_S, Stage


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Everything that runs."""
    with Fleet() as everything:
        yield everything


@pytest.fixture(scope="session")
def engines(fleet: Fleet) -> tuple[Engine, Engine]:
    """A prefill and a decode engine, started side by side."""
    return vllm.start_pair(fleet)


@pytest.fixture(scope="session")
def front(fleet: Fleet, engines: tuple[Engine, Engine]) -> Sidecar:
    """The sidecar in front of the decode engine."""
    return sidecar.start(fleet, engines[1], "--request-timeout", f"{REQUEST_TIMEOUT_S}s", name="sidecar-e2e")


@pytest.fixture(scope="session")
def stage(engines: tuple[Engine, Engine], front: Sidecar) -> Stage:
    """The three together, warmed up: a pair's first transfer pays seconds for the engines' handshake."""
    prefill, decode = engines
    made = Stage(prefill, decode, front)
    made.warm_up()
    return made
