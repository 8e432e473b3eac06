"""Text from outside (titles, ids, headers, records of others) made safe to print: what a terminal would obey is shown.

Control characters move the cursor, clear the screen, set the window's title or fill the clipboard; marks of writing
direction make a line read as another. Each becomes a sign that is seen and does nothing.
"""

import re

_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_REPLACED = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return the text with control characters as their pictures (an escape is ␛), and other such signs as �.

    Tabs and line feeds stay. Texts without any come back as they are; what was made safe stays so.
    """
    return _REPLACED.sub("\N{REPLACEMENT CHARACTER}", text.translate(_CONTROLS))


def one_line(text: str) -> str:
    """Return the text as a single safe line: every run of white space is a blank."""
    return visible(" ".join(text.split()))


def visible_if_text(value: object) -> object:
    """Return a text as `visible` does and anything else (a number, markup of our own) as it is; for templates."""
    return visible(value) if type(value) is str else value
