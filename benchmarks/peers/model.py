"""The model folder of the peers that cannot read our bundle: infinity and transformers.

    python benchmarks/peers/model.py BASE OUT            (in infinity's environment)

The same encoder as our bundle's base, below its plain head of random weights: those peers know no
head but their own, and speed does not depend on what the weights say. With it comes an ONNX
export and its int8 form by optimum's recipe for this class of CPUs, the one infinity prefers.
"""

import shutil
import sys
from pathlib import Path
from typing import Final

import torch
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer

LABELS: Final = 11  # as many as our bundle's heads
WINDOW: Final = 256  # tokens, as in our bundle; peers cut there


def make(base: Path, out: Path) -> None:
    """Write the folder, whole or not at all."""
    torch.manual_seed(0)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=LABELS, problem_type="multi_label_classification"
    )
    model.save_pretrained(part)
    AutoTokenizer.from_pretrained(base, model_max_length=WINDOW).save_pretrained(part)
    ORTModelForSequenceClassification.from_pretrained(part, export=True).save_pretrained(part)
    ORTQuantizer.from_pretrained(part, file_name="model.onnx").quantize(
        save_dir=part,
        quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True),
    )
    part.rename(out)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
