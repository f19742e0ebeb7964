"""docs/trainers.md names every field of the config with its default, and no field that is not there."""

import re
from pathlib import Path

from runners.gpt_config import PRESETS, GptConfig

TEXT = (Path(__file__).parents[2] / "docs" / "trainers.md").read_text()


def _written(value):
    if value == "":
        return "(none)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_document_has_a_row_for_every_field_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \| [^|]+ \| [^|]* \|$", TEXT, re.MULTILINE))
    config = GptConfig()
    assert rows == {name: _written(getattr(config, name)) for name in config.__struct_fields__}


def test_it_names_every_preset():
    assert all(f"`{name}`" in TEXT or f'"{name}"' in TEXT for name in PRESETS)
