"""Chat with a model in the terminal, through the project's own server.

    ./run chat [TRACK]                              a track of params.yaml's `served` (default: the first)
    python -m flows.talk models/scratch/int4        any served model directory

The server lives as long as the talk. A line is a turn; /new forgets what was said, /quit or the end of input ends.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import openai

from tasks import params
from tasks.serve import client

LONGEST = 256  # tokens of one answer


def converse(base_url: str, name: str) -> None:
    """Read turns from stdin, stream the answers to stdout, until the input ends."""
    api = openai.OpenAI(base_url=base_url, api_key="none")
    model = api.models.list().data[0].id
    live = sys.stdin.isatty()
    print(f"{name}: a line is a turn; /new starts afresh, /quit ends", file=sys.stderr)
    history: list[dict[str, str]] = []
    while True:
        try:
            line = input("\nyou> " if live else "").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        if line == "/new":
            history = []
        elif line:
            history.append({"role": "user", "content": line})
            answer = reply(api, model, history)
            if answer is None:
                history.pop()
            else:
                history.append({"role": "assistant", "content": answer})


def reply(api: openai.OpenAI, model: str, history: list[dict[str, str]]) -> str | None:
    """Stream one answer to stdout; its text, or None where the server refused, which is said in one line."""
    pieces: list[str] = []
    try:
        for event in api.chat.completions.create(model=model, messages=history, max_tokens=LONGEST, temperature=0.0,
                                                 stream=True):
            piece = event.choices[0].delta.content if event.choices else None
            if piece:
                pieces.append(piece)
                print(piece, end="", flush=True)
        print()
    except openai.APIError as error:
        print(f"\nerror: {' '.join(str(error).split())} (/new starts afresh)", file=sys.stderr)
        return None
    return "".join(pieces)


def main() -> int:
    """Start a server on the model, talk, stop it."""
    parser = argparse.ArgumentParser(prog="python -m flows.talk", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a served model directory, such as models/scratch/int4")
    model = parser.parse_args().model
    try:
        import readline  # noqa: F401  line editing and history, where the system has it
    except ImportError:
        pass
    try:
        with client.running(model, threads=params.runtime().threads, slots=1) as base_url:
            converse(base_url, str(model))
    except (client.ServerError, params.ParamsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
