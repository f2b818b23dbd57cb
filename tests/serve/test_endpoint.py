"""Questions over HTTP: box, crop and answer; streams; raw prompts; the openai client."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from serve_help import Looker, Running, as_data_url, data_url, question

from viscot_core.engines.base import Generation, Request, Sampling
from viscot_core.policies.zoom_settings import ZoomSettings

Serve = Callable[..., Running]


def test_a_question_is_answered_in_two_turns_with_box_and_crop(serve: Serve) -> None:
    here = serve()
    reply = here.post(question("What is it?")).json()
    assert reply["object"] == "chat.completion" and reply["model"] == "looker"
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": "seen 224 x 200",
        "refusal": None,
    }
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"] == {"prompt_tokens": 300, "completion_tokens": 16, "total_tokens": 316}
    field = reply["viscot"]
    assert (
        field["box"] == [0.5, 0.25, 0.75, 0.5] and field["box_status"] == "ok" and field["strategy"] == "cot"
    )
    assert field["crop"] == [138, 0, 362, 200] and (field["width"], field["height"]) == (400, 200)
    assert field["box_pixels"] == [200.0, 0.0, 300.0, 100.0]
    first, second = here.engine.prompts
    assert "what is it?. Please provide the bounding box" in first
    assert "ASSISTANT: [0.500, 0.250, 0.750, 0.500]</s>USER: <image>\nPlease answer" in second


class Once(Looker):
    """Looks once, whatever it is asked, and answers."""

    def _say(self, request: Request) -> Generation:
        if len(request.images) < 2:
            return Generation(self.box, 12, True)
        width, height = request.images[-1].image.size
        return Generation(f"seen {width} x {height}", 4, True)


def test_a_server_with_a_zoom_loop_looks_as_often_as_it_takes(serve: Serve) -> None:
    here = serve(Once(), zoom=ZoomSettings())
    reply = here.post(question("What is it?")).json()
    field = reply["viscot"]
    assert (field["strategy"], field["stop"]) == ("zoom", "answer")
    assert [look["crop"] for look in field["looks"]] == [[138, 0, 362, 200]]
    assert reply["choices"][0]["message"]["content"] == "seen 224 x 200"
    streamed = here.post(question("What is it?", stream=True)).text
    assert "seen 224 x 200" in streamed
    # What a request names still holds: two turns, and a box of the client's.
    assert here.post(question("What?", viscot={"strategy": "cot"})).json()["viscot"]["strategy"] == "cot"
    boxed = here.post(question("What?", viscot={"box": [0.1, 0.3, 0.5, 0.5]})).json()
    assert boxed["viscot"]["strategy"] == "cot"


def test_a_server_without_a_loop_says_so(serve: Serve) -> None:
    reply = serve().post(question("What?", viscot={"strategy": "zoom"}))
    assert reply.status_code == 400 and "no zoom loop" in reply.json()["error"]["message"]


def test_a_server_that_answers_in_one_turn_looks_where_a_request_says_so(serve: Serve) -> None:
    here = serve(strategy="direct")
    assert here.post(question("What?")).json()["viscot"]["strategy"] == "direct"
    assert here.post(question("What?", viscot={"strategy": "cot"})).json()["viscot"]["strategy"] == "cot"
    boxed = here.post(question("What?", viscot={"box": [0.1, 0.3, 0.5, 0.5]})).json()
    assert boxed["viscot"]["strategy"] == "cot"


def test_direct_and_an_own_box_by_request(serve: Serve) -> None:
    here = serve()
    direct = here.post(question(viscot={"strategy": "direct"})).json()
    assert direct["choices"][0]["message"]["content"] == "seen 400 x 200" and direct["viscot"]["box"] is None
    assert len(here.engine.prompts) == 1
    own = here.post(question(viscot={"box": [0.0, 0.25, 0.1, 0.5]})).json()
    assert (
        own["viscot"]["crop"] == [0, 0, 224, 200]
        and own["viscot"]["box_text"] == "[0.000, 0.250, 0.100, 0.500]"
    )
    assert len(here.engine.prompts) == 2, "the model is not asked for a box it was given"
    by_header = here.post(question(), headers={"x-viscot-strategy": "direct"}).json()
    assert by_header["viscot"]["strategy"] == "direct"


def test_a_stream_tells_the_box_before_the_answer(serve: Serve) -> None:
    here = serve()
    reply = here.post(question(stream=True, stream_options={"include_usage": True}))
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[1]["viscot"]["box"] == [0.5, 0.25, 0.75, 0.5] and not events[1]["choices"][0]["delta"]
    words = [event["choices"][0]["delta"]["content"] for event in events[2:-2]]
    assert words == ["seen", " 224", " x", " 200"]
    assert events[-2]["choices"][0]["finish_reason"] == "stop" and events[-2]["viscot"]["seconds"] >= 0
    assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 16
    assert len({event["id"] for event in events}) == 1


def test_an_unparsable_box_is_said_and_the_whole_image_is_looked_at(serve: Serve) -> None:
    field = serve(Looker(box="over there")).post(question()).json()["viscot"]
    assert field["box_status"] == "unparsable" and field["box_text"] == "over there"
    assert field["crop"] == [0, 0, 400, 200]


def test_raw_continues_the_messages_as_they_stand(serve: Serve) -> None:
    here = serve()
    small = data_url(Image.new("RGB", (30, 20)))
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url()}},
                {"type": "text", "text": "Who?"},
            ],
        },
        {"role": "assistant", "content": "[0.1, 0.2, 0.3, 0.4]"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": small}},
                {"type": "text", "text": "\nAnswer. Who? "},
            ],
        },
    ]
    reply = here.post({"messages": messages}, headers={"X-Viscot-Strategy": "raw"}).json()
    assert reply["choices"][0]["message"]["content"] == "seen 30 x 20"
    assert reply["viscot"] == {"strategy": "raw", "ignored": ["system message"]}
    (prompt,) = here.engine.prompts
    assert prompt.endswith(
        "USER: <image>\nWho? ASSISTANT: [0.1, 0.2, 0.3, 0.4]</s>USER: <image>\nAnswer. Who?  ASSISTANT:"
    )


def test_a_chat_goes_on_about_the_newest_image(serve: Serve) -> None:
    body = question("First?")
    body["messages"] += [
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "And the second?"},
    ]
    here = serve()
    reply = here.post({**body, "temperature": 0.7, "user": "me"}).json()
    assert reply["viscot"]["ignored"] == ["temperature", "earlier questions"]
    assert "and the second?" in here.engine.prompts[0]


class Warm(Looker):
    """Keeps how it was asked to choose its tokens."""

    traits = replace(Looker.traits, samples=True)

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        self.asked = [*getattr(self, "asked", []), *((each.sampling, each.draw) for each in requests)]
        return super().generate(requests)


@pytest.mark.parametrize("strategy", ["cot", "direct", "raw"])
def test_a_clients_temperature_and_seed_choose_the_tokens_of_every_turn(serve: Serve, strategy: str) -> None:
    here = serve(Warm())
    body = question(temperature=0.7, top_p=0.9, seed=7, viscot={"strategy": strategy})
    assert here.post(body).json()["viscot"]["ignored"] == []
    # The number of the draw is told: a request beside it in the batch must not change it.
    turns = 2 if strategy == "cot" else 1
    assert here.engine.asked == [(Sampling(0.7, 0.9, 7), 0)] * turns


def test_what_chooses_no_token_is_told(serve: Serve) -> None:
    """Without a temperature, or at 0, tokens are the likeliest: nucleus and seed have no effect."""
    here = serve(Warm())
    ask = lambda **fields: here.post(question(**fields)).json()["viscot"]["ignored"]  # noqa: E731
    assert ask(temperature=0, top_p=1, seed=3) == ["top_p", "seed"]
    assert ask(seed=3, top_k=5) == ["seed", "top_k"]
    assert ask(temperature=None) == []
    assert {sampling and sampling.greedy for sampling, _ in here.engine.asked} == {True, None}
    ask(temperature=1)
    ask(temperature=1.0)
    (first, _), (second, _) = here.engine.asked[-3], here.engine.asked[-1]
    assert first.temperature == second.temperature == 1 and first.seed != second.seed


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"seed": 2**64},
        {"seed": 0.5},
    ],
)
def test_a_bad_way_of_choosing_tokens_is_refused(serve: Serve, field: dict[str, Any]) -> None:
    refused = serve(Warm()).post(question(**field))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == next(iter(field))


def test_probabilities_that_cannot_be_told_are_refused(serve: Serve) -> None:
    here = serve()
    for field in ({"logprobs": True}, {"logprobs": True, "top_logprobs": 5}):
        refused = here.post(question(**field))
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "'logprobs' is not supported."
    assert here.post(question(logprobs=False, top_logprobs=None)).status_code == 200


def test_max_tokens_bounds_the_answer_and_not_the_box(serve: Serve) -> None:
    reply = serve().post(question(max_tokens=1)).json()
    assert reply["choices"][0]["finish_reason"] == "length" and reply["viscot"]["box_status"] == "ok"


def test_models_are_listed_and_named(serve: Serve) -> None:
    here = serve()
    names = [card["id"] for card in here.get("/v1/models").json()["data"]]
    assert names == ["looker", "viscot"]
    assert here.get("/v1/models/looker").json()["owned_by"] == "viscot"
    assert here.get("/v1/models/other").status_code == 404
    wrong = here.post({**question(), "model": "gpt-4"})
    assert wrong.status_code == 404 and wrong.json()["error"]["code"] == "model_not_found"


def test_the_openai_client_asks_streams_and_reads_the_field(serve: Serve) -> None:
    openai = pytest.importorskip("openai")
    here = serve()
    client = openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0)
    body = question()
    reply = client.chat.completions.create(model="viscot", messages=body["messages"])
    assert reply.choices[0].message.content == "seen 224 x 200" and reply.viscot["box_status"] == "ok"
    chunks = list(
        client.chat.completions.create(
            model="viscot",
            messages=body["messages"],
            stream=True,
            extra_body={"viscot": {"strategy": "direct"}},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "seen 400 x 200"
    assert [model.id for model in client.models.list()] == ["looker", "viscot"]
    with pytest.raises(openai.BadRequestError, match="image is missing"):
        client.chat.completions.create(model="viscot", messages=[{"role": "user", "content": "Who?"}])


def test_questions_at_the_same_time_run_together_and_keep_their_answers(serve: Serve) -> None:
    here = serve(Looker(seconds=0.05))
    sizes = [(300 + 10 * n, 150) for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        asks = [
            pool.submit(
                here.post, question(url=data_url(Image.new("RGB", size)), viscot={"strategy": "direct"})
            )
            for size in sizes
        ]
        texts = [ask.result().json()["choices"][0]["message"]["content"] for ask in asks]
    assert texts == [f"seen {width} x {height}" for width, height in sizes]
    assert sum(here.engine.batches) == 12 and max(here.engine.batches) > 2
    assert here.metric("viscot_batch_prompts_sum") == 12


def test_a_tiff_is_read_as_the_command_reads_it(serve: Serve) -> None:
    here = serve()
    file = io.BytesIO()
    pages = [Image.new("RGB", (400, 200)), Image.new("RGB", (40, 20))]
    assert here.post(question(url=data_url(pages[0], "TIFF"))).json()["viscot"]["width"] == 400
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    reply = here.post(question(url=as_data_url(file.getvalue(), "TIFF")))
    assert reply.status_code == 400 and "several pages" in reply.json()["error"]["message"]
