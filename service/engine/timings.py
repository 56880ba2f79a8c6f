"""How long each stage of a request took."""

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds by stage.

    ``queue`` is the wait until the first window started, ``tokenize`` the sum over the contents,
    ``postprocess`` that of pooling and evidence, ``infer`` the time from start to the last window's
    end without them (a long text's windows may wait for others' in between).
    """

    queue: float
    tokenize: float
    infer: float
    postprocess: float
    total: float


STAGES: Final = tuple(stage.name for stage in fields(Timings))
