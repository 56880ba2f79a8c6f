"""One bulk job: what to judge, under what, and where to write it."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from service.bulk import tables
from service.bulk.judge import Judge
from service.bulk.results import Counts, line
from service.bulk.rows import Columns, Row
from service.bulk.sources import PARQUET, Source
from service.engine.cascade import Cascade
from service.engine.classifier import Classifier, load_classifier
from service.engine.languages import Languages
from service.engine.ruled import WithRules
from service.engine.runtime import CpuRuntime, available_threads
from service.engine.split import KEPT_BYTES, encoder_of
from tamis import __version__, rules
from tamis import bundle as bundles
from tamis.bundle import Bundle
from tamis.content import Side
from tamis.policy import Policy
from tamis.rules import PolicyEncoder, default_policy_encoder, policy_encoder_there
from tamis.tiers import ACCURATE, Bands, Tier, load_bands
from tamis.verdict import Verdict

OnError = Literal["record", "skip", "fail"]
STANDARD: Final = "-"
FAULTY_ROWS: Final = 2


class JobError(RuntimeError):
    """A job that cannot be run as asked; says which option or row is at fault."""


@dataclass(frozen=True)
class Job:
    """What was asked for. ``input`` and ``output`` are paths, or ``-``."""

    input: str
    output: str
    policy: Policy
    bundle_path: Path | None = None
    """None is the shipped one."""
    tier: Tier = "fast"
    accurate_path: Path | None = None
    """None is where the accurate tier's bundle is looked for."""
    multilingual_path: Path | None = None
    """None is none: other languages are judged as English is."""
    encoder_path: Path | None = None
    """None is where the policy encoder is looked for; asked for categories of the policy's own."""
    columns: Columns = field(default_factory=Columns)
    only: tuple[Side, ...] | None = None
    """The sides of an exchange to judge; None leaves it to the policy."""
    evidence: bool = False
    threads: int | None = None
    limit: int | None = None
    on_error: OnError = "record"
    max_characters: int = 262_144
    cache_bytes: int = 32 << 20
    overwrite: bool = False
    quiet: bool = False

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle that is asked first, verified.

        Raises:
            BundleError: where it cannot be used.
        """
        if self.tier == "accurate":
            return bundles.load(self.accurate_path or ACCURATE.folder)
        return bundles.load(self.bundle_path or bundles.default_bundle())

    @cached_property
    def second(self) -> Bundle | None:
        """The cascade's other bundle, verified; of other tiers None.

        Raises:
            BundleError: where it cannot be used.
        """
        if self.tier != "cascade":
            return None
        return bundles.load(self.accurate_path or ACCURATE.folder)

    @cached_property
    def bands(self) -> Bands | None:
        """When the cascade asks that one; of other tiers None.

        Raises:
            BundleError: where they cannot be used.
        """
        return None if self.second is None else load_bands(self.second.path)

    @cached_property
    def multilingual(self) -> Bundle | None:
        """The bundle for other languages, verified; None where there is none.

        Raises:
            BundleError: where it cannot be used.
        """
        return None if self.multilingual_path is None else bundles.load(self.multilingual_path)

    @cached_property
    def encoder(self) -> PolicyEncoder | None:
        """Who judges the policy's own categories, verified; None where it has none.

        Raises:
            BundleError: where it cannot be used.
        """
        if not self.policy.own:
            return None
        return rules.load(self.encoder_path or policy_encoder_there() or default_policy_encoder())

    @property
    def others(self) -> dict[str, Bundle]:
        """The bundles that may be asked beside the first, by what they are asked for."""
        both = {"second": self.second, "multilingual": self.multilingual}
        return {name: bundle for name, bundle in both.items() if bundle is not None}

    @cached_property
    def format(self) -> str:
        """Suffix of the output.

        Raises:
            ValueError: where it is none of ours.
        """
        return tables.suffix_of(Path(self.output))

    @property
    def sides(self) -> tuple[Side, ...] | None:
        """The sides of rows that are judged; None where all are."""
        return self.policy.judge if self.only is None else self.only

    @property
    def pins(self) -> dict[str, Any]:
        """Everything but the input that the output depends on."""
        columns = asdict(self.columns)
        keep = list(columns.pop("keep"))
        others = {name: f"{b.name}@{b.fingerprint}" for name, b in self.others.items()}
        if (bands := self.bands) is not None:
            # They lie beside the bundle, whose fingerprint says nothing of them.
            others["bands"] = bands.version
        if (encoder := self.encoder) is not None:
            others["policy_encoder"] = f"{encoder.name}@{encoder.fingerprint}"
        return {
            "tamis": __version__,
            "model": f"{self.bundle.name}@{self.bundle.fingerprint}",
            **others,
            "policy": f"{self.policy.name}@{self.policy.version}",
            **{f"{name}_field": column for name, column in columns.items()},
            "keep": keep,
            # As it comes back from JSON, or the job would not know itself again.
            "judge": None if self.sides is None else list(self.sides),
            "evidence": self.evidence,
            "on_error": self.on_error,
            "max_characters": self.max_characters,
        }

    def schema(self, source: Source) -> Any:
        """Columns of the output, where it is Parquet.

        Raises:
            ColumnsError: where nobody knows which columns to keep.
        """
        if self.format != PARQUET:
            return None
        asked = [self.bundle, *self.others.values()]
        twice = self.second is not None
        return tables.schema_of(source, self.columns, asked, self.policy, self.evidence, twice)

    def judge(self) -> Judge:
        """A judge on this machine's cores.

        Raises:
            BundleError: where the cascade's bundles do not belong together.
        """
        first = _classifier(self.bundle)
        reader: Classifier | Languages = first
        if self.multilingual is not None:
            reader = Languages(first, _classifier(self.multilingual))
        judging: Classifier | Languages | Cascade = reader
        if self.second is not None and self.bands is not None:
            judging = Cascade(reader, _classifier(self.second), self.bands)
        classifier: Classifier | Languages | Cascade | WithRules = judging
        if self.encoder is not None:
            classifier = WithRules(
                judging, encoder_of(self.encoder, 0, KEPT_BYTES), self.policy.rules
            )
        return Judge(
            classifier,
            self.policy,
            threads=self.threads or available_threads(),
            evidence=self.evidence,
            cache_bytes=self.cache_bytes,
        )

    def line(self, row: Row, verdict: Verdict | None) -> bytes:
        """What is written of a row; nothing where a faulty one is skipped.

        Raises:
            JobError: where a faulty row ends the job.
        """
        if row.error is not None and self.on_error == "fail":
            raise JobError(f"row {row.number}: {row.error}")
        if row.error is not None and self.on_error == "skip":
            return b""
        return line(row, verdict, keep=bool(self.columns.keep), evidence=self.evidence)

    def check_paths(self) -> None:
        """Refuse to write where is read from.

        Raises:
            JobError: where the output is the input, or in it.
        """
        if STANDARD in (self.input, self.output):
            return
        source, output = Path(self.input).resolve(), Path(self.output).resolve()
        if output == source or source in output.parents:
            raise JobError(f"--output {self.output}: is in the input; it would be read as input")


def _classifier(bundle: Bundle) -> Classifier:
    return load_classifier(bundle, CpuRuntime(bundle.graph, threads=1))


def status(counts: Counts) -> int:
    """The exit status of a job that reached its end."""
    return FAULTY_ROWS if counts.errors else 0
