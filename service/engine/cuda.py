"""ONNX Runtime on a GPU: few fixed shapes, buffers bound once, graphs captured where asked."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.runtime import OUTPUTS, PROVIDERS, Outputs, ProviderError, provider_of

SHORTEST: Final = 16
BATCH_TOKENS: Final = 16_384


class CudaRuntime:
    """One graph on a GPU, in batches padded to powers of two.

    Use a graph of fp16 (``tamis export --precision fp16``): the int8 one is made of CPU operators.
    Every shape gets buffers on the device when first seen, so memory grows to that of all shapes
    (some 40) and no further, and a captured CUDA graph finds its addresses again.

    All runs are on one thread of its own. onnxruntime keeps handles of CUDA's libraries, and the
    graphs it captured, for each calling thread: warm-up would warm another thread than those that
    serve, and every worker would capture every shape anew.
    """

    threads: int = 1
    # One worker tokenises and pads while the other's batch computes.
    workers: int = 2
    batch_tokens: int = BATCH_TOKENS

    def __init__(self, graph: Path, cuda_graphs: bool = False, device: str = "cuda") -> None:
        """Load the graph; ``device`` "cpu" takes the same path without a GPU, for tests.

        Raises:
            ProviderError: where this build, or this machine, has no CUDA.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if device == "cpu":
            providers: list[Any] = [PROVIDERS["cpu"]]
        else:
            if PROVIDERS["cuda"] not in ort.get_available_providers():
                raise ProviderError(f"this onnxruntime build has no {PROVIDERS['cuda']}")
            # CUDA and cuDNN from Python packages are found only when loaded beforehand.
            ort.preload_dlls()
            cuda = {
                "arena_extend_strategy": "kSameAsRequested",
                "enable_cuda_graph": str(int(cuda_graphs)),
            }
            providers = [(PROVIDERS["cuda"], cuda), PROVIDERS["cpu"]]
        self._session = ort.InferenceSession(str(graph), options, providers=providers)
        self.provider: str = provider_of(self._session, "cpu" if device == "cpu" else "cuda")
        self.inputs: frozenset[str] = frozenset(i.name for i in self._session.get_inputs())
        self.heads: int = self._session.get_outputs()[0].shape[-1]
        self._device = device
        self._cuda_graphs = cuda_graphs and device != "cpu"
        self._slots: dict[tuple[int, int], _Slot] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda")

    def run(self, feed: Mapping[str, NDArray[np.int64]], wide: bool = False) -> Outputs:  # noqa: ARG002
        """Score windows; arrays of shape (B, T). ``wide`` means nothing here."""
        batch, tokens = feed["input_ids"].shape
        shape = _power_of_two(batch), max(_power_of_two(tokens), SHORTEST)
        padded = {name: _padded(array, shape) for name, array in feed.items()}
        # A padding row attends to its first token: a softmax over nothing is not a number in fp16.
        padded["attention_mask"][batch:, 0] = 1
        found = self._thread.submit(self._run, padded, shape).result()
        return Outputs(
            found.logits[:batch],
            found.token_logits[:batch, :tokens],
            found.attention[:batch, :tokens],
        )

    def _run(self, padded: Mapping[str, NDArray[np.int64]], shape: tuple[int, int]) -> Outputs:
        if (slot := self._slots.get(shape)) is None:
            slot = self._slots[shape] = self._slot(shape)
        for name, array in padded.items():
            slot.inputs[name].update_inplace(array)
        self._session.run_with_iobinding(slot.binding, slot.options)
        # Copied before the next run: on the device "cpu" these are views of the buffers.
        return Outputs(*(slot.outputs[name].numpy().copy() for name in OUTPUTS))

    def _slot(self, shape: tuple[int, int]) -> "_Slot":
        binding = self._session.io_binding()

        def buffer(size: tuple[int, ...], kind: type) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(size, kind, self._device, 0)

        inputs = {name: buffer(shape, np.int64) for name in self.inputs}
        sizes = {"logits": (shape[0], self.heads)}
        outputs = {n: buffer(sizes.get(n, (*shape, self.heads)), np.float32) for n in OUTPUTS}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        options = ort.RunOptions()
        if self._cuda_graphs:
            options.add_run_config_entry("gpu_graph_id", str(len(self._slots) + 1))
        return _Slot(inputs, outputs, binding, options)


class _Slot:
    """The buffers of one shape, bound."""

    def __init__(
        self, inputs: dict[str, Any], outputs: dict[str, Any], binding: Any, options: Any
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.binding = binding
        self.options = options


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _padded(array: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    out = np.zeros(shape, dtype=np.int64)
    out[: array.shape[0], : array.shape[1]] = array
    return out
