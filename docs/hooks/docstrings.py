"""Lets the site read docstrings as they are written: sections without an empty line between them,
and examples without a prompt.
"""

import re
import textwrap

import griffe

SECTIONS = "Args|Attributes|Example|Raises|Returns|Source"


def sectioned(text: str) -> str:
    """The docstring with an empty line before each section, and its example as a block of code."""
    text = re.sub(rf"\n(?=(?:{SECTIONS}):)", "\n\n", text)
    return re.sub(
        r"^Example:\n((?:  .*\n?|\n(?=  ))+)",
        lambda found: f"**Example**\n\n```python\n{textwrap.dedent(found[1]).rstrip()}\n```\n",
        text,
        flags=re.MULTILINE,
    )


class Docstrings(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = sectioned(obj.docstring.value)
