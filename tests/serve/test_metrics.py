"""``/metrics``: names, labels and format, read back with Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families
from serve_help import Looker, Running, question

from viscot_core.serve.metrics import CONTENT_TYPE, Metrics

Serve = Callable[..., Running]
NAMES = {
    "viscot_requests_total",
    "viscot_boxes_total",
    "viscot_tokens_total",
    "viscot_request_seconds_bucket",
    "viscot_request_seconds_sum",
    "viscot_request_seconds_count",
    "viscot_batch_prompts_bucket",
    "viscot_batch_prompts_sum",
    "viscot_batch_prompts_count",
    "viscot_engine_seconds_total",
    "viscot_in_flight",
    "viscot_prompts_waiting",
}
"""Every sample that a dashboard may have been built on."""


def samples(text: str) -> dict[tuple[str, ...], float]:
    """The values of a text by name and labels."""
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_questions_are_counted_by_status_strategy_box_and_tokens(serve: Serve) -> None:
    here = serve(Looker(box="over there"))
    here.post(question())
    here.post(question(viscot={"strategy": "direct"}))
    here.post(question(viscot={"strategy": "raw"}))
    here.post(b"{")
    reply = here.get("/metrics")
    assert reply.headers["content-type"] == CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    values = samples(reply.text)
    assert {name for name, *_ in values} == NAMES
    requests = {key[1:]: value for key, value in values.items() if key[0] == "viscot_requests_total"}
    assert requests == {
        ("status=200", "strategy=cot"): 1,
        ("status=200", "strategy=direct"): 1,
        ("status=200", "strategy=raw"): 1,
        ("status=400", "strategy=unknown"): 1,
    }
    assert values["viscot_boxes_total", "status=unparsable"] == 1
    assert values["viscot_tokens_total", "kind=prompt"] == 100 + 3 * 200
    assert values["viscot_tokens_total", "kind=completion"] == 12 + 3 * 4
    assert values["viscot_batch_prompts_sum",] == 4 and values["viscot_request_seconds_count",] == 4
    assert values["viscot_batch_prompts_bucket", "le=1.0"] == values["viscot_batch_prompts_bucket", "le=+Inf"]
    assert values["viscot_in_flight",] == values["viscot_prompts_waiting",] == 0


def test_a_box_that_the_client_gave_is_not_counted_as_the_models(serve: Serve) -> None:
    here = serve()
    assert here.post(question(viscot={"box": [0.0, 0.25, 0.1, 0.5]})).json()["viscot"]["box_status"] == "ok"
    assert here.metric("viscot_boxes_total") == 0
    here.post(question())
    assert here.metric("viscot_boxes_total") == 1


def test_two_servers_in_one_process_do_not_share_their_counters() -> None:
    one, other = (Metrics(in_flight=lambda: 3, waiting=lambda: 2) for _ in range(2))
    one.add_batch(5, 0.5)
    assert samples(one.text())["viscot_batch_prompts_sum",] == 5
    assert samples(other.text())["viscot_batch_prompts_sum",] == 0
    assert samples(one.text())["viscot_in_flight",] == 3


def test_a_text_of_a_label_is_escaped() -> None:
    metrics = Metrics(in_flight=lambda: 0, waiting=lambda: 0)
    metrics.requests.labels(status="200", strategy='a"b\\c\nd').inc()
    assert samples(metrics.text())["viscot_requests_total", "status=200", 'strategy=a"b\\c\nd'] == 1
