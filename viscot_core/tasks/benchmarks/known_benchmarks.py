"""The benchmarks by name. A new one is one entry here, and a reader if its file has a format of its own."""

from __future__ import annotations

from viscot_core.tasks.answers.public_rules import (
    first_capital,
    lmms_vstar,
    words_anywhere,
    words_near_the_end,
)
from viscot_core.tasks.benchmarks.entry import SearchBenchmark
from viscot_core.tasks.benchmarks.tables import read_table, table_of
from viscot_core.tasks.benchmarks.vstar import question_files, read_vstar

LMMS, VLMEVAL = "lmms-eval", "vlmevalkit"


def _hrbench(size: str) -> SearchBenchmark:
    return SearchBenchmark(
        name=f"hrbench{size}",
        title=f"HR-Bench {size.upper()}: details of {size.upper()} images, every question in four rotations",
        folder=f"bench/hrbench{size}",
        read=read_table,
        files=table_of,
        items=800,
        form="choice",
        source="huggingface.co/datasets/DreamMr/HR-Bench",
        reordered=False,
        rules=((LMMS, words_anywhere), (VLMEVAL, words_near_the_end)),
    )


BENCHMARKS: dict[str, SearchBenchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        SearchBenchmark(
            name="vstar",
            title="V*Bench: attributes and positions of small objects in large images",
            folder="bench/vstar",
            read=read_vstar,
            files=question_files,
            items=191,
            form="choice",
            source="huggingface.co/datasets/craigwu/vstar_bench",
            rules=((LMMS, lmms_vstar), (VLMEVAL, words_near_the_end)),
        ),
        _hrbench("4k"),
        _hrbench("8k"),
        SearchBenchmark(
            name="treebench",
            title="TreeBench: small targets in dense scenes, with the boxes of the evidence",
            folder="bench/treebench",
            read=read_table,
            files=table_of,
            items=405,
            form="choice",
            source="huggingface.co/datasets/HaochenWang/TreeBench",
            rules=((VLMEVAL, words_near_the_end),),
        ),
        SearchBenchmark(
            name="visualprobe",
            title="VisualProbe (hard): open answers about tiny details",
            folder="bench/visualprobe",
            read=read_table,
            files=table_of,
            items=106,
            form="words",
            source="huggingface.co/datasets/Mini-o3/VisualProbe_Hard",
        ),
        SearchBenchmark(
            name="zoombench",
            title="ZoomBench: fine-grained questions in six dimensions",
            folder="bench/zoombench",
            read=read_table,
            files=table_of,
            items=845,
            form="words",
            source="huggingface.co/datasets/inclusionAI/ZoomBench",
        ),
        SearchBenchmark(
            name="mme-realworld-lite",
            title="MME-RealWorld-Lite: real scenes, five options, of which E is 'not in the image'",
            folder="bench/mme-realworld-lite",
            read=read_table,
            files=table_of,
            items=1919,
            form="choice",
            source="huggingface.co/datasets/yifanzhang114/MME-RealWorld-Lite",
            fixed=1,
            rules=((LMMS, first_capital), (VLMEVAL, first_capital)),
        ),
    )
}
