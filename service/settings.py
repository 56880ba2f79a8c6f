"""Settings, from the environment (``TAMIS_…``) or the command line; every one has a default."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.engine.runtime import Provider
from tamis.bundle import default_bundle
from tamis.corrections.store import default_location
from tamis.policy import Mode
from tamis.reasoner.bundle import default_reasoner
from tamis.rules import ACCURATE as RULES
from tamis.rules import default_policy_encoder
from tamis.tiers import ACCURATE, DEFAULT, MULTILINGUAL, NONE, Tier

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
PREFIX: Final = "TAMIS_"


class Settings(BaseSettings):
    """What an operator may set. Sizes are in characters, items, bytes or tokens, as named."""

    # Some are secret, and a fault of several would repeat all of them.
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", min_length=1)  # an empty one would be every address
    port: int = Field(8000, ge=0, le=65535)
    bundle: Path = Field(default_factory=default_bundle)
    tier: Tier = Field(DEFAULT, description="Who judges: 'fast', 'accurate', or both: 'cascade'.")
    accurate: Path | None = Field(
        default_factory=lambda: ACCURATE.folder,
        description="Folder of the accurate tier's bundle; empty: none.",
    )
    multilingual: Path | None = Field(
        default_factory=lambda: MULTILINGUAL.folder,
        description="Folder of the bundle that judges other languages than English; 'off': none.",
    )
    policies: Path | None = Field(None, description="A folder of *.yaml policies to offer by name.")
    mode: Mode = Field("enforce", description="'score': every policy scores alone.")
    keys: Path | None = Field(None, description="A file of API keys; none: everybody may ask.")
    reload_seconds: float = Field(
        2.0, ge=0, description="Time between two looks whether policies or keys changed; 0: none."
    )
    admin_port: int | None = Field(
        None, ge=1, le=65535, description="A port of its own for metrics and administration."
    )
    cors_origins: str = Field("", description="Origins of web pages that may ask, by comma.")
    playground: bool = Field(True, description="Serve the page at / to try it in a browser.")
    provider: Provider = "cpu"
    threads: int | None = Field(
        None, ge=1, description="Cores to compute on; default: affinity and CPU quota."
    )
    runs: int | None = Field(
        None,
        ge=1,
        description="Runs at the same time in one process; default: one per thread, 2 on a GPU.",
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Processes to judge in; 0: the server's own; 'auto': by cores and memory.",
    )
    pin: bool | None = Field(
        None, description="Whether a worker stays on a core; default: where cores were given."
    )
    processes: int = Field(1, ge=1, description="Server processes, each with its own engine.")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1)
    body_seconds: float = Field(30.0, gt=0, description="Time for a body to come.")
    bodies_bytes: int = Field(
        128 * 1024 * 1024, ge=1, description="Memory of the bodies of requests under way."
    )
    max_items: int = Field(256, ge=1)
    # Sixteen of each item. Of 430,000, which fit into a body, the event loop had 9 s to do.
    max_contents: int = Field(4_096, ge=1, description="Texts to judge in one request.")
    # Some 300 windows, 5 s on two cores; a megabyte took 20 s.
    max_text_characters: int = Field(262_144, ge=1)
    max_queued_tokens: int = Field(400_000, ge=1)
    max_wait_ms: int = Field(
        1_000, ge=1, description="Longest wait in the queue of a request without a deadline."
    )
    hook_overload_status: int = Field(
        503,
        ge=429,
        le=599,
        description="What gateways' hooks are answered where there is no room.",
    )
    partial_bodies: Literal["refuse", "judge"] = Field(
        "refuse", description="What becomes of requests of which Envoy sends the beginning alone."
    )
    cache_bytes: int = Field(
        32 * 1024 * 1024, ge=0, description="Memory of findings, for texts seen before; 0: none."
    )
    streams: int = Field(4_096, ge=1, description="Streams to remember, and to have open.")
    stream_bytes: int = Field(
        64 * 1024 * 1024, ge=1, description="Memory of streams; the least recently used go first."
    )
    stream_seconds: float = Field(
        60.0, gt=0, description="Time after which a stream that nobody goes on with is forgotten."
    )
    stream_stride: int = Field(
        96, ge=1, description="Characters that a stream must have grown by to be judged again."
    )
    blocklists: Path | None = Field(
        None, description="A folder to keep Azure's blocklists in; none: there are none."
    )
    feedback: str = Field(
        default_factory=default_location,
        repr=False,  # a URL may hold a password
        description="Where corrections are kept: a path or a postgresql:// URL; empty: nowhere.",
    )
    linger_seconds: float = Field(
        5.0, ge=0, description="Time to answer on, not ready, after SIGTERM; 0: none."
    )
    log_format: Format | None = Field(
        None, description="'text' or 'json'; default: text on a terminal, else json."
    )
    log_level: Level = "info"
    audit: str | None = Field(
        None,
        repr=False,  # a URL may hold a password
        description="The audit log: a file to be, or a postgresql:// URL.",
    )
    audit_secret: SecretStr | None = Field(
        None, description="Under which texts are hashed in logs and audit log."
    )
    audit_max_bytes: int = Field(100 * 1024 * 1024, ge=1, description="Size to rotate a file at.")
    audit_keep: int = Field(10, ge=0, description="Rotated files to keep.")
    reasoner: Path | None = Field(
        default_factory=default_reasoner,
        description="Folder of the reasoner's bundle, new ones are loaded; empty: none.",
    )
    reasoner_threads: int | None = Field(
        None, ge=1, description="Cores to reason on, at low priority; default: all."
    )
    reasoner_max_tokens: int = Field(64, ge=1, le=512, description="Longest reason.")
    reasoner_max_items: int = Field(4, ge=1, description="Items explained in one request.")
    reasoner_max_waiting: int = Field(
        8, ge=0, description="Explain requests that may wait for another."
    )
    reasoner_seconds: float = Field(
        5.0, gt=0, description="Longest time of an explanation, its wait included."
    )
    reasoner_cache_bytes: int = Field(
        96 * 1024 * 1024, ge=0, description="Memory of policies read before; 0: none."
    )
    policy_encoder: Path | None = Field(
        default_factory=default_policy_encoder,
        description="Folder of the bundle that judges policies' own categories; empty: none.",
    )
    policy_encoder_accurate: Path | None = Field(
        default_factory=lambda: RULES.folder,
        description="Folder of the bundle that judges in its place once it is there; empty: none. "
        "Without a default where another place of the policy encoder is given.",
    )
    rules_max_characters: int = Field(
        # A quarter of what a body of texts alone may hold.
        1_048_576,
        ge=1,
        description="Most to read in one request of rules with texts, each beside each.",
    )
    rules_cache_bytes: int = Field(
        16 * 1024 * 1024, ge=0, description="Memory of rules beside texts seen before; 0: none."
    )
    rules_states_bytes: int = Field(
        # A rule of 30 tokens has 50 KB in a body of 110M parameters.
        32 * 1024 * 1024,
        ge=0,
        description="Memory of rules that were read alone, for encoders that do; 0: none.",
    )
    drain_seconds: int = Field(20, ge=0, description="Time for in-flight requests at shutdown.")

    @field_validator(
        "reasoner",
        "accurate",
        "multilingual",
        "policy_encoder",
        "policy_encoder_accurate",
        "blocklists",
        "policies",
        "keys",
        "audit",
        mode="before",
    )
    @classmethod
    def _none(cls, given: object) -> object:
        """An empty variable means none, not the current folder."""
        return None if given in NONE else given

    @field_validator("feedback", mode="before")
    @classmethod
    def _no_store(cls, given: object) -> object:
        return "" if given in NONE else given

    @model_validator(mode="after")
    def _who_judges_rules_is_chosen(self) -> Self:
        given = self.model_fields_set
        if self.policy_encoder is None or (
            "policy_encoder" in given and "policy_encoder_accurate" not in given
        ):
            self.policy_encoder_accurate = None
        return self

    @model_validator(mode="after")
    def _administration_has_a_port_of_its_own(self) -> Self:
        if self.admin_port is not None and self.admin_port == self.port:
            raise ValueError("admin_port: must be another one than port")
        return self

    @model_validator(mode="after")
    def _workers_are_on_the_cpu(self) -> Self:
        if self.provider != "cpu" and self.workers not in (0, "auto"):
            raise ValueError(f"workers: {self.workers} of them cannot share a GPU; leave it at 0")
        return self

    @model_validator(mode="after")
    def _tier_has_its_bundle(self) -> Self:
        if self.tier != "fast" and self.accurate is None:
            raise ValueError(
                f"tier: {self.tier} needs the accurate bundle, and TAMIS_ACCURATE is empty"
            )
        return self
