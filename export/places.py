"""What a base works out from the places of tokens, given ready made while its graph is written."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

Given = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def ready_made(encoder: nn.Module, max_tokens: int, alone: bool = False) -> Iterator[None]:
    """Within, the encoder computes what it did, by operators that are few and run everywhere.

    ``alone``: its layers are called one by one, without padding and so without a mask.
    """
    with ExitStack() as stack:

        def before(module: nn.Module, hook: Any) -> None:
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        if any(getattr(module, "is_causal", False) for module in encoder.modules()):
            before(encoder, _with_causal_mask)
        embeddings: Any = getattr(encoder, "embeddings", None)
        if hasattr(embeddings, "padding_idx"):
            before(embeddings, _with_places)
        for module in encoder.modules():
            if hasattr(module, "compute_position_bias"):
                bias = _Bias(module, max_tokens)
                if not alone:
                    before(module, bias.in_mask)
                # Else the layers have it in their mask.
                made = bias.of if alone else lambda _: None
                stack.enter_context(patch.object(module, "compute_position_bias", made))
        yield


def _with_causal_mask(_: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> Given:
    """The encoder's arguments with 0 for the tokens that each one sees; no window slides.

    transformers looks the padding up by pairs of indices, which becomes a GatherND of booleans.
    CUDA has none: the mask would be made on the CPU in every run, and no CUDA graph be captured.
    """
    mask: Tensor = given["attention_mask"]
    place = torch.arange(mask.shape[1])
    seen = (place[None, :] <= place[:, None]) & (mask[:, None, None, :] == 1)
    lowest = torch.finfo(torch.float32).min
    return args, {**given, "attention_mask": torch.where(seen, 0.0, lowest)}


def _with_places(embeddings: Any, args: tuple[Any, ...], given: Mapping[str, Any]) -> Given:
    """The embeddings' arguments with every token's place; the first is behind that of padding.

    MPNet and XLM-R count the ids that are not padding's. Padding follows all tokens and no text
    can hold its id, so that there is nothing to count.
    """
    first = embeddings.padding_idx + 1
    place = torch.arange(first, first + given["input_ids"].shape[1])
    return args, {**given, "position_ids": place[None, :]}


class _Bias:
    """MPNet's relative bias, added to the mask once, in place of both to the scores of each layer.

    The bias depends on the distance of two tokens alone. MPNet finds its bucket by a logarithm, for
    all pairs; here it is looked up in a constant that has a column for each distance.
    """

    def __init__(self, module: Any, max_tokens: int) -> None:
        self.most = max_tokens - 1
        buckets = module.relative_position_bucket(torch.arange(-self.most, max_tokens))
        with torch.no_grad():
            self.biases: Any = module.relative_attention_bias(buckets).T.contiguous()

    def among(self, tokens: int) -> Tensor:
        """Of so many tokens (heads, tokens, tokens)."""
        place = torch.arange(tokens)
        column = place[None, :] - place[:, None] + self.most
        # Not by brackets, which would become a GatherND and a transposition.
        found: Tensor = self.biases.index_select(1, column.flatten()).unflatten(1, column.shape)
        return found

    def of(self, hidden: Tensor) -> Tensor:
        """(1, heads, T, T) of states (B, T, width)."""
        return self.among(hidden.shape[1])[None]

    def in_mask(self, _: nn.Module, args: tuple[Any, ...], given: Mapping[str, Any]) -> Given:
        """The layers' arguments, whose mask has it."""
        mask: Tensor = given["attention_mask"]
        return args, {**given, "attention_mask": self.among(mask.shape[-1]) + mask}
