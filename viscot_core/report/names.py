"""Names of data sets: aliases, the paper's spelling, and the five domains (paper Table 2 and Table 5)."""

from __future__ import annotations

from dataclasses import dataclass

from viscot_core.tasks.suites import REFCOCO


@dataclass(frozen=True)
class DatasetName:
    """One data set: ``key`` as in the benchmark's file names, ``title`` as the paper prints it."""

    key: str
    title: str
    domain: str
    aliases: tuple[str, ...] = ()


DATASETS = (
    DatasetName("docvqa", "DocVQA", "Text"),
    DatasetName("textcap", "TextCaps", "Text", ("textcaps",)),
    DatasetName("textvqa", "TextVQA", "Text"),
    DatasetName("dude", "DUDE", "Text"),
    DatasetName("sroie", "SROIE", "Text"),
    DatasetName("infographicsvqa", "InfoVQA", "Chart", ("infovqa", "infographicvqa", "infographics")),
    DatasetName("flickr30k", "Flickr30k", "General", ("flickr", "flickr30kentities")),
    DatasetName("visual7w", "Visual7W", "General", ("v7w", "visual7wqa")),
    DatasetName("gqa", "GQA", "Relation"),
    DatasetName("openimages", "OpenImages", "Relation", ("openimage", "oid")),
    DatasetName("vsr", "VSR", "Relation"),
    DatasetName("cub", "CUB", "Fine-grained", ("cubbirds", "cub200", "cub2002011", "birds")),
)
DOMAINS = ("Text", "Chart", "General", "Relation", "Fine-grained")
OTHER_DOMAIN = "Other"
"""Data sets outside the paper's twelve: the synthetic images, EMOTIC, your own."""

_BY_NAME = {
    name: dataset for dataset in DATASETS for name in (dataset.key, dataset.title.lower(), *dataset.aliases)
}


def find_dataset(name: str) -> DatasetName | None:
    """The paper's data set behind any common spelling (``TextCaps``, ``info_vqa``, ``v7w``), or None."""
    return _BY_NAME.get("".join(c for c in name.lower() if c.isalnum()))


def canonical(name: str) -> str:
    """The key of a known data set; any other name as it is."""
    found = find_dataset(name)
    return found.key if found else name


def title(name: str) -> str:
    """How the paper prints the data set; any other name as it is."""
    found = find_dataset(name)
    return found.title if found else name


def domain(name: str) -> str:
    """The paper's domain of a data set, or ``OTHER_DOMAIN``."""
    found = find_dataset(name)
    return found.domain if found else OTHER_DOMAIN


def paper_order(names: set[str]) -> list[str]:
    """Names in the paper's column order (data sets, then RefCOCO splits), unknown ones after them by name."""
    known = [d.key for d in DATASETS] + list(REFCOCO)
    rank = {name: i for i, name in enumerate(known)}
    return sorted(names, key=lambda n: (rank.get(canonical(n), len(known)), n))
