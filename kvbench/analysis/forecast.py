"""Forecast the cost of each case before it runs, from theory and from earlier samples."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvbench.analysis.generated import (
    generations_of,
    is_sampled,
    longest_of,
    rough_prompt_tokens,
    round_key,
)
from kvbench.caches import BASELINE, strategy
from kvbench.catalogue import CATALOGUE
from kvbench.device_kinds import kind_of
from kvbench.dtypes import dtype_bytes
from kvbench.errors import UserError
from kvbench.plan.case import Case, ModelKey, split
from kvbench.plan.plan import Plan
from kvbench.records.rates import Rates
from kvbench.records.sample import Sample
from kvbench.theory.architecture import Architecture
from kvbench.theory.cache import cache_bytes
from kvbench.theory.floors import floor
from kvbench.theory.weights import weights_bytes

__all__ = [
    "LONG_S",
    "Forecast",
    "Forecaster",
    "Rounds",
    "forecast_of",
    "peak_bytes",
    "rounds_of",
    "share_of_trace",
]

LONG_S = 3600.0
"""A case that is likely to take longer than this gets a warning."""

Rounds = Callable[[float], tuple[int, int]]
"""The wanted and the largest number of samples of a case whose samples take this many seconds."""

_WARMUP_TOKENS = 16
_VERIFY_TOKENS = 32
_VERIFY_GENERATIONS = 8
"""Roughly what `kvbench verify` generates with the cache; without it, one generation."""

_LOAD_S = 2.0
_LOAD_BYTES_PER_S = 1e9

_TRUST = 0.001
"""The weight of the prior belief, relative to one sample."""

_NOMINAL_PARAMETERS = 1e9
_NOMINAL_LAYERS = 24
"""The nominal model used while theory knows nothing about it; the first sample corrects it."""


def rounds_of(plan: Plan) -> Rounds:
    """Return how many samples a plan wants of a case, as far as its time decides it.

    The spread of the samples is not known in advance; it is assumed to be small.
    """

    def rounds(seconds: float) -> tuple[int, int]:
        if plan.repeats is not None:
            return plan.repeats, plan.repeats
        most = min(plan.max_repeats, max(1, math.floor(plan.max_case_seconds / seconds)))
        wanted = max(plan.min_repeats, math.ceil(plan.min_seconds / seconds))
        return min(wanted, most), most

    return rounds


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast cost of a plan, before anything runs.

    Attributes:
        seconds: seconds for the whole plan.
        peak_bytes: the most bytes that weights and cache of one case take; None if theory cannot
            tell.
        long: the cases likely to take hours, each with the seconds of all its samples.
    """

    seconds: float
    peak_bytes: int | None
    long: tuple[tuple[Case, float], ...]


def forecast_of(
    plan: Plan,
    cases: Sequence[Case],
    rates: Callable[[str], Rates | None] = lambda device: None,
) -> Forecast:
    """Return the forecast cost of the cases of a plan."""
    forecaster = Forecaster(
        cases, rounds_of(plan), rates=rates, warmup=plan.warmup, verify=plan.verify
    )
    long = tuple((case, forecaster.case_seconds(case)) for case in forecaster.long_cases())
    return Forecast(forecaster.remaining_s, peak_bytes(cases), long)


def share_of_trace(
    cases: Iterable[Case], rates: Callable[[str], Rates | None] = lambda device: None
) -> float:
    """Return the share of the time of a round that the generations of `--method trace` take.

    Args:
        cases: of the method `each`.
        rates: what is known of a device.
    """
    cases = tuple(cases)
    forecaster = Forecaster(cases, lambda seconds: (1, 1), rates=rates)
    traced = longest_of(dataclasses.replace(case, method="trace") for case in cases)
    took = sum(map(forecaster.seconds, traced))
    return took / sum(map(forecaster.seconds, cases))


def peak_bytes(
    cases: Iterable[Case], configs: Mapping[str, Mapping[str, Any]] | None = None
) -> int | None:
    """Return the most bytes that weights and cache of one case take; None if theory cannot tell.

    Activations and the memory of libraries are not included.
    """
    found = [_bytes_of(case, _architecture(case.model, configs or {})) for case in cases]
    known = [size for size in found if size is not None]
    return max(known) if len(known) == len(found) and known else None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A timed generation: its parts in seconds as first believed, and its measured time."""

    parts: np.ndarray
    seconds: float


class Forecaster:
    """Predict the cost of cases, and learn from each sample.

    A generation is modeled as a sum of three parts: steps of a fixed cost, bytes that are read, and
    arithmetic. Theory gives the growth of each with the length. The machine's speed at each comes
    first from a probe, or from a guess by the kind of device; then it is fitted to the samples of
    the strategy. A case that was timed costs what it took.

    Args:
        cases: all cases to be measured.
        rounds: the wanted samples of each; see `rounds_of`.
        configs: configurations of models, as in config.json; built-in ones are known.
        rates: the known rates of a device.
        warmup: the plan's key.
        verify: whether strategies are verified.
    """

    def __init__(
        self,
        cases: Iterable[Case],
        rounds: Rounds,
        *,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        rates: Callable[[str], Rates | None] = lambda device: None,
        warmup: str = "auto",
        verify: bool = True,
    ) -> None:
        self._cases = {case.id: case for case in cases}
        self._rounds = rounds
        self._configs = dict(configs or {})
        self._rates = rates
        self._warmup = warmup
        self._parts: dict[tuple[Case, int], np.ndarray] = {}
        self._own: dict[Case, list[float]] = {case: [] for case in self._cases.values()}
        self._sampling: dict[Case, list[float]] = {}
        self._seen: dict[tuple[ModelKey, str], list[_Seen]] = {}
        self._first: dict[tuple[ModelKey, str], list[_Seen]] = {}
        self._warm: set[Case] = set()
        self._ended: set[Case] = set()
        self._to_load = {case.model_key for case in self._cases.values()}
        self._to_verify = {
            (case.model_key, case.cache)
            for case in self._cases.values()
            if verify and case.cache != BASELINE
        }

    def note(self, sample: Sample) -> None:
        """Update the forecast from a finished sample."""
        case = self._cases.get(sample.case_id)
        if case is None:
            return
        self._warm.add(case)
        self._to_load.discard(case.model_key)
        tokens = sample.new_tokens
        if sample.phase == "measure" and is_sampled(case):
            # An estimate of a generation that was not made.
            tokens = case.max_new_tokens
        if sample.status != "ok" or not sample.total_s or not tokens or sample.phase == "memory":
            return
        key = (case.model_key, case.cache)
        seen = self._seen if sample.phase == "measure" else self._first
        parts = self._parts_of(case, tokens)
        seen.setdefault(key, []).append(_Seen(parts, sample.total_s))
        if sample.phase == "measure":
            self._own[case].append(sample.total_s)
        if sample.sampling_s is not None:
            self._sampling.setdefault(case, []).append(sample.sampling_s)

    def loaded(self, model: ModelKey, config: Mapping[str, Any] | None = None) -> None:
        """Record that a model was loaded, and its configuration."""
        self._to_load.discard(model)
        if config and model.model not in self._configs:
            self._configs[model.model] = config
            self._parts = {k: v for k, v in self._parts.items() if k[0].model != model.model}

    def verified(self, model: ModelKey, cache: str) -> None:
        """Record that a strategy was verified."""
        self._to_verify.discard((model, cache))

    def ended(self, case: Case) -> None:
        """Record that no further sample of a case is taken."""
        self._ended.add(case)

    def seconds(self, case: Case, new_tokens: int | None = None) -> float:
        """Return the seconds of one generation of a case, or of a shorter one of its kind."""
        tokens = case.max_new_tokens if new_tokens is None else new_tokens
        if tokens == case.max_new_tokens and self._own.get(case):
            return statistics.median(self._own[case])
        return self._modeled(dataclasses.replace(case, max_new_tokens=tokens))

    def sample_seconds(self, case: Case) -> float:
        """Return how long one sample of a case takes, in seconds."""
        if not is_sampled(case):
            return self.seconds(case)
        if case in self._sampling:
            return statistics.median(self._sampling[case])
        return sum(map(self._modeled, self._taken().get(case, ())))

    def case_seconds(self, case: Case) -> float:
        """Return how long the remaining samples of a case will take, in seconds."""
        return self._left(self._group(case)).get(case, 0) * self.sample_seconds(case)

    @property
    def informed(self) -> bool:
        """Whether anything was timed; until then a prediction is only right within a factor."""
        return any(self._own.values())

    @property
    def remaining_s(self) -> float:
        """The seconds until the end: samples, warm-ups, verification and loading."""
        total = 0.0
        for group in split(self._taken(), round_key):
            for case, left in self._left(group).items():
                total += left * self.sample_seconds(case)
                total += 0.0 if case in self._warm else self._warmup_s(case)
        total += sum(self._verify_s(*key) for key in self._to_verify)
        return total + sum(self._load_s(model) for model in self._to_load)

    def long_cases(self, above_s: float = LONG_S) -> tuple[Case, ...]:
        """Return the cases that are likely to take longer than this many seconds."""
        return tuple(case for case in self._cases.values() if self.case_seconds(case) > above_s)

    def _group(self, case: Case) -> list[Case]:
        key = round_key(case)
        return [one for one in self._taken() if round_key(one) == key]

    def _taken(self) -> Mapping[Case, Sequence[Case]]:
        """Return the cases that have not ended and have samples of their own.

        Each comes with the generations of one sample.
        """
        return generations_of(case for case in self._cases.values() if case not in self._ended)

    def _left(self, group: Iterable[Case]) -> dict[Case, int]:
        """Return the samples still wanted of each member of a comparison group.

        The members continue together. If each has the wanted samples and more are allowed, a group
        that has not ended takes at least one more round.
        """
        members = [case for case in group if case not in self._ended]
        if not members:
            return {}
        asked = [self._rounds(max(self.sample_seconds(case), 1e-9)) for case in members]
        most = min(most for _, most in asked)
        wanted = min(max(need for need, _ in asked), most)
        left = {case: max(wanted - len(self._own[case]), 0) for case in members}
        return left if any(left.values()) or wanted == most else dict.fromkeys(members, 1)

    def _warmup_s(self, case: Case) -> float:
        full = self._warmup == "full" or strategy(case.cache).warmup == "full"
        if full and not is_sampled(case):
            return self.seconds(case)
        tokens = int(self._warmup) if self._warmup.isdecimal() else _WARMUP_TOKENS
        return self.seconds(case, min(tokens, case.max_new_tokens))

    def _verify_s(self, model: ModelKey, cache: str) -> float:
        """Return the cost of verification: short generations, and one as long as the longest."""
        cases = [one for one in self._cases.values() if one.model_key == model]
        own = [one for one in cases if one.cache == cache and one not in self._ended]
        if not own:
            return 0.0
        longest = max(own, key=lambda case: (case.max_new_tokens, case.batch_size))
        tokens = min(_VERIFY_TOKENS, longest.max_new_tokens)
        without = next((one for one in cases if one.cache == BASELINE), longest)
        short = _VERIFY_GENERATIONS * self.seconds(longest, tokens) + self.seconds(without, tokens)
        return short + self.sample_seconds(longest)

    def _load_s(self, model: ModelKey) -> float:
        architecture = _architecture(model.model, self._configs)
        try:
            size = weights_bytes(architecture, model.dtype) if architecture else 0
        except UserError:
            size = 0
        return _LOAD_S + size / _LOAD_BYTES_PER_S

    def _modeled(self, case: Case) -> float:
        """Return the expected seconds of one generation of a case, from its strategy's samples."""
        parts = self._parts_of(case, case.max_new_tokens)
        return float(parts @ self._speed(case.model_key, case.cache, float(parts.sum())))

    def _speed(self, model: ModelKey, cache: str, near: float) -> np.ndarray:
        """Return how long each part takes, relative to the first belief, `[3]`.

        `near` is the size of the predicted quantity, as first believed.
        """
        everywhere = self._all_seen(lambda key: True)
        here = self._all_seen(lambda key: key[0] == model)
        speed = np.ones(3)
        if everywhere:
            # Before anything else is fitted: the overall speed of this machine.
            speed *= statistics.median(one.seconds / one.parts.sum() for one in everywhere)
        for seen in (here, self._all_seen(lambda key: key == (model, cache))):
            speed = _fit(seen, speed, near)
        return speed

    def _all_seen(self, wanted: Callable[[tuple[ModelKey, str]], bool]) -> list[_Seen]:
        """Return the timed generations; warm-ups, whose process is new, only as a last resort."""
        keys = [key for key in {**self._seen, **self._first} if wanted(key)]
        return [one for key in keys for one in self._seen.get(key) or self._first.get(key, [])]

    def _parts_of(self, case: Case, tokens: int) -> np.ndarray:
        if (case, tokens) not in self._parts:
            rates = self._rates(case.device)
            if rates is None or case.dtype not in rates.flops_per_s:
                rates = _rough(case)
            architecture = _architecture(case.model, self._configs)
            self._parts[case, tokens] = _parts(case, tokens, architecture, rates)
        return self._parts[case, tokens]


def _fit(seen: list[_Seen], believed: np.ndarray, near: float) -> np.ndarray:
    """Return the non-negative speeds that best explain the times, by squared relative errors.

    Times far smaller or larger than the predicted quantity count less: no three-part model holds
    from ten tokens to thousands.
    """
    from scipy.optimize import nnls

    if not seen:
        return believed
    # A part found to cost nothing may still cost something with another strategy.
    believed = np.maximum(believed, 1e-3 * believed.max())
    seconds = np.array([one.seconds for one in seen])
    parts = np.array([one.parts for one in seen])
    sizes = parts.sum(axis=1)
    weights = np.sqrt(np.minimum(sizes, near) / np.maximum(sizes, near))
    trust = math.sqrt(_TRUST) * float(weights.max())
    found, _ = nnls(
        np.vstack([parts / seconds[:, None] * weights[:, None], trust * np.diag(1 / believed)]),
        np.concatenate([weights, np.full(3, trust)]),
    )
    return np.asarray(found)


def _parts(case: Case, tokens: int, architecture: Architecture | None, rates: Rates) -> np.ndarray:
    """Return the seconds of steps, bytes and arithmetic of a generation, `[3]`."""
    cached = strategy(case.cache).use_cache
    prompt = rough_prompt_tokens(case)
    layer_s = rates.layer_s or _rough(case).layer_s or 0.0
    if architecture is not None:
        try:
            # What a step of another strategy reads is not known; it is assumed to grow as for
            # dynamic.
            least = floor(
                architecture,
                "dynamic" if cached else BASELINE,
                case.batch_size,
                prompt,
                tokens,
                case.dtype,
                rates,
            )
        except UserError:
            pass
        else:
            return np.array(
                [
                    tokens * len(architecture.layers) * layer_s,
                    least.moved.sum() / least.bytes_per_s,
                    least.flops.sum() / least.flops_per_s,
                ]
            )
    fed = prompt + tokens if cached else tokens * prompt + tokens * tokens / 2
    moved = tokens * _NOMINAL_PARAMETERS * dtype_bytes(case.dtype)
    flops = 2 * _NOMINAL_PARAMETERS * case.batch_size * fed
    return np.array(
        [
            tokens * _NOMINAL_LAYERS * layer_s,
            moved / rates.read_bytes_per_s,
            flops / rates.flops_per_s[case.dtype],
        ]
    )


def _rough(case: Case) -> Rates:
    """Return rates for an unknown device, right only within a small factor."""
    host = kind_of(case.device).is_host
    flops = 1e11 if host else (2e13 if case.dtype == "float32" else 2e14)
    return Rates(
        device=case.device,
        hardware="",
        source="published",
        read_bytes_per_s=1e10 if host else 1e12,
        flops_per_s={case.dtype: flops},
        layer_s=1e-3,
    )


def _architecture(model: str, configs: Mapping[str, Mapping[str, Any]]) -> Architecture | None:
    config = configs.get(model) or (CATALOGUE[model].config if model in CATALOGUE else None)
    if config is None:
        return None
    try:
        return Architecture.from_config(config)
    except UserError:
        # A family that theory cannot read: use the nominal model.
        return None


def _bytes_of(case: Case, architecture: Architecture | None) -> int | None:
    if architecture is None:
        return None
    try:
        sizes = (case.batch_size, rough_prompt_tokens(case), case.max_new_tokens)
        weights = weights_bytes(architecture, case.dtype, random=case.weights == "random")
        return weights + cache_bytes(architecture, case.cache, *sizes, case.dtype)
    except UserError:
        return None
