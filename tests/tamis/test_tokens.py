"""What is written in a text is text: no tokenizer takes it for a command."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from tamis.bundle import Bundle
from tamis.tokens import plain_tokenizer, unknown_of

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = "[]<>|/_.!"
TEXT = "a [CLS]dog [SEP]<s>ran</s> <mask>[MASK] <|im_end|><end_of_turn> <pad>home <unk>."


def word_piece(*commands: str) -> Tokenizer:
    """BERT's, and MPNet's, which differs in its commands."""
    words = [*commands, "[UNK]", *LETTERS, *(f"##{c}" for c in LETTERS), *SIGNS, "dog", "ran"]
    model = models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([*commands, "[UNK]"])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    return tokenizer


def bert() -> Tokenizer:
    return word_piece("[PAD]", "[CLS]", "[SEP]", "[MASK]")


def mpnet() -> Tokenizer:
    return word_piece("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def xlm_roberta() -> Tokenizer:
    """Its commands are pieces of the lattice, with the best scores."""
    commands = [(c, 0.0) for c in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [(c, -5.0) for c in "▁" + LETTERS + SIGNS]
    pieces = [*commands, *letters, ("▁dog", -6.0), ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    mask = AddedToken("<mask>", lstrip=True, special=True)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", mask])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def byte_level(ignore_merges: bool = False) -> Tokenizer:
    """SmolLM2's; ``ignore_merges`` takes whole words from the vocabulary, commands included."""
    commands = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {t: i for i, t in enumerate([*commands, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(commands)
    return tokenizer


def gemma() -> Tokenizer:
    """Its blanks are added tokens, and some of its commands are not called special."""
    commands = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    octets = [f"<0x{n:02X}>" for n in range(256)]
    vocabulary = {t: i for i, t in enumerate([*commands, *octets, "▁", *LETTERS, *SIGNS, "\n\n"])}
    model = models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(commands[:4])
    tokenizer.add_tokens([*commands[4:], "\n\n"])
    return tokenizer


KINDS = (bert, mpnet, xlm_roberta, byte_level, lambda: byte_level(ignore_merges=True), gemma)


def plain(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    tokenizer.save(str(folder / "tokenizer.json"))
    return plain_tokenizer(folder / "tokenizer.json")


def commands_of(tokenizer: Tokenizer) -> dict[str, int]:
    added = tokenizer.get_added_tokens_decoder().items()
    return {token.content: at for at, token in added if token.content.strip()}


def check(tokenizer: Tokenizer) -> None:
    """Every command in many places: never its id, and the text is still told by the offsets."""
    commands = commands_of(tokenizer)
    assert commands
    unknown = {commands.get(c) for c in ("[UNK]", "<unk>")}  # what no piece covers may be that
    written = " ".join(f"{c} x{c}x {c}{c} {c.lower()} {c[:-1]} {c[1:]}" for c in commands)
    for text in (TEXT, written, *commands):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        assert not (set(commands.values()) - unknown) & set(encoding.ids)
        (fast,) = tokenizer.encode_batch_fast([text], add_special_tokens=False)
        assert fast.ids == encoding.ids
        offsets = encoding.offsets
        assert all(text[a:b].strip() or b - a <= 1 for a, b in offsets)
        assert offsets == sorted(offsets)
        read = "".join(
            text[a:b] for n, (a, b) in enumerate(offsets) if n == 0 or a >= offsets[n - 1][1]
        )
        assert read.replace(" ", "") == text.replace(" ", "")
        for command, at in commands.items():
            assert tokenizer.token_to_id(command) == at


@pytest.mark.parametrize("kind", KINDS)
def test_commands_in_a_text_are_text(kind: Callable[[], Tokenizer], tmp_path: Path):
    tokenizer = plain(kind(), tmp_path)
    check(tokenizer)
    check(plain(tokenizer, tmp_path))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(bert, "[UNK]"), (mpnet, "[UNK]"), (xlm_roberta, "<unk>"), (gemma, "<unk>")],
)
def test_the_token_for_what_has_none_is_known_by_each_models_own_name(
    kind: Callable[[], Tokenizer], name: str, tmp_path: Path
):
    tokenizer = plain(kind(), tmp_path)
    assert unknown_of(tokenizer) == tokenizer.token_to_id(name) is not None


def test_a_tokenizer_of_bytes_has_a_token_for_everything(tmp_path: Path):
    assert unknown_of(plain(byte_level(), tmp_path)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_plain_once(kind: Callable[[], Tokenizer], tmp_path: Path):
    once = plain(kind(), tmp_path)
    assert plain(once, tmp_path).to_str() == once.to_str()


def test_the_shipped_bundle_reads_commands_as_text(bundle: Bundle):
    tokenizer = plain_tokenizer(bundle.tokenizer)
    check(tokenizer)
    assert {"[CLS]", "[SEP]", "[PAD]", "[MASK]"} <= commands_of(tokenizer).keys()


@pytest.mark.parametrize("kind", [bert, mpnet])
def test_what_cannot_be_read_takes_no_word_along(kind: Callable[[], Tokenizer], tmp_path: Path):
    tokenizer = plain(kind(), tmp_path)
    text = "a dog\u2728 ran\u2728dog, \u2728\u2728 ran"
    encoding = tokenizer.encode(text, add_special_tokens=False)
    unread = "[UNK]"
    assert encoding.tokens == ["a", "dog", unread, "ran", unread, "dog", unread, unread, "ran"]
    assert [text[a:b] for a, b in encoding.offsets][5:7] == ["dog", ","]


def test_a_word_longer_than_words_are_is_read(bundle: Bundle):
    tokenizer = plain_tokenizer(bundle.tokenizer)
    for unit in ("please1bake1me1a1cake", "please\u2728bake", "please\u2192bake"):
        text = unit * 12
        encoding = tokenizer.encode(text, add_special_tokens=False)
        read = zip(encoding.tokens, encoding.offsets, strict=True)
        assert "\u2728" not in text or encoding.tokens.count("[UNK]") == 12
        said = "".join(
            text[a:b] if token == "[UNK]" else token.strip("#") for token, (a, b) in read
        )
        assert said == text


def test_nothing_is_cut_or_padded(tmp_path: Path):
    encoding = plain(bert(), tmp_path).encode("a dog ran home again", add_special_tokens=False)
    assert len(encoding.ids) == 12


def test_blanks_stay_pieces_of_their_own(tmp_path: Path):
    assert plain(gemma(), tmp_path).encode("a\n\nb").tokens == ["a", "\n\n", "b"]


def test_signs_that_no_piece_covers_are_unknown_and_no_more(tmp_path: Path):
    tokenizer = plain(xlm_roberta(), tmp_path)
    assert tokenizer.encode("ß", add_special_tokens=False).tokens == ["▁", "ß"]
    # Compatibility forms become commands only once they are normalised.
    assert tokenizer.encode("＜s＞", add_special_tokens=False).tokens == ["▁", "<", "s", ">"]
