"""A tiny causal base, as the reasoner's tests train and ask it; others have bases of their own."""

from pathlib import Path

import pytest
import torch

from tests.training.reasoner_world import make_causal
from training.reasoner import model as models


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def loaded(base: Path):
    model, coder = models.load_base(str(base), torch.float32)
    return model.eval(), coder
