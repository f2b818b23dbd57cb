"""A policy whose words are drawn: another seed is another sample of the same question."""

from __future__ import annotations

from dataclasses import dataclass, replace

from viscot_core.engines.base import Sampling
from viscot_core.policies.base import Answer, Policy, Question, Step


@dataclass(frozen=True)
class Sampled:
    """``inner`` with every step drawn as ``sampling`` says, whatever the engine does by itself."""

    inner: Policy
    sampling: Sampling

    @property
    def name(self) -> str:
        return self.inner.name

    def start(self, question: Question) -> Step:
        """As the inner policy."""
        return replace(self.inner.start(question), sampling=self.sampling)

    def next(self, step: Step, text: str) -> Step | Answer:
        """As the inner policy."""
        outcome = self.inner.next(step, text)
        return replace(outcome, sampling=self.sampling) if isinstance(outcome, Step) else outcome
