"""What goes in: each installed package, data source and model with version, hash, licence; a CycloneDX file, a table.

    ./run sbom [--out FILE]        default: report/sbom.cdx.json

The same commit and installation give the same bytes: the time in it is the commit's, the serial number a hash of the
rest. Licences are what packages and params.yaml state; whether they allow what you do is for a person to judge.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import lineage
from flows.licences import COPYLEFT, Licence, of_package, of_words
from tasks import params

OUT = Path("report/sbom.cdx.json")
SHOWN = 8  # names in a row of the table
KINDS = {"package": "Python packages", "corpus": "training text", "data": "data and models that sort it",
         "model": "models"}


class SbomError(RuntimeError):
    """The bill cannot be made; the message is one line with the remedy."""


@dataclass(frozen=True)
class Part:
    """One thing that goes in. `kind` is a key of KINDS; `notes` are what else is told of it, key -> value."""

    kind: str
    name: str
    version: str
    licence: Licence | None
    purl: PackageURL | None = None
    sha256: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # refs of the parts that it was made from

    @property
    def ref(self) -> str:
        """Its reference in the bill."""
        return f"{self.kind}:{self.name}"


def normal(name: str) -> str:
    """A package's name as PyPI normalizes it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages(constraints: Path) -> Iterator[Part]:
    """Every installed Python package; `pinned` says whether constraints.txt names this version."""
    pinned = {}
    for line in constraints.read_text(encoding="utf-8").splitlines() if constraints.exists() else ():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            pinned.setdefault(normal(match[1]), set()).add(match[2].split("+")[0])
    installed = {normal(one.metadata["Name"]): one for one in distributions() if one.metadata["Name"]}
    for name, one in sorted(installed.items()):
        licence = of_package(one)
        state = "yes" if one.version.split("+")[0] in pinned.get(name, ()) else "other" if name in pinned else "no"
        yield Part("package", name, one.version, licence, PackageURL("pypi", name=name, version=one.version),
                   notes={"catena:pinned": state} | ({"catena:licence-from": licence.whence} if licence.whence else {}))


def sources(values: dict[str, Any]) -> Iterator[Part]:
    """Every entry of params.yaml's sources: `corpora` are read as training text, `packages` serve the stages."""
    for section, kind in (("corpora", "corpus"), ("packages", "data")):
        for one in values["sources"].get(section) or ():
            version = str(one.get("version") or one.get("snapshot") or "")
            purl = None
            if one["kind"] in ("pypi", "npm") and "package" in one:
                space, _, base = one["package"].rpartition("/")
                purl = PackageURL(one["kind"], namespace=space or None, version=version,
                                  name=normal(base) if one["kind"] == "pypi" else base,
                                  qualifiers={"file_name": one["file"]} if "file" in one else None)
            notes = {f"catena:{key}": str(one[key]) for key in ("kind", "language", "url", "path", "root", "year")
                     if one.get(key) is not None}
            yield Part(kind, one["name"], version, of_words(str(one.get("licence") or ""), "params.yaml"), purl,
                       one.get("sha256"), notes)


def models(values: dict[str, Any], given: list[Part]) -> Iterator[Part]:
    """The models of params.yaml's `models`, as dvc.lock holds them, with the data that each was made from."""
    entries = lineage.read()
    named = {file.path for entry in entries.values() for file in entry.data}
    for name, path in values["models"].items():
        found = lineage.maker(entries, path)
        if found is None:
            raise SbomError(f"dvc.lock has no {path} (model {name}): ./run makes it")
        read = {file.path for entry in lineage.ancestors(entries, found[0]) for file in entry.data}
        needs = [part for part in given if part.kind == "corpus" and "data/sources" in read
                 or part.kind == "data" and (f"data/packages/{part.name}" in read or "data/packages" in read
                                             and f"data/packages/{part.name}" not in named)]
        adopted = [part for part in needs if f"data/packages/{part.name}" in read and part.name in path.split("/")]
        yield Part("model", name, found[1].md5, adopted[0].licence if adopted else None,
                   notes={"catena:path": path, "dvc:md5": found[1].md5, "dvc:stage": found[0].name},
                   needs=tuple(part.ref for part in needs))


def collect() -> list[Part]:
    """All parts, of the checkout in the working directory. Raises SbomError, ParamsError or LineageError."""
    values = params.load()
    try:
        given = list(sources(values))
        return [*packages(Path("constraints.txt")), *given, *models(values, given)]
    except (KeyError, TypeError, AttributeError) as error:
        raise SbomError(f"params.yaml: sources or models are not as expected ({type(error).__name__}: {error}): "
                        "./run says which key is wrong") from None


def component(part: Part) -> Component:
    """A part as CycloneDX has it."""
    kind = {"package": ComponentType.LIBRARY, "model": ComponentType.MACHINE_LEARNING_MODEL}.get(part.kind,
                                                                                                  ComponentType.DATA)
    licences = []
    if part.licence and part.licence.spdx:
        simple = re.fullmatch(r"[\w.+-]+", part.licence.spdx) and not part.licence.spdx.startswith("LicenseRef-")
        licences = [DisjunctiveLicense(id=part.licence.spdx) if simple else LicenseExpression(part.licence.spdx)]
    elif part.licence and part.licence.words:
        licences = [DisjunctiveLicense(name=part.licence.words)]
    return Component(
        type=kind, name=part.name, version=part.version or None, bom_ref=part.ref, purl=part.purl, licenses=licences,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else [],
        properties=[Property(name=name, value=value) for name, value in sorted(part.notes.items())])


def bill(parts: list[Part]) -> str:
    """CycloneDX 1.6 JSON of the parts. Raises SbomError where it breaks the standard's own schema."""
    done = subprocess.run(["git", "log", "-1", "--format=%H %ct"], capture_output=True, text=True)
    commit, stamp = (done.stdout.split() or ["uncommitted", "0"])[:2]
    bom = Bom()
    bom.metadata.timestamp = datetime.fromtimestamp(int(stamp), UTC)
    bom.metadata.component = root = Component(type=ComponentType.APPLICATION, name="catena", version=commit,
                                              bom_ref="catena", licenses=[DisjunctiveLicense(id="Apache-2.0")])
    made = {part.ref: component(part) for part in parts}
    bom.components.update(made.values())
    for part in parts:
        bom.register_dependency(made[part.ref], [made[ref] for ref in part.needs])
    bom.register_dependency(root, made.values())
    bom.serial_number = uuid5(NAMESPACE_URL, "catena")
    bom.serial_number = uuid5(NAMESPACE_URL, JsonV1Dot6(bom).output_as_string())
    text = JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SbomError(f"the bill breaks CycloneDX 1.6: {str(fault.data)[:200]}")
    return text


def flags(parts: list[Part]) -> list[str]:
    """What a person should look at, one line each."""
    told = []
    for part in parts:
        what = f"{part.name} ({KINDS[part.kind]})"
        if part.licence is None:
            continue
        if part.licence.family == "unknown":
            stated = f"it says {part.licence.words!r}, no SPDX name" if part.licence.words else "none is stated"
            told.append(f"unknown licence: {what}: {stated}")
        elif part.kind != "package" and part.licence.family in COPYLEFT:
            role = ("a model trained on it has read it" if part.kind == "corpus" else
                    "it sorts, labels or is adopted; params.yaml's sources say for what")
            told.append(f"copyleft or share-alike in data: {what}: {part.licence.name}: {role}")
        elif part.kind != "package" and part.licence.family not in ("Permissive", "Public Domain"):
            told.append(f"licence of the family {part.licence.family!r} in data: {what}: {part.licence.name}")
        if part.kind != "package" and not part.licence.spdx and part.licence.words:
            told.append(f"not one SPDX expression: {what}: {part.licence.words!r}")
    loose = [part.name for part in parts if part.notes.get("catena:pinned") in ("no", "other")]
    if loose:
        told.append(f"not as constraints.txt pins: {len(loose)} packages: {', '.join(loose[:SHOWN])}"
                    + (" ..." if len(loose) > SHOWN else ""))
    return told


def table(parts: list[Part]) -> Table:
    """Licences by kind, the strictest families first."""
    drawn = Table("what", "licence", "family", "", "names", title="licences of what goes in", title_justify="left")
    for kind, title in KINDS.items():
        groups: dict[tuple[str, str], list[str]] = {}
        for part in parts:
            if part.kind == kind:
                licence = part.licence
                key = (licence.family, licence.name) if licence else ("", "made here: see the data it was made from")
                groups.setdefault(key, []).append(part.name)
        for (family, name), names in sorted(groups.items(), key=lambda one: (one[0][0] not in ("unknown", *COPYLEFT),
                                                                            -len(one[1]), one[0])):
            more = " ..." if len(names) > SHOWN else ""
            drawn.add_row(title, escape(name[:60]), family, str(len(names)), ", ".join(names[:SHOWN]) + more)
    return drawn


def main() -> int:
    """The command line. Exit codes: 0 written, 1 not, 2 bad arguments."""
    parser = argparse.ArgumentParser(prog="./run sbom", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help=f"CycloneDX JSON (default: {OUT})")
    given = parser.parse_args()
    try:
        parts = collect()
        text = bill(parts)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, encoding="utf-8")
    except (SbomError, params.ParamsError, lineage.LineageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(table(parts))
    for line in flags(parts):
        console.print(f"look at: {line}", markup=False, soft_wrap=True)
    print(f"{given.out}: {len(parts)} parts, CycloneDX 1.6, valid by its schema")
    return 0


if __name__ == "__main__":
    sys.exit(main())
