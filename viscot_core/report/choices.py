"""What ``viscot stats`` can be asked for. Imports nothing, so that the command's help stays fast."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"
    LATEX = "latex"


class By(StrEnum):
    """What to split by."""

    DATASET = "dataset"
    DOMAIN = "domain"
    BOX_AREA = "box-area"
    CATEGORY = "category"


class Average(StrEnum):
    """How the overall figure is computed from the data sets."""

    DATASETS = "datasets"
    ITEMS = "items"


class Images(StrEnum):
    """Where the images of the HTML report are; ``AUTO`` embeds a few and links many."""

    AUTO = "auto"
    EMBED = "embed"
    LINK = "link"
    NONE = "none"
