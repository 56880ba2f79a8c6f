"""Settings, from the environment (``TAMIS_…``) or the command line; every one has a default."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.engine.runtime import Provider
from tamis.bundle import default_bundle


class Settings(BaseSettings):
    """What an operator may set. Sizes are in characters, items, bytes or tokens, as named."""

    model_config = SettingsConfigDict(env_prefix="TAMIS_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    bundle: Path = Field(default_factory=default_bundle)
    policies: Path | None = Field(None, description="A folder of *.yaml policies to offer by name.")
    provider: Provider = "cpu"
    threads: int | None = Field(None, ge=1, description="Threads per run; default: the CPU quota.")
    workers: int = Field(1, ge=1, description="Windows scored at the same time.")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1)
    max_items: int = Field(256, ge=1)
    # Some 300 windows, 5 s on two cores; a megabyte took 20 s.
    max_text_characters: int = Field(262_144, ge=1)
    max_queued_tokens: int = Field(400_000, ge=1)
    drain_seconds: int = Field(20, ge=0, description="Time for in-flight requests at shutdown.")
