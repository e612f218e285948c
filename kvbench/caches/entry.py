"""The entry of a cache strategy, and the plain records passed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from kvbench.caches.held import Held, no_spare_room, on_device
from kvbench.caches.kept import KeptLayer, kept_plainly, window_positions
from kvbench.caches.parameters import Parameter, Settings, read_settings

__all__ = ["CacheStrategy", "Need", "Parameter", "Settings", "Situation", "needs_kind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the needs of a strategy are checked against: a device and a model.

    Attributes:
        device: the kind of device: `cpu`, `cuda`.
        encoder_decoder: whether an encoder reads the prompt.
        windows: whether a layer of the model has a sliding window.
        sees_all: whether some attention layer sees all positions.
        key_numbers: numbers in the keys of one position in a layer, over all heads; null if the
            configuration does not say.
        pages: whether continuous batching accepts the model and its attention.
        cache_objects: whether the model accepts a cache object of Transformers.
        versions: installed packages and their versions.
        dtype: of the weights.
        keys_in_every_layer: whether every layer of the model keeps its own keys and values, and
            nothing else.
        has_states: whether some layer keeps a state that is not keys and values.
        takes_buffers: whether attention accepts a buffer of keys with empty slots at its end.
        takes_fewer_keys: whether attention accepts fewer keys than positions in its mask.
        driver: what calls the model, an axis of a case.
        reuse: how long the cache of a conversation lives, an axis of a case.
    """

    device: str
    versions: Mapping[str, str] = field(default_factory=dict)
    encoder_decoder: bool = False
    windows: bool = False
    sees_all: bool = True
    key_numbers: int | None = None
    pages: bool = True
    cache_objects: bool = True
    dtype: str = "float32"
    keys_in_every_layer: bool = True
    has_states: bool = False
    takes_buffers: bool = True
    takes_fewer_keys: bool = True
    driver: str = "generate"
    reuse: str = "turn"


@dataclass(frozen=True, slots=True)
class Need:
    """A requirement of a strategy.

    Attributes:
        met: whether a situation meets it, with these settings.
        sentence: what is shown if it is not met; the strategy's name is prepended.
        label: a short name of the requirement, for tables.
        of_machine: whether it is about the machine and its software, not about the model.
        packages: packages whose versions it checks.
        only_with: a parameter, and the values of it that have this need; null if all have it.
        device: the only kind of device that meets it; null if it is not about the device.
    """

    met: Callable[[Situation, Settings], bool]
    sentence: str
    label: str
    of_machine: bool = False
    packages: tuple[str, ...] = ()
    only_with: tuple[str, tuple[str, ...]] | None = None
    device: str | None = None

    def applies(self, settings: Settings) -> bool:
        """Return whether a strategy with these settings has this need."""
        return self.only_with is None or settings.get(self.only_with[0]) in self.only_with[1]


def needs_kind(device: str, sentence: str, label: str) -> Need:
    """Return the need for one kind of device, named as in kvbench/device_kinds.py."""
    return Need(
        lambda here, _: here.device == device, sentence, label, of_machine=True, device=device
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStrategy:
    """A way to keep, or not to keep, keys and values between decoding steps.

    Attributes:
        name: as written on the command line and in the `cache` column.
        description: one line for help and docs.
        body: the function that makes the cache for one generation, as `module:function`; see
            kvbench/measure/caches/. A string, which the worker resolves, because the entry must not
            import torch.
        use_cache: Transformers' flag of that name.
        lossy: whether the tokens may differ from those without a cache.
        warmup: `short` if a few tokens warm everything up, `full` if buffers or compiled code
            depend on the full length.
        compiles: whether generations compile code; count and time are recorded.
        attends: what a step reads: `nothing`, the positions `seen` so far, the whole `buffer`, or
            data stored `elsewhere` or in another form. Lower bounds are known for the first two.
        needs: its requirements. An unmet requirement makes a row `unsupported`.
        positions: returns how many positions a layer keeps, from the number of seen positions, the
            model's window (null if it sees all) and the settings. Used by verification and theory.
        kept: returns the bytes that an attention layer holds for all sequences after a generation,
            from the layer, the number of positions and the settings.
        room: returns the positions that a layer allocates, from the layer, the number of positions
            that it keeps and the settings; more than these if buffers or blocks have spare room.
        holds: returns where the bytes of the layers lie; by default in the device's memory.
        converts: whether each step converts what is kept to the model's dtype before it attends.
        parameters: its configurable parameters.
        settings: the parameter values, as read by `with_settings`.
    """

    name: str
    description: str
    body: str
    use_cache: bool = True
    lossy: bool = False
    warmup: Literal["short", "full"] = "short"
    compiles: bool = False
    attends: Literal["nothing", "seen", "buffer", "elsewhere"] = "seen"
    needs: tuple[Need, ...] = ()
    positions: Callable[[int, int | None, Settings], int] = window_positions
    kept: Callable[[KeptLayer, int, Settings], int] = kept_plainly
    room: Callable[[KeptLayer, int, Settings], int] = no_spare_room
    holds: Callable[[CacheStrategy, Sequence[KeptLayer]], Held] = on_device
    converts: bool = False
    parameters: tuple[Parameter, ...] = ()
    settings: Settings = field(default_factory=dict)

    def with_settings(self, texts: Mapping[str, str]) -> CacheStrategy:
        """Return this strategy with values for its parameters, under its canonical name.

        The name lists the parameters in order and omits defaults.

        Raises:
            UserError: a parameter is unknown or missing, or a value is invalid.
        """
        name, settings = read_settings("cache", self.name, self.parameters, texts)
        return replace(self, name=name, settings=settings)

    def positions_kept(self, seen: int, window: int | None) -> int:
        """Return how many positions a layer keeps after `seen` ones were fed."""
        return self.positions(seen, window, self.settings) if self.use_cache else 0

    def bytes_kept(self, layer: KeptLayer) -> int:
        """Return the bytes that one layer of attention holds, for all sequences."""
        return self.kept(layer, self.positions_kept(layer.seen, layer.window), self.settings)

    def bytes_allocated(self, layer: KeptLayer) -> int:
        """Return the same with the spare room of its buffers or blocks."""
        positions = self.positions_kept(layer.seen, layer.window)
        return self.kept(layer, self.room(layer, positions, self.settings), self.settings)

    def held(self, layers: Sequence[KeptLayer]) -> Held:
        """Return the bytes of these layers and where they are."""
        return self.holds(self, layers)

    def unmet(self, situation: Situation) -> str | None:
        """Return why this strategy cannot run in a situation, as a sentence; None if it can."""
        return self._first_unmet(self.applying_needs, situation)

    def unmet_here(self, situation: Situation) -> str | None:
        """Return the same for what the machine lacks, regardless of the model."""
        of_machine = [need for need in self.applying_needs if need.of_machine]
        return self._first_unmet(of_machine, situation)

    def unmet_by_model(self, situation: Situation) -> str | None:
        """Return the same for what the model lacks, whatever the machine."""
        of_model = [need for need in self.applying_needs if not need.of_machine]
        return self._first_unmet(of_model, situation)

    def lacks_kind(self, device: str) -> str | None:
        """Return why this strategy cannot run on a kind of device, as a sentence."""
        wrong = (need for need in self.applying_needs if need.device not in (None, device))
        missing = next(wrong, None)
        return None if missing is None else f"{self.name}: {missing.sentence}"

    @property
    def applying_needs(self) -> list[Need]:
        """The needs that this strategy has with its settings."""
        return [need for need in self.needs if need.applies(self.settings)]

    def _first_unmet(self, needs: Iterable[Need], situation: Situation) -> str | None:
        missing = next((need for need in needs if not need.met(situation, self.settings)), None)
        return None if missing is None else f"{self.name}: {missing.sentence}"
