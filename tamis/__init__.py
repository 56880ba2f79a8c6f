"""Tamis: low-latency moderation of LLM traffic, on hardware you own."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tamis")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"
