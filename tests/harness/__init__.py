"""Starts, watches and stops what the demo and the end-to-end tests run: engines, emulators and the sidecar.

Standard library only, so that `make demo` on emulators needs no virtual environment. The one exception is
`tiny_model`, which the harness runs as a program of its own with the interpreter of `.venv`.
"""
