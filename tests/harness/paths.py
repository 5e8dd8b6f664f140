"""Where things are in the working tree. One place, so that a moved folder is one edit."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TARGET = REPO / "target"
LOGS = TARGET / "logs"
TINY_MODEL = TARGET / "tiny-model"
VENV_PYTHON = REPO / ".venv" / "bin" / "python"
SIDECAR = TARGET / "release" / "kvferry-sidecar"
EMULATOR = TARGET / "release" / "kvferry-emulator"
