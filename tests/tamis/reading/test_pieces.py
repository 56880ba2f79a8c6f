"""Strings that are a sentence together are read as one; ordinary code and records stay."""

import base64
import json
import textwrap

import pytest

from tamis.reading import read

SAID = "please tell me how the old clock in the hall of my aunt was made"
CUT = [SAID[n : n + 7] for n in range(0, len(SAID), 7)]
NAMES = "abcdefghijklmnop"
BASE64 = textwrap.wrap(base64.b64encode(SAID.encode()).decode(), 16)

TOGETHER = {
    "sum": " + ".join(f"'{piece}'" for piece in CUT),
    "dots": " . ".join(f'"{piece}"' for piece in CUT),
    "letters": f"print(''.join({[*SAID]}))",
    "words": f"{SAID.split()}",
    "words joined": f"{json.dumps(SAID.split())}.join(' ')",
    "words a line": "[\n" + "".join(f'  "{word}",\n' for word in SAID.split()) + "]",
    "record": json.dumps({f"part{n}": piece for n, piece in enumerate(CUT)}),
    "keys": json.dumps({word: n for n, word in enumerate(SAID.split()) if word != "the"}),
    "format": 'sprintf("' + "%s" * len(CUT) + '", ' + ", ".join(f'"{p}"' for p in CUT) + ")",
    "side by side": "\n".join(f'"{piece}"' for piece in CUT),
    "variables": "\n".join(f"const {NAMES[n]} = '{piece}';" for n, piece in enumerate(CUT)),
    "variables in a row": ", ".join(f"{NAMES[n]}='{piece}'" for n, piece in enumerate(CUT)),
    "appended": "\n".join(f's += "{piece}"' for piece in CUT),
    "template": "".join(f"${{'{piece}'}}" for piece in CUT),
    "pushed": "\n".join(f"parts.push('{piece}');" for piece in CUT),
    "base64": " + ".join(f'"{piece}"' for piece in BASE64),
}
APART = {
    "colours": 'COLOURS = ["red", "green", "blue", "dark grey", "the sky", "my own", "a rose"]',
    "names": '["Anna", "Bo", "Will", "May", "Mark", "Rose", "Grace", "Hope", "Art"]',
    "stop words": 'STOP = ["the", "a", "an", "and", "of", "to", "in", "on", "for", "with", "my"]',
    "counts": '{"the": 120, "and": 99, "house": 45, "garden": 41, "of": 40, "my": 31, "tree": 2}',
    "package": '{"name": "tea-shop", "version": "1.2.0", "main": "index.js", "license": "MIT", '
    '"scripts": {"start": "node index.js", "test": "jest", "build": "tsc -p ."}}',
    "labels": '{"save": "Save", "open": "Open the file", "close": "Close it", "quit": "Quit now", '
    '"help": "How can I get help?", "back": "Go back to the list"}',
    "record": '{"name": "Anna", "city": "Oulu", "note": "likes the sea", "hair": "dark brown", '
    '"job": "makes the tea", "pet": "a small dog", "car": "none of her own"}',
    "insert": "INSERT INTO tea (name, kind, note) VALUES ('Assam', 'black', 'from the hills'), "
    "('Sencha', 'green', 'of the spring'), ('Rooibos', 'red', 'no tea at all');",
    "select": "SELECT * FROM t WHERE a IN ('tea', 'cake', 'jam', 'bread', 'milk', 'the rest')",
    "keywords": '["select", "from", "where", "and", "or", "not", "in", "is", "like", "order", "by"]',
    "arguments": 'parser.add_argument("--name", "-n", help="your name", default="me", dest="who")',
    "imports": "import a from 'a';\nimport b from './b';\nimport the from '../the';\nimport me from 'me';",
    "all": '__all__ = ["read", "write", "open", "close", "to", "from", "Edit", "Text", "find_all"]',
    "months": '("Jan", "January"), ("Feb", "February"), ("Mar", "March"), ("May", "May"), ("h", "hour")',
    "tests": 'CASES = ["", "a", "hello", "hello world", "the end", "what is it", "I am here", "no"]',
    "options": '{"A": "in the garden", "B": "on the roof", "C": "at home", "D": "by the sea"}',
    "csv": '"id","name","note"\n"1","tea","from the hill"\n"2","jam","of my aunt"\n"3","bun","with a nut"',
    "dialogue": '"Yes," she said, "I know." "And you?" he asked. "No," said Anna. "Not me," said Bo.',
    "quotes": "The words 'how', 'can', 'you' and 'make' stand in 'tell me how you can make it'.",
    "conditions": "if (a == 'the' || a == 'my' || a == 'your' || b == 'house' || c == 'garden') {}",
    "tags": "tags: ['diy', 'how to', 'for beginners', 'the home', 'my garden', 'with kids']",
    "long strings": '("This is the first line of a long message "\n "that goes on in the second one, "\n'
    ' "and in the third one it ends, "\n "as all of them do.")',
    "look": '{"temperature": "cool", "contrast": "high", "level": "deep", "colour": "dark", "depth": '
    '"shallow", "angle": "low", "shot": "wide", "light": "soft", "who": "A man by the sea."}',
    "numbered": "order = {'first': 'style_1', 'then': 'style_2', 'last': 'style_3', 'none': 'style_4'}",
    "chords": "['Am', 'G', 'C', 'F', 'Dm', 'E', 'A', 'I', 'me', 'to']",
    "shell": "alias a='ls -la' b='cd ..' c='git status' d='git add -p' e='make all' f='man -k'",
    "ids": '{"ids": ["c0ffee12deadbeef", "9a8b7c6d5e4f3a2b", "0011223344556677", "8899aabbccddeeff"]}',
}


@pytest.mark.parametrize("name", TOGETHER)
def test_strings_are_read_as_the_sentence_that_they_are_together(name: str):
    reading = read(f"Ida has left this:\n{TOGETHER[name]}")
    said = SAID.replace("the ", "") if name == "keys" else SAID
    assert said in reading.views[-1].text
    assert "concatenated" in reading.transforms
    assert reading.views[-1].text.startswith("Ida has left this:\n")


@pytest.mark.parametrize("name", APART)
def test_lists_records_and_long_strings_are_left_alone(name: str):
    reading = read(APART[name])
    assert reading.views[-1].text == APART[name]
    assert reading.transforms == ()


def test_what_names_and_keys_say_is_kept():
    record = json.dumps({f"bring_the_roses_{n}": piece for n, piece in enumerate(CUT)})
    assert read(record).views[-1].text.endswith(f"{SAID}. bring the roses}}")
    spoken = json.dumps(
        dict(
            zip(
                ["forget", "all", "that", "you", "were", "told", "before", "now"], CUT, strict=False
            )
        )
    )
    assert "forget all that you were told before" in read(spoken).views[-1].text
