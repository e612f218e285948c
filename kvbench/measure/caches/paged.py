"""Continuous batching: keys and values in the pages of a pool, with a dedicated driver."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from kvbench.measure.caches.call import Call, Driven, Look
from kvbench.measure.clock import TokenClock

__all__ = ["ContinuousBatching", "PagedCache", "eager"]

_WAIT_S = 1.0
"""Seconds to wait for a result before checking whether the generating thread is alive."""


def eager(call: Call) -> ContinuousBatching:
    """Return the driver that runs each step eagerly."""
    return ContinuousBatching(call, use_cuda_graph=False, use_async_batching=False)


@dataclass(frozen=True, eq=False)
class PagedCache:
    """The cache of a continuous batch.

    Attributes:
        pool: all pages, bytes, `[1, size]`.
        page_size: positions of a page.
        pages: pages of the pool that requests can use, for all layers together.
        used_pages: pages that the requests used in the end.
        kv_cache_bytes: bytes of the positions that a step attends to.
    """

    pool: torch.Tensor
    page_size: int
    pages: int
    used_pages: int
    kv_cache_bytes: int

    @property
    def occupancy(self) -> float:
        """The fraction of pages in use."""
        return self.used_pages / self.pages


class ContinuousBatching:
    """One request per sequence, all present from the start, in a pool that just holds them.

    The pool is allocated and graphs are recorded before anything is timed, as in a server. Requests
    have no padding, and equal prompts share no pages: each is computed separately.

    Args:
        call: the generation.
        options: further settings of Transformers' `ContinuousBatchingConfig`.
    """

    def __init__(self, call: Call, **options: Any) -> None:
        self._call = call
        model: Any = call.loaded.model
        self._model = model
        self._attention = model.config._attn_implementation
        mask = call.inputs.attention_mask.bool()
        self._prompts: list[list[int]] = [
            ids[kept].tolist() for ids, kept in zip(call.inputs.input_ids, mask, strict=True)
        ]
        self._page_size = int(call.settings["page"])
        lengths = [len(prompt) + call.new_tokens - 1 for prompt in self._prompts]
        self._used_pages = sum(-(-length // self._page_size) for length in lengths)
        self._attended = _attended_bytes(call, lengths)
        settings: dict[str, Any] = {
            _page_word(): self._page_size,
            "num_blocks": self._blocks(),
            "max_batch_tokens": sum(map(len, self._prompts)),
            "max_requests_per_batch": len(self._prompts),
            "allow_block_sharing": False,
            "auto_switch_to_flash": False,
            # Put all requests in the first batch, including those that take the last pages.
            "safety_margin": 0.0,
            **options,
        }
        greedy: dict[str, Any] = {
            "max_new_tokens": call.new_tokens,
            "do_sample": False,
            # No token has this id: nothing ends early.
            "eos_token_id": -1,
        }
        self._manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig.from_dict(greedy),
            continuous_batching_config=ContinuousBatchingConfig(**settings),
        )
        try:
            self._manager.warmup()
        except BaseException:
            self.close()
            raise

    def _blocks(self) -> int:
        """Return how many pages the pool needs, for all layers together.

        Layers with a window have pages of another size, and each request may leave one of them
        partly filled.
        """
        text = self._call.config
        windows = getattr(text, "sliding_window", None) is not None
        return self._used_pages + (len(self._prompts) if windows else 0)

    def run(
        self,
        *,
        clock: TokenClock | None = None,
        keep_logits: bool = False,
        along: torch.Tensor | None = None,
        look: Look | None = None,
    ) -> Driven:
        """Generate, as described in `Driver.run`.

        Raises:
            RuntimeError: a request failed; the message is its error.
        """
        kept: list[torch.Tensor] = []

        def see(logits: torch.Tensor) -> None:
            if keep_logits:
                kept.append(logits.float().cpu())
            if look is not None:
                look(logits)

        wanted = keep_logits or along is not None or look is not None
        watching = self._watching(see, along) if wanted else contextlib.nullcontext()
        if clock is not None:
            clock.put(None)
        with watching:
            # Before the thread starts, so all requests are in the first batch.
            names = self._manager.add_requests(
                self._prompts, max_new_tokens=self._call.new_tokens, record_timestamps=True
            )
            self._manager.start()
            results = self._results(len(names))
        outputs = [results[name] for name in names]
        if clock is not None:
            stamps = zip(*(output.timestamps for output in outputs), strict=True)
            # A token counts once all sequences have theirs.
            clock.note([max(step) for step in stamps])
        new_ids = torch.tensor([output.generated_tokens for output in outputs])
        ids = self._call.inputs.input_ids
        sequences = torch.cat([ids, new_ids.to(ids)], dim=1)
        logits = torch.stack(kept, dim=1) if keep_logits else None
        return Driven(sequences, self._cache(), logits)

    def close(self) -> None:
        """Stop the thread and free the pool."""
        self._manager.stop(block=True)
        self._manager.destroy()
        if self._model.config._attn_implementation != self._attention:
            # The library restores this only if its thread has run.
            self._model.set_attn_implementation(self._attention)

    def _results(self, count: int) -> dict[str, Any]:
        results: dict[str, Any] = {}
        while len(results) < count:
            result = self._manager.get_result(timeout=_WAIT_S)
            if result is not None and result.error is not None:
                # Errors show only here.
                raise RuntimeError(result.error)
            if result is not None and result.is_finished():
                results[result.request_id] = result
            if result is None and not self._manager.is_running():
                raise RuntimeError("continuous batching stopped before all requests were finished")
        return results

    def _cache(self) -> PagedCache:
        cache = self._manager.batch_processor.cache
        return PagedCache(
            cache.cache_tensor.view(1, -1),
            self._page_size,
            cache.num_blocks,
            self._used_pages,
            self._attended,
        )

    @contextlib.contextmanager
    def _watching(self, see: Look, along: torch.Tensor | None) -> Iterator[None]:
        """Pass on the logits of each step, and select the given tokens whatever the logits say."""
        step = 0

        def hook(_module: Any, _args: Any, options: dict[str, Any], output: Any) -> Any:
            nonlocal step
            logits = output.logits
            if logits.shape[1] != len(self._prompts):
                # The model returns the logits of all positions; the last one of each request is
                # among them.
                logits = logits[:, options["logits_indices"]]
            see(logits[0])
            if along is not None:
                output.logits = _led(output.logits, logits.shape[1], along[:, step], options)
            step += 1
            return output

        handle = self._model.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _led(
    logits: torch.Tensor, requests: int, chosen: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Return logits, `[1, positions, vocabulary]`, that are largest for the chosen tokens.

    They are copies: changing them in place would change what was passed on.
    """
    whole = torch.full_like(logits[0], -torch.inf)
    places = torch.arange(requests, device=logits.device)
    if logits.shape[1] != requests:
        places = options["logits_indices"]
    whole[places, chosen.to(logits.device)] = 0.0
    return whole[None]


def _page_word() -> str:
    """Return the option name for the size of a page: Transformers renamed it in 5.17."""
    known = inspect.signature(ContinuousBatchingConfig).parameters
    return "page_size" if "page_size" in known else "block_size"


def _attended_bytes(call: Call, lengths: list[int]) -> int:
    """Return the bytes of the keys and values of all positions that a step attends to."""
    # Imported here, since verification builds on this package.
    from kvbench.measure.verify.expected import decoder_layers

    width = torch.finfo(call.loaded.model.dtype).bits // 8
    total = 0
    for plan in decoder_layers(call.config):
        numbers = 2 * (plan.kv_heads or 0) * (plan.head_dim or 0)
        for length in lengths:
            seen = length if plan.window is None else min(length, plan.window - 1)
            total += numbers * seen * width
    return total
