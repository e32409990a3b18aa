"""What GenerateMaker asks of whatever draws its candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dao_flows.makers.models.plugins import in_one_line
from dao_flows.makers.schemas.prediction import Origin
from dao_flows.model.errors import DaoError

from .generator import Generator, Progress

if TYPE_CHECKING:
    from dao_flows.makers.science.chemistry import Covers
    from dao_flows.model.crystals import Crystal
    from dao_flows.model.runtime.batching import BatchLog
    from dao_flows.model.sampling.requests import Request


class GeneratorError(DaoError):
    """A generator of an installed package failed, or gave something else than it was asked for; one line says what."""


class Source(Protocol):
    """A generator, and what the documents are told of it."""

    @property
    def covers(self) -> Sequence[Covers]:
        """What must all know a composition's elements and the size of its cells."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Its part of the parameters of the science."""

    @property
    def checkpoints(self) -> Mapping[str, str]:
        """Role -> sha256 of the weights."""

    @property
    def names(self) -> Mapping[str, str]:
        """Role -> name of the checkpoint."""

    @property
    def origin(self) -> Origin | None:
        """Of what it draws. None: DAO-G's, which documents tell only beside templates."""

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Progress, log: BatchLog
    ) -> Sequence[Crystal | None]:
        """As `Generator` has it. log: is told of the batches that ran, by what tells of them."""


@dataclass(frozen=True)
class OfPackage:
    """A generator of an installed package as a source: it has no checkpoint of ours, and is told by name and sha256."""

    generator: Generator

    @property
    def covers(self) -> list[Covers]:
        """Itself."""
        return [self.generator]

    @property
    def parameters(self) -> dict[str, Any]:
        """What it is."""
        return {"generator": self.generator.name, "generator_sha256": self.generator.sha256}

    @property
    def checkpoints(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def names(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def origin(self) -> Origin:
        """That it drew it."""
        return Origin(kind="drawn", generator=self.generator.name)

    def sample(
        self, requests: Sequence[Request], seed: int, device: str, progress: Progress, log: BatchLog
    ) -> Sequence[Crystal | None]:
        """What it draws. Raises GeneratorError for what it raises, and for crystals that are not those asked for."""
        try:
            found = list(self.generator.sample(requests, seed, device, progress))
        except DaoError:
            raise
        except Exception as error:  # whatever the package raises
            raise GeneratorError(f"the generator {self.generator.name!r} failed: {in_one_line(error)}") from error
        for request, crystal in zip(requests, found, strict=False):
            if crystal is not None and sorted(crystal.numbers) != sorted(request.numbers):
                raise GeneratorError(f"the generator {self.generator.name!r} drew other atoms than it was asked for")
        if len(found) != len(requests):
            told = f"{len(found)} crystals for {len(requests)} requests"
            raise GeneratorError(f"the generator {self.generator.name!r} drew {told}")
        return found
