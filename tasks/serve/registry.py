"""The models behind one port: found by name, and exchanged for a promoted one without dropping a request.

A model whose path is a symbolic link is watched: when the link points elsewhere, the new directory is loaded, its
checksums verified, and a probe answered, while the old one goes on serving. Then new requests go to the new one, the
old one ends what it has begun, and is closed. A new directory that fails any of this is refused, and the old stays.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.serve.digest import digest
from tasks.serve.engine.directory import ModelError, read_json
from tasks.serve.engine.start import Options
from tasks.serve.errors import ApiError
from tasks.serve.metrics import Exposition
from tasks.serve.service import Service

WATCH_SECONDS = 2


@dataclass(frozen=True)
class Target:
    """What a `model` field names: a service, and one of its adapters or None."""

    service: Service
    name: str
    adapter: str | None

    @property
    def digest(self) -> str:
        """The lineage digest of the model, with the adapter's where there is one."""
        own = self.service.digest
        return own if self.adapter is None else f"{own}+{self.service.adapters[self.adapter]}"

    def card(self) -> dict[str, Any]:
        """The model as /v1/models shows it."""
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "catena",
                "max_model_len": self.service.context, "digest": self.digest,
                "parent": None if self.adapter is None else self.service.name}


class Registry:
    """Services by name; the first one answers where no model, or `default`, is named."""

    def __init__(self, models: dict[str, Path], adapters: dict[str, Path] | None = None, *, threads: int,
                 slots: int, options: Options = Options()) -> None:
        """Raises ModelError where a model or an adapter cannot be served."""
        self.paths, self.threads, self.slots, self.options = models, threads, slots, options
        self.exposition = Exposition()
        self.lock = asyncio.Lock()
        self.adapters: dict[str, dict[str, Path]] = {name: {} for name in models}
        for name, place in (adapters or {}).items():
            base = read_json(place / "adapter_config.json").get("base_model_name_or_path")
            self.adapters[base if base in models else next(iter(models))][name] = place
        self.services: dict[str, Service] = {}
        try:
            for name in models:
                self.services[name] = self.load(name)
        except ModelError:
            self.close()
            raise

    def load(self, name: str) -> Service:
        """A service over what `name`'s path holds now."""
        return Service(name, self.paths[name], threads=self.threads, slots=self.slots, adapters=self.adapters[name],
                       exposition=self.exposition, options=self.options)

    def find(self, name: str | None = None) -> Target:
        """The model of a request. Raises 404 for one that is not here."""
        for service in self.services.values():
            if name in (None, "", "default", service.name):
                return Target(service, service.name, None)
            if name in service.adapters:
                return Target(service, name, name)
        known = ", ".join(repr(target.name) for target in self.targets())
        raise ApiError(404, f"model: no model {name!r} here; this server has {known}", param="model",
                       code="model_not_found")

    def targets(self) -> list[Target]:
        """Every model and adapter."""
        return [target for service in self.services.values() for target in
                (Target(service, service.name, None), *(Target(service, name, name) for name in service.adapters))]

    def alive(self) -> bool:
        """Whether every engine serves."""
        return all(service.engine.alive() for service in self.services.values())

    async def swap(self, name: str) -> dict[str, Any]:
        """Serve what `name`'s path holds now in place of what is being served.

        Returns the outcome: `swapped` or `unchanged`, with both digests. Raises ModelError, the old one still serving,
        where the new one cannot be loaded, does not match its checksums, changes while it loads, or fails the probe.
        """
        async with self.lock:
            old = self.services[name]
            wanted = await asyncio.to_thread(digest, self.paths[name].resolve())
            outcome = {"model": name, "previous": old.digest, "digest": wanted}
            if wanted == old.digest:
                old.directory = self.paths[name].resolve()
                return outcome | {"status": "unchanged"}
            new = await asyncio.to_thread(self.load, name)
            try:
                if new.digest != wanted:
                    raise ModelError(f"{new.directory} changed while it was being loaded")
                await new.probe()
            except ModelError:
                new.retire()
                raise
            self.services[name] = new
            old.retire()
            return outcome | {"status": "swapped"}

    async def watch(self) -> None:
        """For ever: swap models whose link has moved; what is refused is said once on stderr."""
        refused: dict[str, Path] = {}
        linked = [name for name, path in self.paths.items() if path.is_symlink()]
        while linked:
            await asyncio.sleep(WATCH_SECONDS)
            for name in linked:
                place = self.paths[name].resolve()
                if place in (self.services[name].directory, refused.get(name)):
                    continue
                try:
                    outcome = await self.swap(name)
                    print(f"{name}: {outcome['status']}, {place}", file=sys.stderr, flush=True)
                except ModelError as error:
                    refused[name] = place
                    print(f"{name}: the new model is refused, the old one still serves: {error}", file=sys.stderr,
                          flush=True)

    def close(self) -> None:
        """Stop every engine."""
        for service in self.services.values():
            service.engine.close()
