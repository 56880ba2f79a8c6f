"""Language models that write: a local one, or any endpoint that speaks OpenAI's chat contract."""

import json
import logging
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from training.classifier import bases
from training.classifier.bases import Base
from training.classifier.inference import device, keep_memory
from training.synthesis.prompts import Prompt

DEFAULT: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The template of SmolLM2 and many others, for tokenizers that come without one.
CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ADAPTER: Final = "adapter_config.json"
REPORT: Final = "report.json"
SETTINGS: Final = "settings.json"
END_OF_TURN: Final = "<|im_end|>"
RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class GeneratorError(RuntimeError):
    """A generator that cannot write; the message says what to put right."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How freely a model writes."""

    max_new_tokens: int = 48
    temperature: float = 0.8
    # Not top-p, for which transformers sorts the whole vocabulary: 5 % of a step on two cores.
    top_k: int = 40
    repetition_penalty: float = 1.05


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote to a prompt."""

    text: str
    finished: bool
    """False where the limit of tokens cut it off."""
    tokens: int


class Generator(Protocol):
    """Writes one text to each prompt."""

    name: str
    tuned: bool
    """Whether it was trained on ``prompts.request`` and is asked for nothing else."""

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[Written]:
        """The texts, in the order of the prompts; the same seed asks for the same texts."""
        ...


def load_causal(base: str) -> tuple[Base, Any, Any]:
    """A base with its causal language model (on the CPU) and its tokenizer, ready for chats."""
    found, path = bases.resolve(base)
    # Loading warns of things that are as they should be (unpacked weights, a legacy tokenizer).
    transformers_logging.disable_progress_bar()
    on = device().type
    fast = on != "cpu" or torch.cpu._is_avx512_bf16_supported()
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.bfloat16 if fast else torch.float32,
        # One token for 32 texts of 240 tokens takes 87 ms with eager attention on two cores, and
        # 173 with the fused kernel, which is made for long queries.
        attn_implementation="eager" if on == "cpu" else "sdpa",
        **found.load_arguments(),
    )
    if found.gguf:
        # What transformers makes of a GGUF file takes <|im_start|> for the end of a turn and puts
        # another one in front of every text, so the tokenizer is built from its parts.
        tokenizer: Any = PreTrainedTokenizerFast(
            tokenizer_file=str(bases.tokenizer_file(path)), eos_token=END_OF_TURN
        )
    else:
        tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    # Causal models know no token types, which a tokenizer built from its parts would name.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return found, model, tokenizer


def render(tokenizer: Any, prompt: Prompt) -> str:
    """A prompt as its model reads it, up to where the model begins to write."""
    turns = [{"role": role, "content": text} for role, text in prompt.turns]
    chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return str(chat) + prompt.opening


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """What ends a turn, by the model's settings and by its tokenizer.

    Raises:
        GeneratorError: where nothing does.
    """
    named = model.generation_config.eos_token_id
    stops = set(named if isinstance(named, list) else [named])
    stops.add(tokenizer.eos_token_id)
    stops.add(tokenizer.get_vocab().get(END_OF_TURN))
    stops.discard(None)
    if not stops:
        raise GeneratorError("no token ends a turn")
    return sorted(stops)


def base_name(base: Base, given: str) -> str:
    """The name that rows carry: a package's own, or the last part of a path or hub id."""
    return base.name if base.wheels else given.rstrip("/").rsplit("/", 1)[-1]


def base_of(adapter: Path) -> str:
    """The base that an adapter was trained on.

    Raises:
        GeneratorError: where the folder holds no adapter.
    """
    try:
        settings = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
        return str(settings["base_model_name_or_path"])
    except (OSError, ValueError, KeyError):
        raise GeneratorError(f"{adapter} holds no adapter ({ADAPTER})") from None


def adapter_name(adapter: Path) -> str:
    """What its training called an adapter; else the folder's name."""
    try:
        settings = json.loads((adapter / SETTINGS).read_text(encoding="utf-8"))
        return str(settings["name"])
    except (OSError, ValueError, KeyError):
        return adapter.name


class LocalGenerator:
    """A causal language model of transformers: batched sampling, padded on the left.

    ``base`` may be the folder of an adapter (``tamis train generator``), which is merged in.
    """

    def __init__(self, base: str = DEFAULT, sampling: Sampling | None = None) -> None:
        keep_memory()
        self.sampling = sampling or Sampling()
        adapter = Path(base) if (Path(base) / ADAPTER).is_file() else None
        self.tuned = adapter is not None
        loaded = load_causal(base if adapter is None else base_of(adapter))
        self.base, self._model, self._tokenizer = loaded
        self.name = base_name(self.base, base)
        if adapter is not None:
            # Each of 210 small products beside the weights costs a call; merged they cost nothing.
            self._model = PeftModel.from_pretrained(self._model, adapter).merge_and_unload()
            self.name = f"{base_name(self.base, self.base.name)}+{adapter_name(adapter)}"
        self.device = device()
        self._model = self._model.to(self.device).eval()
        self._stops = stop_ids(self._model, self._tokenizer)

    def render(self, prompt: Prompt) -> str:
        """The prompt as the model reads it."""
        return render(self._tokenizer, prompt)

    @torch.inference_mode()
    def write(self, prompts: Sequence[Prompt], seed: int) -> list[Written]:
        """Sample one text to each prompt, all in one batch."""
        torch.manual_seed(seed)
        # The template has written the special tokens already.
        batch = self._tokenizer(
            [self.render(prompt) for prompt in prompts],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(self.device)
        out = self._model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            max_new_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            top_k=self.sampling.top_k,
            repetition_penalty=self.sampling.repetition_penalty,
            eos_token_id=self._stops,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return [self._written(ids) for ids in out[:, batch["input_ids"].shape[1] :].tolist()]

    def _written(self, ids: list[int]) -> Written:
        end = next((n for n, token in enumerate(ids) if token in self._stops), None)
        kept = ids if end is None else ids[:end]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        return Written(text.strip(), end is not None, len(kept))


class EndpointGenerator:
    """A model behind ``POST {url}/chat/completions``; the key comes from the environment.

    Raises:
        GeneratorError: where the endpoint refuses, or still fails after the last try.
    """

    def __init__(
        self,
        url: str,
        model: str,
        sampling: Sampling | None = None,
        *,
        concurrency: int = 8,
        tries: int = 5,
        timeout_s: float = 120,
        pause_s: float = 1,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name, self.tuned = model, False
        self.sampling = sampling or Sampling()
        self._tries, self._pause_s, self._concurrency = tries, pause_s, concurrency
        key = os.environ.get("OPENAI_API_KEY")
        self._client = httpx.Client(
            base_url=url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_s,
            transport=transport,
        )
        # httpx would log one line a request into the progress bar.
        logging.getLogger("httpx").setLevel(logging.WARNING)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def write(self, prompts: Sequence[Prompt], seed: int) -> list[Written]:
        """One request a prompt, a few at a time; endpoints take the seed as a wish."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(self._ask, prompts, range(seed, seed + len(prompts))))

    def _ask(self, prompt: Prompt, seed: int) -> Written:
        body = {
            "model": self.name,
            "messages": [{"role": role, "content": text} for role, text in prompt.turns],
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": self.sampling.temperature,
            "seed": seed,
        }
        answer = self._post(body)
        try:
            choice = answer["choices"][0]
            # A refusal may come without content.
            text = str(choice["message"].get("content") or "")
        except (AttributeError, IndexError, KeyError, TypeError):
            raise GeneratorError("the endpoint's answer is no chat completion") from None
        usage = answer.get("usage") or {}
        finished = choice.get("finish_reason") != "length"
        return Written(text.strip(), finished, int(usage.get("completion_tokens") or 0))

    def _post(self, body: dict[str, Any]) -> Any:
        problem = ""
        for attempt in range(self._tries):
            if attempt:
                # Full jitter, so that the requests of a pool do not come back all at once.
                time.sleep(self._pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1))  # noqa: S311
            try:
                response = self._client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                problem = type(error).__name__
                continue
            if response.is_success:
                try:
                    return response.json()
                except ValueError:
                    raise GeneratorError("the endpoint's answer is not JSON") from None
            problem = f"status {response.status_code}"
            if response.status_code not in RETRIED:
                break
        raise GeneratorError(f"{self._client.base_url}: {problem}")


def generator(name: str, model: str | None = None, sampling: Sampling | None = None) -> Generator:
    """The generator of a setting: a URL with a model's name, or a base to run here.

    Raises:
        GeneratorError: for a URL without a model.
    """
    if name.startswith(("http://", "https://")):
        if not model:
            raise GeneratorError("an endpoint needs the name of its model (--model)")
        return EndpointGenerator(name, model, sampling)
    return LocalGenerator(name, sampling)
