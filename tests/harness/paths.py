"""Where things are in the working tree. One place, so that a moved folder is one edit."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TARGET = REPO / "target"
LOGS = TARGET / "logs"
TINY_MODEL = TARGET / "tiny-model"
VENV_PYTHON = REPO / ".venv" / "bin" / "python"
# `make test` says `debug`, since cargo has just built those and nothing there is about speed.
BINARIES = TARGET / os.environ.get("KVFERRY_PROFILE", "release")
SIDECAR = BINARIES / "kvferry-sidecar"
EMULATOR = BINARIES / "kvferry-emulator"
