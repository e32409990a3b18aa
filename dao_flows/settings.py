"""Settings from the environment: DAO_FLOWS_*."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from dao_flows.model.files import user_folders
from dao_flows.model.files.places import absolute, checkpoint_in_full, library_in_full

from .errors import SettingsError


class Settings(BaseSettings):
    """What a user may set once for all runs; each field is an environment variable DAO_FLOWS_<NAME>."""

    model_config = SettingsConfigDict(
        env_prefix="DAO_FLOWS_", extra="ignore", env_ignore_empty=True, validate_default=True
    )

    data_dir: Path = Field(
        default_factory=user_folders.default_folder,
        description="Folder of the embedded store.",
    )
    checkpoint: str = Field("dao-g-flow", description="DAO-G checkpoint: name, path or sha256.")
    predictor: str = Field("dao-p-flow", description="DAO-P checkpoint: name, path or sha256.")
    judge: str = Field("auto", description="Force field that judges candidates, none, or auto: CHGNet if installed.")
    library: str = Field("known", description="Library of known crystals: name, path or sha256.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:0.")
    batch_candidates: int = Field(
        200, ge=1, description="Candidates in one batch; what is finished is stored after each batch."
    )
    queue: Literal["slurm", "pbs", "lsf", "none"] = Field("none", description="Queue system of submitted jobs.")
    routes: Path | None = Field(None, description="File that changes where the stages of submitted flows run.")
    store_timeout: float = Field(5.0, gt=0, description="Seconds to wait for a database server.")

    @field_validator("data_dir", "routes")
    @classmethod
    def _in_full(cls, value: Path | None) -> Path | None:
        return value and Path(absolute(value))

    @field_validator("checkpoint", "predictor")
    @classmethod
    def _checkpoint_in_full(cls, value: str) -> str:
        return checkpoint_in_full(value)

    @field_validator("library")
    @classmethod
    def _library_in_full(cls, value: str) -> str:
        return library_in_full(value)


def settings() -> Settings:
    """The settings as the environment stands now. Raises SettingsError naming the variable."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"DAO_FLOWS_{name}: {first['msg']}") from None
