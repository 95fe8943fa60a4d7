"""Fetches one pinned file, from a package index the way the user's own pip or npm would, and keeps it by its sha256.

Index, certificate, proxy and credentials are pip's (`pip config`, PIP_* variables) and npm's. A file fetched once
lies in .runtime/downloads/<sha256> (or in $CATENA_DOWNLOADS, to share it between checkouts), so a rerun needs no
network; a file put there by hand serves as well.
"""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from pypi_simple import NoSuchProjectError, PyPISimple

from tasks import progress
from tasks.stage import StageError

PYPI, NPM = "https://pypi.org/simple/", "https://registry.npmjs.org/"
BLOCK = 1 << 20
ATTEMPTS = 3
REMEDY = ("check the network and pip's index-url (npm's registry), or put the file there as {kept}, "
          "or point `sources:` in params.yaml at local files (kind: local, path: a directory)")


@dataclass
class Settings:
    """Where packages come from and how to reach it."""

    indexes: list[str]
    find_links: list[str] = field(default_factory=list)
    verify: str | bool = True
    proxy: str | None = None
    timeout: float = 15.0

    def session(self) -> requests.Session:
        """A requests session with these settings (netrc and *_PROXY variables hold as they do for pip)."""
        session = requests.Session()
        session.verify = self.verify
        if self.proxy:
            session.proxies = {"http": self.proxy, "https": self.proxy}
        return session


def downloads() -> Path:
    """The folder of fetched files, each named by its sha256."""
    return Path(os.environ.get("CATENA_DOWNLOADS", ".runtime/downloads"))


def digest(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree(top: Path, files: Iterable[Path]) -> str:
    """One sha256 for many files: of the lines `<sha256>  <path below top>`, sorted; what sha256sum prints."""
    lines = sorted(f"{digest(path)}  {path.relative_to(top).as_posix()}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check(name: str, found: str, pinned: str | None) -> None:
    """Raise StageError where the sha256 of source `name` is pinned and is not the one found."""
    if pinned is not None and found != pinned:
        raise StageError(f"sources: {name} has sha256 {found}, params.yaml pins {pinned}: it has changed, or is not "
                         "what was pinned; if you trust it, put the new sha256 (and snapshot) there")


def web(url: str, sha256: str) -> Path:
    """The file at `url`, by the proxy and certificate of pip. Raises StageError: not to be had, or another sha256."""
    def get(settings: Settings, into: Path) -> str:
        settings.verify = settings.verify or True
        download(settings, url, into, file)
        return url

    file = unquote(urlsplit(url).path.rpartition("/")[2]) or "index"
    return kept(file, sha256, lambda: replace(pip_settings(), indexes=[url], find_links=[]), get)


def pypi(package: str, file: str, sha256: str) -> Path:
    """The distribution file `file` of `package`. Raises StageError: not to be had, or with another sha256."""
    return kept(file, sha256, pip_settings, lambda settings, into: from_indexes(settings, package, file, into))


def npm(package: str, version: str, sha256: str) -> Path:
    """The tarball of an npm package's version. Raises StageError: not to be had, or with another sha256."""
    base = package.rpartition("/")[2]
    file = f"{base}-{version}.tgz"

    def get(settings: Settings, into: Path) -> str:
        url = f"{settings.indexes[0].rstrip('/')}/{package}/-/{file}"
        download(settings, url, into, file)
        return settings.indexes[0]

    return kept(file, sha256, npm_settings, get)


def kept(file: str, sha256: str, configure: Callable[[], Settings], get: Callable[[Settings, Path], str]) -> Path:
    """The kept file of that sha256, fetched by `get(settings, path)` (which returns whence) where it is not there."""
    path = downloads() / sha256
    if path.exists() and digest(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{sha256}.partial-{os.getpid()}")
    try:
        settings = configure()
        whence = get(settings, partial)
        found = digest(partial)
        if found != sha256:
            raise StageError(f"{file} from {public(whence)} has sha256 {found}, params.yaml pins {sha256}: "
                             "not the pinned file; nothing was unpacked. Correct the pin only if you trust it")
        partial.rename(path)
    except (requests.RequestException, FileNotFoundError) as error:
        where = ", ".join(public(url) for url in [*settings.indexes, *settings.find_links]) or "no index at all"
        raise StageError(f"cannot fetch {file} from {where} ({reason(error)}): {REMEDY.format(kept=path)}") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def from_indexes(settings: Settings, package: str, file: str, into: Path) -> str:
    """Write `file` from the first find-links directory or index that holds it; returns which one.

    Raises FileNotFoundError where each answered and none holds it, else the last network error.
    """
    for link in settings.find_links:
        local = Path(unquote(urlsplit(link).path)) if link.startswith("file:") else Path(link)
        if (local / file).is_file():
            into.write_bytes((local / file).read_bytes())
            return link
    failed: Exception = FileNotFoundError(f"no index holds {file}")
    for index in settings.indexes:
        if not index.startswith(("http://", "https://")):
            continue
        try:
            client = PyPISimple(endpoint=index, session=settings.session())
            page = client.get_project_page(package, timeout=settings.timeout)
            found = [entry for entry in page.packages if entry.filename.lower() == file.lower()]
            if found:
                download(settings, found[0].url, into, file)
                return index
        except NoSuchProjectError:
            continue
        except (requests.RequestException, ValueError) as error:
            failed = error if isinstance(error, requests.RequestException) else requests.RequestException(str(error))
    raise failed


def download(settings: Settings, url: str, into: Path, what: str) -> None:
    """Stream `url` into a file behind a progress bar, three attempts. Raises requests.RequestException."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            whole = {"Accept-Encoding": "identity"}
            with settings.session().get(url, stream=True, timeout=settings.timeout, headers=whole) as answer:
                answer.raise_for_status()
                size = int(answer.headers.get("Content-Length") or 0)
                with into.open("wb") as out, progress.track(total=size or None, what=what, unit="B") as bar:
                    for block in answer.iter_content(BLOCK):
                        out.write(block)
                        bar.update(len(block))
            return
        except requests.RequestException as error:
            answered = isinstance(error, requests.HTTPError) and error.response.status_code < 500
            if answered or attempt == ATTEMPTS:
                raise


def pip_settings() -> Settings:
    """What the user's pip is configured to do: files, then the `download` section, then PIP_* variables."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    values: dict[str, str] = {}
    ranked: list[tuple[int, str, str]] = []
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        rank = {"global": 0, "download": 1, ":env:": 2}.get(section)
        if rank is not None:
            ranked.append((rank, name, str(ast.literal_eval(value))))
    if listed.returncode != 0:
        ranked = [(2, key[4:].lower().replace("_", "-"), value) for key, value in os.environ.items()
                  if key.startswith("PIP_")]
    for _, name, value in sorted(ranked):
        values[name] = value
    offline = values.get("no-index", "").lower() in ("1", "true", "yes", "on")
    indexes = [] if offline else [values.get("index-url", PYPI), *values.get("extra-index-url", "").split()]
    trusted = values.get("trusted-host", "").split()
    insecure = bool(trusted) and all(urlsplit(index).hostname in trusted for index in indexes)
    return Settings(indexes, values.get("find-links", "").split(), False if insecure else values.get("cert") or True,
                    values.get("proxy"), float(values.get("timeout") or values.get("default-timeout") or 15))


def npm_settings() -> Settings:
    """The registry and certificate of the user's npm: npm_config_* variables, else .npmrc files, else the default."""
    values: dict[str, str] = {}
    for rc in (Path.home() / ".npmrc", Path(".npmrc")):
        if rc.is_file():
            for line in rc.read_text(encoding="utf-8").splitlines():
                key, found, value = line.partition("=")
                if found and not key.lstrip().startswith(("#", ";")):
                    values[key.strip()] = value.strip()
    for key, value in os.environ.items():
        if key.lower().startswith("npm_config_"):
            values[key.lower().removeprefix("npm_config_").replace("_", "-")] = value
    verify = values.get("cafile") or os.environ.get("NODE_EXTRA_CA_CERTS") or True
    return Settings([values.get("registry", NPM)], [], verify, values.get("https-proxy") or values.get("proxy"))


def public(url: str) -> str:
    """A URL without user, password or query: what may be printed."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if parts.scheme else url


def reason(error: Exception) -> str:
    """Why a fetch failed, in a few words, without URLs (they may hold credentials)."""
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, FileNotFoundError):
        return "not there"
    return type(error).__name__
