"""The last part of the demo: the published model is served on this machine and asked as any program would ask it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import openai
from openai.types.chat import ChatCompletionMessageParam

from tunesmith.cli.manner import prose, tell
from tunesmith.cli.terminal import Terminal
from tunesmith.core.events import Events
from tunesmith.messages import say
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.server import Server, open_service
from tunesmith.store.database import sqlite_url

LONGEST = 64


def serve_and_ask(run: Path, store: Path, row: Mapping[str, str], listener: Terminal) -> dict[str, object]:
    """Serve, ask plainly and as a stream, record a like and a correction, stop; returns what was answered.

    Args:
        run: a run with a safetensors artefact.
        store: SQLite file for the feedback.
        row: `system`, `message` and `wanted` of the question.
    """
    tell()
    tell(say("cli.demo_serve"), "bold cyan")
    prose(say("cli.demo_why_serve"), "dim", indent=4)
    key = f"ts-{secrets.token_urlsafe(32)}"
    server = open_service(
        run / "ship" / "safetensors", ServeSpec(port=0), sqlite_url(store.resolve()), Events(None, (listener,)), key
    )
    try:
        server.start()
        tell(f"    {say('serve.listening', model=server.name, url=server.url)}")
        return _ask(server, key, row)
    finally:
        server.stop()
        tell(f"    {say('serve.stopped')}")


def _ask(server: Server, key: str, row: Mapping[str, str]) -> dict[str, object]:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": row["message"]}]
    if row["system"]:
        messages.insert(0, {"role": "system", "content": row["system"]})
    # a proxy set for the outside must not be asked for this machine
    plain_http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=server.url, api_key=key, http_client=plain_http, max_retries=0) as client:
        whole = client.chat.completions.create(model=server.name, messages=messages, max_tokens=LONGEST, temperature=0)
        text = whole.choices[0].message.content or ""
        tell(f"    {say('cli.demo_answer', text=text)}")
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(
                model=server.name, messages=messages, max_tokens=LONGEST, temperature=0, stream=True
            )
            if chunk.choices
        ]
        same = "".join(pieces) == text
        words = say("cli.yes" if same else "cli.no")
        tell(f"    {say('cli.demo_stream', pieces=len(pieces), same=words)}")
        feedback = {"model": server.name, "messages": messages, "answer": text, "consent": True}
        liked = client.post("/feedback", body={**feedback, "kind": "like"}, cast_to=dict)
        mended = {**feedback, "kind": "correction", "corrected": row["wanted"]}
        corrected = client.post("/feedback", body=mended, cast_to=dict)
        ids = {"like": str(liked["id"])[:8], "correction": str(corrected["id"])[:8]}
        prose(say("cli.demo_feedback", **ids), indent=4)
    return {"url": server.url, "answer": text, "streamed_same": same,
            "feedback": [liked["id"], corrected["id"]]}  # fmt: skip
