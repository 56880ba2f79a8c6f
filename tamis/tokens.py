"""Tokenizers that read every text as text, the same in training and in serving."""

import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers


def plain_tokenizer(path: Path) -> Tokenizer:
    """A ``tokenizer.json`` that drops nothing of a text and takes nothing of it for a command.

    all-MiniLM-L6-v2 ships with truncation and padding set to 128 tokens, which would silently drop
    text. And every tokenizer maps its special tokens wherever they are written: a text that holds
    ``[SEP]`` or ``</s>`` could pretend to end. Windows put them where they belong; in a text they
    are the characters that they are written with.
    """
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.model, models.WordPiece):
        _open_words(tokenizer)
    added = {token.content: at for at, token in tokenizer.get_added_tokens_decoder().items()}
    # Runs of blanks are added tokens of some, and text like any other.
    commands = {content: at for content, at in added.items() if content.strip()}
    tokenizer.add_special_tokens(list(commands))
    tokenizer.encode_special_tokens = True
    # A lattice of pieces (XLM-R's) holds them as pieces too, the best ones there are.
    pieces = [content for content, at in commands.items() if _is_piece(tokenizer, content, at)]
    if pieces:
        torn = "|".join(f"{re.escape(piece[0])}(?={re.escape(piece[1:])})" for piece in pieces)
        split = pre_tokenizers.Split(Regex(torn), "merged_with_previous")
        first = tokenizer.pre_tokenizer
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, split]) if first else split
    return tokenizer


def _open_words(tokenizer: Tokenizer) -> None:
    """Let what a WordPiece model cannot read stand apart from the rest of its word.

    It has one unknown token for a whole word, whatever else stands in it, where one character is
    new to it (an emoji behind a word) or where it is longer than words are.
    """
    longest, first = tokenizer.model.max_input_chars_per_word, tokenizer.pre_tokenizer
    if first is not None and len(first.pre_tokenize_str("a" * (longest + 1))) > 1:
        return  # saved so
    points = {ord(char) for token in tokenizer.get_vocab() for char in token if char > "\x7f"}
    starts = sorted(point for point in points if point - 1 not in points)
    ends = sorted(point for point in points if point + 1 not in points)
    known = "".join(
        f"\\x{{{start:x}}}-\\x{{{end:x}}}" for start, end in zip(starts, ends, strict=True)
    )
    # All of a run that is not ASCII, as a word of another script is read as a whole or not at all.
    before = f"[{known}]*" if known else ""
    run = rf"(?<![^\s\x00-\x7f]){before}[^{known}\s\x00-\x7f][^\s\x00-\x7f]*"
    # BERT's words end at ASCII's signs as well, which are no punctuation to Unicode.
    long = rf"[^\s\p{{P}}$+<=>^`|~]{{{longest}}}"
    parts = [pre_tokenizers.Split(Regex(apart), "isolated") for apart in (run, long)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parts, first] if first else parts)


def _is_piece(tokenizer: Tokenizer, command: str, at: int) -> bool:
    """Whether the model itself reads the written command as its token (of unknown signs: no)."""
    found = tokenizer.encode(command, add_special_tokens=False)
    return any(
        token == at and stop - start == len(command) > 1
        for token, (start, stop) in zip(found.ids, found.offsets, strict=True)
    )


def unknown_of(tokenizer: Tokenizer) -> int | None:
    """The token of what a tokenizer has no token for; None where it has one for everything."""
    name = getattr(tokenizer.model, "unk_token", None)
    # A lattice of pieces keeps an id alone, and shows it to nobody.
    names = [name] if name else ["[UNK]", "<unk>"]
    found = (tokenizer.token_to_id(name) for name in names)
    return next((token for token in found if token is not None), None)
