"""What the shell offers after TAB: recipes, models, strategies, data sets, sources, judges.

``viscot --install-completion`` sets it up. The lists come from the same tables as the commands' own checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # typer has its own copy of click; for annotations only
    from typer._click import Command, Context
    from typer._click.core import Parameter
    from typer._click.shell_completion import CompletionItem

Names = Callable[[], Iterable[str]]


def _recipes() -> Iterable[str]:
    from viscot_core.resources import recipes

    return recipes()


def _models() -> Iterable[str]:
    from viscot_core.models.zoo import answering

    return answering()


def _models_and_towers() -> Iterable[str]:
    from viscot_core.models.known import ZOO

    return ZOO


def _families() -> Iterable[str]:
    from viscot_core.models.zoo import families

    return families()


def _dialects() -> Iterable[str]:
    from viscot_core.policies.dialects.known import DIALECTS

    return DIALECTS


def _strategies() -> Iterable[str]:
    from viscot_core.tasks.visual_cot.strategies import STRATEGIES

    return STRATEGIES


def _two_strategies() -> Iterable[str]:
    return ("direct", "cot")


def _data_sets() -> Iterable[str]:
    from viscot_core.tasks.suites import SUITES

    return SUITES["all"]


def _suites() -> Iterable[str]:
    from viscot_core.tasks.suites import SUITES

    return SUITES


def _general_tasks() -> Iterable[str]:
    return ("pope", "gqa", "textvqa_val", "scienceqa_img", "mme", "visual_cot", "visual_cot_chain")


def _sources() -> Iterable[str]:
    from viscot_core.sources.catalog import load_catalog

    return (source.name for source in load_catalog().sources)


def _purposes_and_sources() -> Iterable[str]:
    return ("pretrain", "finetune", "bench", "refcoco", "all", *_sources())


def _groups() -> Iterable[str]:
    return ("bench", "refcoco", "finetune", "pretrain", "metadata", "all")


def _servers() -> Iterable[str]:
    return ("vllm", "sglang", "transformers")


def _box_formats() -> Iterable[str]:
    from viscot_core.boxes.registry import CODECS

    return CODECS


def _judges() -> Iterable[str]:
    return ("exact", "anls", "vqa", "contains", "relaxed", "letter", "yes-no", "openai:", "hf:")


def _rewards() -> Iterable[str]:
    from viscot_core.train.rewards.named import REWARDS

    return REWARDS


OFFERS: dict[tuple[str, str], Names] = {
    ("", "recipe"): _recipes,
    ("recipes show", "name"): _recipes,
    ("recipes copy", "name"): _recipes,
    ("recipes check", "name"): _recipes,
    ("", "model"): _models,
    ("models pull", "name"): _models_and_towers,
    ("models list", "family"): _families,
    ("models serve-command", "model"): _models,
    ("models serve-command", "server"): _servers,
    ("", "box_format"): _box_formats,
    ("bench calibrate", "formats"): _box_formats,
    ("bench cot", "strategy"): _strategies,
    ("bench show", "strategy"): _strategies,
    ("bench vqa", "strategy"): _two_strategies,
    ("bench general", "strategy"): _two_strategies,
    ("", "dialect"): _dialects,
    ("bench cot", "tasks"): _data_sets,
    ("bench cot", "suite"): _suites,
    ("bench general", "tasks"): _general_tasks,
    ("data list", "names"): _sources,
    ("data fetch", "wanted"): _purposes_and_sources,
    ("data fetch", "relock"): _sources,
    ("data organize", "wanted"): _groups,
    ("data check", "wanted"): _groups,
    ("score", "judge"): _judges,
    ("rewards check", "reward"): _rewards,
    ("data prefs", "reward"): _rewards,
}
"""By the command's words (empty: every command) and the parameter: the names that fit."""


def with_offers(command: Command, words: str) -> None:
    """Let the shell complete the parameters of ``command``, which ``words`` call."""
    for parameter in command.params:
        name = parameter.name or ""
        if names := OFFERS.get((words, name)) or OFFERS.get(("", name)):
            parameter._custom_shell_complete = _completer(names)


def _completer(names: Names) -> Callable[[Context, Parameter, str], list[CompletionItem] | list[str]]:
    def complete(_: Context, __: Parameter, incomplete: str) -> list[CompletionItem] | list[str]:
        from typer._click.shell_completion import CompletionItem

        # Of names with commas the last is completed.
        before, comma, begun = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in names() if name.startswith(begun)]

    return complete
