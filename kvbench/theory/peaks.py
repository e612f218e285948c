"""Published peaks of GPUs, and the rates of a device: probed ones, else published ones."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
from collections.abc import Iterable
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from kvbench.device_kinds import first_name, is_device_name
from kvbench.errors import UserError, did_you_mean
from kvbench.records.environment import Environment
from kvbench.records.rates import Rates, read_rates
from kvbench.records.run import RunInfo
from kvbench.text import clip

__all__ = ["COMMON", "Peak", "peaks", "published", "rates_for", "rates_named", "rates_of"]

COMMON = ("T4", "A100-SXM4-80GB", "H100 80GB HBM3")
"""Common boards, used when none is named."""

_Figure = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Peak(BaseModel):
    """The published figures of one board. Tensor core figures are dense, accumulated in float32.

    Attributes:
        names: torch's names of the device, without `NVIDIA` and `Tesla` in front.
        memory_gb_per_s: memory bandwidth, 1e9 bytes/s.
        fp32_tflops: float32 without tensor cores, 1e12 FLOP/s.
        tf32_tflops, fp16_tflops, bf16_tflops: tensor cores, 1e12 FLOP/s; null if the board has no
            such unit.
        source: the vendor's document and its year.
        note: a remark on a figure, such as that it is half of a sparse one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1)
    memory_gb_per_s: _Figure
    fp32_tflops: _Figure
    tf32_tflops: _Figure | None
    fp16_tflops: _Figure | None
    bf16_tflops: _Figure | None
    source: str = Field(min_length=1)
    note: str = ""


@functools.cache
def peaks() -> tuple[Peak, ...]:
    """Return the table of published peaks, peaks.yaml, read and checked once.

    Raises:
        ValueError: a key or a value in it is wrong, or two boards share a name.
    """
    text = importlib.resources.files(__package__).joinpath("peaks.yaml").read_text("utf-8")
    table = TypeAdapter(tuple[Peak, ...]).validate_python(yaml.safe_load(text))
    names = [_normal(name) for peak in table for name in peak.names]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"peaks.yaml: named twice: {', '.join(sorted(twice))}")
    return table


def published(hardware: str, device: str = "cuda") -> Rates | None:
    """Return the published peaks of a device; None unless its name matches exactly.

    A laptop GPU, a MIG slice and a sibling with one more letter are different devices.

    Args:
        hardware: torch's name of the device, such as `NVIDIA H100 80GB HBM3`.
        device: the name to give it.
    """
    wanted = _normal(hardware)
    for peak in peaks():
        if wanted in map(_normal, peak.names):
            figures = {
                # torch's default: TF32 only if the program allows it.
                "float32": peak.fp32_tflops,
                "bfloat16": peak.bf16_tflops,
                "float16": peak.fp16_tflops,
            }
            return Rates(
                device=device,
                hardware=hardware,
                source="published",
                read_bytes_per_s=peak.memory_gb_per_s * 1e9,
                flops_per_s={k: v * 1e12 for k, v in figures.items() if v is not None},
                method="Published peaks: dense, accumulated in float32; float32 without TF32.",
                notes=(peak.note,) if peak.note else (),
                reference=peak.source,
            )
    return None


def rates_for(environment: Environment, device: str) -> Rates | None:
    """Return the rates of a run's device: those probed there, else published ones; None if neither.

    Args:
        environment: the environment of the run.
        device: as in a case: `cpu`, `cuda`, `cuda:1`, ...
    """
    name = first_name(device)
    for rates in environment.rates:
        if rates.device == name:
            return rates
    found = published(environment.hardware(name), name)
    return found and dataclasses.replace(found, uuid=_uuid(environment, name))


def rates_of(info: RunInfo, device: str) -> Rates | None:
    """Return the rates of a run's device; None if the run was resumed where they differ.

    Lower bounds of one machine next to times of another would be wrong but look right.
    """
    first, *others = (rates_for(environment, device) for environment in info.environments)
    return first if all(other == first for other in others) else None


def rates_named(names: Iterable[str]) -> tuple[Rates, ...]:
    """Return the rates of devices by name: those probed on this machine, or published.

    Args:
        names: `cpu`, `cuda`, ... as probed here, or a published GPU such as `H100 PCIe`. No names
            means every device probed here, and the `COMMON` ones.

    Raises:
        UserError: a name is neither, or the store of this machine is damaged.
    """
    probed = read_rates()
    wanted = list(names)
    if not wanted:
        return (*probed, *filter(None, map(published, COMMON)))
    return tuple(_named(name, probed) for name in wanted)


def _named(name: str, probed: Iterable[Rates]) -> Rates:
    here = {rates.device: rates for rates in probed}
    if name in here:
        return here[name]
    if is_device_name(name):
        raise UserError(
            f"--device: {name} has not been probed on this machine: run kvbench probe.",
            kind="not_probed",
            device=name,
        )
    found = published(name)
    if found is None:
        boards = [board for peak in peaks() for board in peak.names]
        hint = did_you_mean(name, boards)
        raise UserError(
            f"--device: '{clip(name)}' is unknown; known: {', '.join(boards)}{hint}",
            kind="unknown_choice",
            option="--device",
            value=name,
        )
    return found


def _uuid(environment: Environment, device: str) -> str | None:
    return next((d.uuid for d in environment.devices if d.name == device), None)


def _normal(name: str) -> str:
    words = name.lower().split()
    while words and words[0] in ("nvidia", "tesla"):
        words = words[1:]
    return " ".join(words)
