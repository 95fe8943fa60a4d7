"""Annotate documents and preference pairs in the browser, by keyboard; measure agreement; export for training.

    ./run annotate quality                       good, ads, thin or broken? documents that the chain kept and dropped
    ./run annotate safety                        safe, adult, toxic or private?
    ./run annotate preference                    which of two answers is better? pairs that preference training makes
    ./run annotate quality --agreement           print everyone's agreement (Cohen's kappa), pair by pair
    ./run annotate quality --export PATH.jsonl   write what the classifiers read

The page is served on 127.0.0.1 alone. Every answer is on disk, in annotations/TASK/ANNOTATOR.jsonl, before the page
shows it as given; a later start goes on at the first item without one. Items are chosen by seed at the first start and
frozen in annotations/TASK/items.jsonl: take that file (and the answers, by git) to where the second annotator works.

--items reads your own: for quality and safety {"text"[, "id", "label", "metadata"]} a line (a label is shown as the
suggestion), a file or a folder of them; for preference {"prompt", "chosen", "rejected"[, "id", "tools"]}, the prompt
and the answers as texts or as messages; with "one" and "other" for the answers nothing is suggested (./run judge
--pairs writes such a file of the models' answers).

What --export writes, an item a line:
  quality, safety  {"text", "label", "id", "language", "annotators", "adjudicated"}
  preference       {"prompt": [{"role", "content"}, ...], "chosen": [{"role": "assistant", "content"}],
                    "rejected": [...], "id", "annotators", "adjudicated"[, "tools": JSON text]}, as trl's DPO reads it
A label is the adjudicated one, else what more than half of the annotators said; ties, skips and open disputes are left
out and counted.
"""

from __future__ import annotations

import argparse
import getpass
import itertools
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import params, stage
from tasks.data.annotate import export, items
from tasks.data.annotate.annotation import Annotation, checked_name, folder
from tasks.data.annotate.labels import ADJUDICATED, PIPELINE, PREFERENCE, TASKS, Task
from tasks.stage import StageError

PORT, PORTS = 8765, 20  # the first free of so many, where none is asked for
ITEMS = 200


def chain_pairs(n: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """("pair number", row) of `n` pairs as preference training draws them, from other exercises than it saw."""
    from tasks.finetune.pairs import choices

    for number, choice in enumerate(choices(n, "train", seed + 2, [""])):
        yield f"pair {number}", {"prompt": choice.messages, "tools": choice.tools, "chosen": choice.right,
                                 "rejected": choice.wrong, "fault": choice.fault}


def source(task: Task, path: Path | None, n: int, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a task's items come from: the file or folder given, else the chain's own data."""
    if path is not None:
        return items.rows(path)
    return chain_pairs(n, seed) if task is PREFERENCE else items.documents_of_chain(task)


def opened(task: Task, path: Path | None, n: int | None) -> Annotation:
    """The task with its items, chosen now where they are not yet. Raises StageError, ParamsError."""
    seed = params.section(int, "seed", params.load())
    place = folder(task)
    before = len(items.load(place / "items.jsonl"))
    wanted = n if n is not None else before or ITEMS
    found = items.chosen(place / "items.jsonl", task, wanted, seed, source(task, path, wanted, seed))
    if len(found) > before:
        print(f"{len(found) - before} items chosen, frozen in {place / 'items.jsonl'}", file=sys.stderr)
    elif path is not None and before >= wanted:
        print(f"{before} items were chosen before: --n {before + ITEMS} adds some of {path}", file=sys.stderr)
    return Annotation(task, found, place, seed)


def begun(task: Task) -> Annotation:
    """The task with the items that were chosen before. Raises StageError where there are none, ParamsError."""
    place = folder(task)
    found = items.load(place / "items.jsonl")
    if not found:
        raise StageError(f"nobody has annotated {task.name} yet: ./run annotate {task.name}")
    return Annotation(task, found, place, params.section(int, "seed", params.load()))


def agreements(annotation: Annotation) -> str:
    """A table of every two annotators' agreement, the pipeline among them."""
    lines = ["| first | second | items | agree | kappa | 95 % interval |", "|---|---|---|---|---|---|"]
    for first, second in itertools.combinations([*annotation.annotators(), PIPELINE], 2):
        found = annotation.agreement(first, second)
        kappa = "undefined" if found["kappa"] is None else f"{found['kappa']:.3f}"
        edges = "-" if found["interval"] is None else "{:.3f} to {:.3f}".format(*found["interval"])
        share = "-" if found["share"] is None else f"{100 * found['share']:.1f} %"
        lines.append(f"| {first} | {second} | {found['items']} | {share} | {kappa} | {edges} |")
    if len(lines) == 2:
        raise StageError(f"nobody has annotated {annotation.task.name} yet: ./run annotate {annotation.task.name}")
    return "\n".join(lines)


def exported(annotation: Annotation, path: Path) -> str:
    """Write the export to `path`; what was written, in a line. Raises StageError: nothing to write, a bad place."""
    if path.absolute().resolve().is_relative_to(annotation.place.absolute().resolve()):
        raise StageError(f"--export {path}: {annotation.place} holds the answers themselves: choose another place")
    answers = {name: annotation.answers(name) for name in annotation.annotators()}
    rows, counts = export.export(annotation.task, annotation.items, answers, annotation.answers(ADJUDICATED))
    if not rows:
        raise StageError(f"nothing to export: {dict(counts)}; ./run annotate {annotation.task.name} first")
    export.write(path, rows)
    left = ", ".join(f"{count} {name}" for name, count in counts.items() if count and name != "exported")
    return f"{path}: {counts['exported']} items" + (f" (left out: {left})" if left else "")


def listening(port: int | None) -> socket.socket:
    """A loopback socket on `port`, or on the first free one from PORT. Raises StageError."""
    wanted = [port] if port is not None else range(PORT, PORT + PORTS)
    for candidate in wanted:
        try:
            return socket.create_server(("127.0.0.1", candidate))
        except OSError as error:
            reason = error.strerror
    raise StageError(f"cannot listen on 127.0.0.1:{wanted[0]}: {reason}: choose another --port")


def serve(annotation: Annotation, annotator: str, port: int | None) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    import uvicorn

    from tasks.data.annotate.api import application

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn finishes, then raises the signal again
    annotation.log(annotator).answers()  # a bad line is said now, not in the page
    with listening(port) as listener:
        port = listener.getsockname()[1]
        print(f"ready: http://127.0.0.1:{port}/  {annotation.task.name}, {len(annotation.items)} items, annotator "
              f"{annotator}; Ctrl-C ends", flush=True)
        config = uvicorn.Config(application(annotation, annotator, port), log_level="warning", access_log=False,
                                timeout_graceful_shutdown=3)
        uvicorn.Server(config).run(sockets=[listener])


def positive(text: str) -> int:
    """An integer from 1 to 100,000."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 100000")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit codes: 0 done or ended on request, 1 cannot, 2 bad arguments or params."""
    parser = argparse.ArgumentParser(prog="./run annotate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--annotator", metavar="NAME", help="whose answers these are (default: the user's login name)")
    parser.add_argument("--items", type=Path, metavar="PATH", help="your own items (default: the chain's data)")
    parser.add_argument("--n", type=positive, metavar="N",
                        help=f"how many items there shall be; a larger number later adds some (default: {ITEMS})")
    parser.add_argument("--port", type=int, metavar="P", help=f"0 takes any (default: the first free from {PORT})")
    parser.add_argument("--export", type=Path, metavar="PATH", help="write the answers for training, and end")
    parser.add_argument("--agreement", action="store_true", help="print the agreement, and end")
    given = parser.parse_args(argv)
    try:
        annotator = checked_name(given.annotator or getpass.getuser())
        task = TASKS[given.task]
        if given.agreement:
            print(agreements(begun(task)))
        if given.export is not None:
            print(exported(begun(task), given.export))
        if not given.agreement and given.export is None:
            serve(opened(task, given.items, given.n), annotator, given.port)
    except params.ParamsError as error:
        return stage.fail(2, str(error))
    except StageError as error:
        return stage.fail(1, str(error))
    except OSError as error:
        return stage.fail(1, stage.one_line(error))
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
