"""`kvferry-sidecar doctor` asks the real UCX and NIXL, each in a process of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness.paths import LOGS, REPO, SIDECAR
from harness.ports import HOST, free_ports
from harness.procs import Fleet

VENV = REPO / ".venv"
# NIXL starts each of its plugins.
PATIENCE_S = 120


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it as a user would who has activated the project's environment."""
    return subprocess.run(
        [str(SIDECAR), "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "VIRTUAL_ENV": str(VENV), **environment},
    )


@pytest.fixture(scope="module")
def report() -> dict:
    """All that it found."""
    answer = doctor("--json")
    assert answer.returncode in (0, 1), answer.stderr
    return json.loads(answer.stdout)


def codes(report: dict) -> dict[str, dict]:
    """Findings by their code."""
    return {finding["code"]: finding for finding in report["findings"]}


def test_the_file_and_version_of_ucx_and_what_it_can_use_are_shown(report: dict) -> None:
    ucx = report["facts"]["ucx"]
    assert ucx["outcome"] == "found", ucx
    assert Path(ucx["file"]).is_file()
    assert ucx["version"].startswith("1.")
    assert any(resource.startswith("tcp/") for resource in ucx["resources"])


def test_nixls_plugins_are_told_apart_by_whether_they_work(report: dict) -> None:
    nixl = report["facts"]["nixl"]
    assert nixl["outcome"] == "found", nixl
    plugins = {plugin["name"]: plugin["unusable"] for plugin in nixl["plugins"]}
    assert plugins["UCX"] is None
    assert plugins["POSIX"] is None
    assert any(plugins.values()), f"all are usable, also those that need hardware or services: {plugins}"


def test_without_a_card_the_verdict_says_what_is_used_instead(report: dict) -> None:
    if report["facts"]["hcas"]:
        pytest.skip("this machine has RDMA devices")
    assert codes(report)["rdma_no_card"]["level"] == "note"
    assert report["verdict"]["rdma"] == []
    assert "TCP" in report["verdict"]["sentence"]


def test_rdma_that_is_wanted_and_not_there_is_a_failure_with_something_to_do() -> None:
    answer = doctor("--want", "rdma", "--json")
    report = json.loads(answer.stdout)
    if report["verdict"]["rdma"]:
        pytest.skip("this machine has RDMA")
    assert answer.returncode == 3
    assert report["findings"][0]["level"] == "fail"
    assert report["findings"][0]["fix"]


def test_a_library_that_is_not_there_says_what_was_tried_and_how_to_install_it() -> None:
    answer = doctor("--json", "--ucx-library", "/nowhere/libucp.so.0")
    finding = codes(json.loads(answer.stdout))["ucx_missing"]
    assert "/nowhere/libucp.so.0" in finding["fix"]
    assert "install" in finding["fix"]


def test_people_get_the_worst_first_and_the_verdict_last() -> None:
    answer = doctor("--want", "rdma")
    lines = answer.stdout.splitlines()
    assert lines[0][:4] in ("FAIL", "good")
    assert lines[-1].startswith("RDMA ")


def test_an_unknown_flag_is_a_wrong_command_line() -> None:
    answer = doctor("--no-such-flag")
    assert answer.returncode == 2
    assert "--no-such-flag" in answer.stderr


def test_a_transfer_to_a_peer_tells_the_lane_and_every_other_one(fleet: Fleet) -> None:
    address = f"{HOST}:{free_ports(1)[0]}"
    command = [str(SIDECAR), "doctor", "--listen", address]
    listener = fleet.start("doctor", command, LOGS / "doctor.log", {"VIRTUAL_ENV": str(VENV)})
    listener.wait_until(lambda: "listening" in listener.log_text(), PATIENCE_S, "listen")
    answer = doctor("--json", "--peer", address)
    assert answer.returncode in (0, 1), answer.stderr
    measured = json.loads(answer.stdout)["measured"]
    assert measured["chosen"]["fabric"] == "shm"
    assert {figures["fabric"] for figures in measured["each"]} >= {"shm", "tcp"}
    assert all(figures["read"] > 0 and figures["write"] > 0 for figures in measured["each"])
