"""Talk to a model in the terminal: `./run chat`, or

    python -m tasks.serve.chat [MODEL]

MODEL is a served directory (default: the last of `served` in params.yaml whose ONNX directory is there). Answers
stream as they are made; an empty line is ignored, /new starts over, Ctrl-D or Ctrl-C ends.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

import openai

from tasks import params, stage
from tasks.serve import client


def default_model() -> Path:
    """The ONNX directory of the last served track that has been made. Raises ParamsError where there is none."""
    served = params.load().get("served", [])
    made = [path for track in served if (path := Path("models") / str(track) / "onnx").is_dir()]
    if not made:
        raise params.ParamsError("no served model is there yet: ./run makes it, or name a model directory")
    return made[-1]


def answer(server: openai.OpenAI, messages: list[dict[str, str]]) -> str:
    """Stream one answer to stdout and hand it back; Ctrl-C stops it where it is."""
    said: list[str] = []
    stream = server.chat.completions.create(model="default", messages=messages, stream=True, temperature=0.3,
                                            top_p=0.9)
    with contextlib.suppress(KeyboardInterrupt), stream:
        for chunk in stream:
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                said.append(text)
                print(text, end="", flush=True)
    print()
    return "".join(said)


def converse(server: openai.OpenAI) -> None:
    """Read lines, print answers, until the input ends."""
    messages: list[dict[str, str]] = []
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        line = input(prompt).strip()
        if line == "/new":
            messages = []
        elif line:
            messages.append({"role": "user", "content": line})
            try:
                messages.append({"role": "assistant", "content": answer(server, messages)})
            except openai.APIStatusError as error:
                detail = error.body.get("message") if isinstance(error.body, dict) else str(error)
                print(f"({detail}; /new starts over)")
                messages.pop()


def main() -> None:
    """The command line. Exit codes: 0 ended by the user, 1 the server did not start, 2 no model."""
    parser = argparse.ArgumentParser(prog="python -m tasks.serve.chat", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    given = parser.parse_args()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        try:
            model, threads = given.model or default_model(), params.runtime().threads
            print(f"{model}: loading", file=sys.stderr)
            with client.running(model, threads=threads, slots=1) as url:
                print("ready; /new starts over, Ctrl-D ends", file=sys.stderr)
                converse(openai.OpenAI(base_url=url, api_key="none", max_retries=0))
        except params.ParamsError as error:
            sys.exit(stage.fail(2, str(error)))
        except client.ServerError as error:
            sys.exit(stage.fail(1, str(error)))
    print()


if __name__ == "__main__":
    main()
