"""The catalogue of sources, and what a wish selects from it."""

from __future__ import annotations

import pytest

from viscot_core.errors import UsageError
from viscot_core.sources.catalog import load_catalog, select
from viscot_core.sources.plan import DownloadJob
from viscot_core.tasks.benchmarks.known_benchmarks import BENCHMARKS


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("bnch:gqa", "There is no purpose or source called 'bnch'. Did you mean 'bench'"),
        ("bench,finetun", "There is no purpose or source called 'finetun'. Did you mean 'finetune'"),
        ("bench:docvq", "There is no data set 'docvq' in these sources. Did you mean 'docvqa'"),
        (
            "cocotrain2014",
            "There is no purpose or source called 'cocotrain2014'. Did you mean 'coco-train2014'",
        ),
    ],
)
def test_a_wrong_wish_gets_the_nearest_name(wanted: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        select(load_catalog(), [wanted])
    assert says in str(error.value)


def test_purposes_and_sources_stand_in_one_list() -> None:
    catalog = load_catalog()
    both = [w.source.name for w in select(catalog, ["bench,refcoco,cub"])]
    assert both == [w.source.name for w in select(catalog, ["cub", "refcoco", "bench"])]
    assert {"benchmark", "cot-images", "emotic", "refcoco", "coco-train2014", "cub"} == set(both)


def test_a_gated_source_is_wanted_by_its_data_sets_only() -> None:
    names = {
        wish: [w.source.name for w in select(load_catalog(), [wish])]
        for wish in ("bench:gqa", "bench:emotic")
    }
    assert "emotic" not in names["bench:gqa"] and "emotic" in names["bench:emotic"]


def test_a_benchmark_of_its_own_comes_only_where_it_is_named() -> None:
    catalog = load_catalog()
    for name, benchmark in BENCHMARKS.items():
        (wanted,) = select(catalog, [f"bench:{name}"])
        assert wanted.source.name == name and wanted.downloads == wanted.source.downloads
        assert all(one.to.startswith(f"{benchmark.folder}") for one in wanted.downloads)
        assert wanted.source.folder == benchmark.folder
    both = [w.source.name for w in select(catalog, ["bench:vstar,gqa"])]
    assert both == ["benchmark", "cot-images", "vstar"]
    assert not {w.source.name for w in select(catalog, ["bench"])} & set(BENCHMARKS)


def test_the_catalogue_is_whole() -> None:
    catalog = load_catalog()
    names = [source.name for source in catalog.sources]
    assert len(names) == len(set(names)) >= 20
    keys = [d.key for source in catalog.sources for d in source.downloads]
    assert len(keys) == len(set(keys))
    labels = {
        DownloadJob(source, download, 0).label for source in catalog.sources for download in source.downloads
    }
    assert len(labels) == len(keys)
    bench = {d.to for w in select(catalog, ["bench"]) for d in w.downloads}
    assert sum(to.startswith("benchmark/") for to in bench) == 13
    assert sum(to.startswith("benchmark_det/") for to in bench) == 13
    assert len(catalog.named("refcoco").downloads) == 8
    assert len(catalog.named("metadata").downloads) == 12
    split = catalog.named("cot-images").downloads[0]
    assert split.parts == 13 and split.path and split.path.format(part=12).endswith("cot_images_12")
