"""Parses the option `--over`: what is chosen besides the rate."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from etude.errors import BadValueError

RANGE = re.compile(r"^\s*([0-9.eE+-]+?)\s*\.\.\s*([0-9.eE+-]+)\s*$")


def read_over(texts: list[str] | None) -> dict[str, Any] | None:
    """Return NAME=VALUES texts as the mapping for `tune(..., over=...)`.

    VALUES are separated by commas, or are a TOML list if one contains a comma; LOW..HIGH is a
    range.

    Raises:
        BadValueError: If a text has no '=' or no value.

    >>> read_over(["optimizer=adamw,sgd", "batch_size=32,128"])
    {'optimizer': ['adamw', 'sgd'], 'batch_size': [32, 128]}
    >>> read_over(["optimizer.weight_decay=1e-4..0.1"])
    {'optimizer.weight_decay': (0.0001, 0.1)}
    >>> read_over(["schedule=cosine(),warmup('5%') >> linear()"])
    {'schedule': ['cosine()', "warmup('5%') >> linear()"]}
    """
    if not texts:
        return None
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name.strip() or not values.strip():
            raise BadValueError(
                f"--over {text!r}: write NAME=VALUE,VALUE or NAME=LOW..HIGH, such as "
                "--over optimizer=adamw,sgd"
            )
        found[name.strip()] = _values(values.strip())
    return found


def _values(text: str) -> Any:
    if pair := RANGE.match(text):
        try:
            return float(pair[1]), float(pair[2])
        except ValueError:
            pass
    if text.startswith("["):
        try:
            listed = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise BadValueError(f"--over {text}: it is not a TOML list: {error}") from error
        return listed
    return [value_of(part.strip()) for part in split_at_commas(text) if part.strip()]


def split_at_commas(text: str) -> list[str]:
    """Split a text at the commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        else:
            depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def value_of(text: str) -> Any:
    """Return a text as a TOML value; what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
