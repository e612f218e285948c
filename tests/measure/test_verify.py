"""Tests of kvbench/measure/verify: healthy models pass, planted faults are identified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kvbench.caches import STRATEGIES, CacheStrategy
from kvbench.errors import UserError
from kvbench.measure.verify import verify
from kvbench.models.load import LoadedModel
from kvbench.records.check import Check, failed
from kvbench.records.finding import findings
from tests.measure import verify_faults as faults
from tests.tiny import BART, GPT2, LLAMA, MISTRAL, T5, VOCABULARY, Config, config_folder, load

SMALL: Config = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA3: Config = SMALL | {
    "model_type": "gemma3_text",
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
GEMMA3N: Config = SMALL | {
    "model_type": "gemma3n_text",
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * 4,
    "intermediate_size": [96] * 4,
}
FALCON: Config = {
    "model_type": "falcon",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "multi_query": True,
    "alibi": False,
}
DEEPSEEK: Config = SMALL | {
    "model_type": "deepseek_v2",
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
LFM2: Config = SMALL | {"model_type": "lfm2", "layer_types": ["conv", "full_attention"] * 2}
HEALTHY: dict[str, Config] = {
    "gpt2": GPT2,
    "gpt2, 6 positions": GPT2 | {"n_positions": 6},
    "llama": LLAMA,
    "mistral, above the window": MISTRAL,
    "mistral, into the window": MISTRAL | {"sliding_window": 12},
    "mistral, below the window": MISTRAL | {"sliding_window": 64},
    "t5": T5,
    "t5, fewer decoder layers": T5 | {"num_decoder_layers": 1},
    "bart, 10 positions": BART | {"max_position_embeddings": 10},
    "gemma3": GEMMA3,
    "gemma3n, shared keys and values": GEMMA3N,
    "falcon, one head": FALCON,
    "deepseek, latent": DEEPSEEK,
    "lfm2, convolutions": LFM2,
}
KINDS = ["tokens", "tokens", "logits", "logits", "shape", "shape", "leak"]


def make(path: Path, config: Config, dtype: str = "float32", **changes: Any) -> LoadedModel:
    return load(config_folder(path, config, **changes), dtype=dtype)


def run(loaded: LoadedModel, cache: str = "dynamic") -> tuple[Check, ...]:
    return verify(loaded, cache, new_tokens=12, generations=3)


def one(checks: Sequence[Check], kind: str, batch_size: int = 1, dtype: str = "float32") -> Check:
    found = [
        check
        for check in checks
        if (check.check, check.batch_size, check.checked_dtype) == (kind, batch_size, dtype)
    ]
    assert len(found) == 1
    return found[0]


def verdicts(checks: Sequence[Check]) -> dict[str, set[str]]:
    kinds = dict.fromkeys(check.check for check in checks)
    return {k: {check.verdict for check in checks if check.check == k} for k in kinds}


PASS = {"tokens": {"pass"}, "logits": {"pass"}, "shape": {"pass"}, "leak": {"pass"}}


@pytest.mark.parametrize("config", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_model_passes_each_check(tmp_path: Path, config: Config) -> None:
    checks = run(make(tmp_path, config))
    assert verdicts(checks) == PASS, [check.detail for check in checks]
    assert [check.check for check in checks] == KINDS
    assert {check.checked_dtype for check in checks} == {"float32"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_in_a_coarse_dtype_the_verdict_is_taken_in_float32(
    tmp_path: Path, config: Config, dtype: str
) -> None:
    checks = run(make(tmp_path, config, dtype))
    assert not failed(checks)
    for batch_size in (1, 4):
        exact, timed = (one(checks, "logits", batch_size, name) for name in ("float32", dtype))
        assert (exact.verdict, timed.verdict) == ("pass", "pass")
        assert exact.rms_over_std < 1e-5 < timed.rms_limit
        assert timed.rms_over_std < timed.rms_limit
        assert one(checks, "tokens", batch_size).verdict == "pass"
        assert one(checks, "tokens", batch_size, dtype).verdict in ("pass", "near_tie")
        assert one(checks, "shape", batch_size, dtype).verdict == "pass"
    assert {check.dtype for check in checks} == {dtype}
    assert len(checks) == len(KINDS) + 4


def test_the_rows_say_what_was_run(tmp_path: Path) -> None:
    checks = verify(make(tmp_path, LLAMA), "dynamic", new_tokens=12, generations=2)
    sizes = {(check.check, check.batch_size): check.new_tokens for check in checks}
    assert sizes == {
        ("tokens", 1): 12,
        ("tokens", 4): 3,
        ("logits", 1): 12,
        ("logits", 4): 3,
        ("shape", 1): 12,
        ("shape", 4): 3,
        ("leak", 1): 2,
    }
    assert {check.prompt_tokens for check in checks} == {8}
    assert {check.cache for check in checks} == {"dynamic"}
    assert one(checks, "tokens").agreement == 1.0
    assert one(checks, "leak").generations == 2
    assert one(checks, "shape").detail.endswith("final shape [1, 2, 19, 16].")


def test_the_seed_chooses_the_prompt(tmp_path: Path) -> None:
    loaded = make(tmp_path, LLAMA)
    first, again, other = (
        one(verify(loaded, "dynamic", new_tokens=6, generations=1, seed=seed), "logits")
        for seed in (0, 0, 1)
    )
    assert first.rms_over_std == again.rms_over_std != other.rms_over_std


def test_a_window_that_was_not_filled_is_told(tmp_path: Path, snapshot: object) -> None:
    detail = one(run(make(tmp_path, MISTRAL, sliding_window=64)), "shape").detail
    assert detail == snapshot


def test_a_dropped_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(tmp_path, LLAMA)
    faults.drop_a_position(monkeypatch)
    checks = run(loaded)
    shape, logits = one(checks, "shape"), one(checks, "logits")
    assert shape.verdict == logits.verdict == "fail"
    told = "Layer 0 after step 1: it reports 8 positions seen, expected 9."
    assert shape.detail == told
    assert logits.rms_over_std > 1e-2
    assert one(checks, "leak").verdict == "pass"


def test_shuffled_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(tmp_path, LLAMA)
    faults.shuffle_heads(monkeypatch)
    checks = run(loaded)
    assert verdicts(checks) == PASS | {"tokens": {"fail"}, "logits": {"fail"}}
    tokens = one(checks, "tokens")
    assert 0 < tokens.agreement < 1
    assert tokens.parted_row == 0
    assert tokens.parted_at >= 2  # The prefill reads nothing from the cache.
    assert tokens.token_off != tokens.token_cached
    assert tokens.margin_over_std > 1e-3
    said = (
        f"Sequence 0 diverges at new token {tokens.parted_at} ({tokens.token_off}, with the cache "
    )
    assert tokens.detail.startswith(said)


def test_a_window_that_keeps_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(tmp_path, MISTRAL)
    faults.keep_a_position_too_many(monkeypatch)
    checks = run(loaded)
    # The mask hides the position, so nothing else is wrong.
    assert verdicts(checks) == PASS | {"shape": {"fail"}}
    told = "Layer 0 after the prefill: keys are [1, 2, 8, 16], expected [1, 2, 7, 16]."
    assert one(checks, "shape").detail == told


def test_a_zeroed_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(tmp_path, LLAMA)
    faults.zero_a_slot(monkeypatch)
    checks = run(loaded)
    assert verdicts(checks) == PASS | {
        "tokens": verdicts(checks)["tokens"],  # They may stay the same by chance.
        "logits": {"fail"},
    }
    assert one(checks, "logits").rms_over_std > 1e-3
    assert one(checks, "logits").floor_rms_over_std < 1e-5


def test_a_zeroed_slot_is_found_in_float32_when_bfloat16_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(tmp_path, LLAMA, "bfloat16")
    faults.zero_a_slot(monkeypatch)
    checks = run(loaded)
    assert {one(checks, "logits", size).verdict for size in (1, 4)} == {"fail"}
    assert failed(checks)


def test_a_fault_that_hides_in_bfloat16_is_found_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(tmp_path, LLAMA, "bfloat16")
    faults.zero_a_number(monkeypatch)
    checks = run(loaded)
    for size in (1, 4):
        assert one(checks, "logits", size, "bfloat16").verdict == "pass"
        assert one(checks, "logits", size, "float32").verdict == "fail"
        assert one(checks, "shape", size, "bfloat16").verdict == "pass"
    assert one(checks, "leak", 1, "bfloat16").verdict == "pass"


def test_kept_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: object) -> None:
    loaded = make(tmp_path, LLAMA)
    faults.keep_references(monkeypatch)
    checks = run(loaded)
    assert verdicts(checks) == PASS | {"leak": {"fail"}}
    leak = one(checks, "leak")
    # Keys and values of 2 layers, 2 heads of 16 in float32, for 8 + 2 - 1 positions, three times.
    assert leak.leaked_bytes == 3 * 2 * 2 * 2 * 16 * 4 * 9
    assert leak.detail == snapshot


def test_other_tensors_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(tmp_path, LLAMA)
    faults.keep_masks(monkeypatch)
    checks = run(loaded)
    assert verdicts(checks) == PASS | {"leak": {"fail"}}
    assert one(checks, "leak").leaked_bytes == 3 * 1024
    told = "All cache objects were freed, but the tensors tracked by Python grew by 3.0 KiB."
    assert one(checks, "leak").detail == told


@pytest.mark.parametrize(
    ("error", "verdict", "detail"),
    [
        (ValueError("no such layer"), "fail", "ValueError: no such layer"),
        (RuntimeError("CUDA error: 4"), "inconclusive", "RuntimeError: CUDA error: 4"),
        (MemoryError("too large"), "inconclusive", "MemoryError: too large"),
        (torch.OutOfMemoryError("full"), "inconclusive", "OutOfMemoryError: full"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_model_raises_is_a_row(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    error: Exception,
    verdict: str,
    detail: str,
) -> None:
    loaded = make(tmp_path, LLAMA, dtype)
    faults.fail_with(error)(monkeypatch)
    checks = run(loaded)
    *others, leak = checks
    assert {(check.verdict, check.detail) for check in others} == {(verdict, detail)}
    # Whether something would have leaked is unknown.
    assert (leak.check, leak.verdict, leak.detail) == ("leak", "inconclusive", detail)
    assert set(verdicts(checks)) == set(PASS)


def test_an_error_without_a_cache_accuses_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(tmp_path, LLAMA)
    forward = type(loaded.model).forward

    def failing(self: Any, *args: Any, past_key_values: Any = None, **options: Any) -> Any:
        if past_key_values is None:
            raise ValueError("no cache, no work")
        return forward(self, *args, past_key_values=past_key_values, **options)

    monkeypatch.setattr(type(loaded.model), "forward", failing)
    checks = run(loaded)
    assert verdicts(checks) == {key: {"inconclusive"} for key in PASS} | {"leak": {"pass"}}
    assert findings(checks)[0].verdict == "inconclusive"


def test_logits_that_are_no_numbers_without_a_cache_either_accuse_no_cache(tmp_path: Path) -> None:
    loaded = make(tmp_path, LLAMA)
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.fill_(torch.nan)
    checks = run(loaded)
    assert verdicts(checks)["logits"] == {"inconclusive"}
    assert not failed(checks)


XLNET: Config = {
    "model_type": "xlnet",
    "d_model": 32,
    "n_head": 4,
    "n_layer": 2,
    "d_inner": 48,
    "vocab_size": 97,
}


def test_a_model_with_the_logits_of_one_step_only_is_not_accused(
    tmp_path: Path, snapshot: object
) -> None:
    """XLNet: one forward over all tokens returns only the last logits (Transformers #5632)."""
    checks = run(make(tmp_path, XLNET))
    assert verdicts(checks) == PASS | {"logits": {"inconclusive"}, "shape": {"inconclusive"}}
    said = one(checks, "logits").detail
    (finding,) = findings(checks)
    assert finding.verdict == "inconclusive"
    assert said in finding.detail and finding.detail == snapshot


MODERNBERT: Config = SMALL | {
    "model_type": "modernbert-decoder",
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
}


def test_a_field_that_the_model_ignores_accuses_no_cache(tmp_path: Path, snapshot: object) -> None:
    """ModernBERT has as many key heads as query heads, whatever its configuration says."""
    checks = run(make(tmp_path, MODERNBERT))
    assert verdicts(checks) == PASS | {"shape": {"inconclusive"}}
    assert one(checks, "shape").detail == snapshot
    assert findings(checks)[0].verdict == "pass"


@pytest.mark.parametrize("fault", [faults.drop_a_position, faults.repeat_heads])
def test_a_cache_with_wrong_shapes_is_found_where_the_configuration_is_wrong_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: faults.Fault
) -> None:
    loaded = make(tmp_path, MODERNBERT)
    fault(monkeypatch)
    assert one(run(loaded), "shape").verdict == "fail"


PHI3: Config = {
    "model_type": "phi3",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
}


def test_a_batch_without_a_verdict_is_not_verified_by_another(tmp_path: Path) -> None:
    """Phi-3 changes its rotary factors at a length, with a cache and without (#33129)."""
    loaded = make(tmp_path, PHI3, original_max_position_embeddings=16)
    checks = verify(loaded, "dynamic", new_tokens=32, generations=3)
    found = {check.batch_size: check.verdict for check in checks if check.check == "logits"}
    assert found == {1: "inconclusive", 4: "pass"}
    (finding,) = findings(checks)
    assert finding.verdict == "inconclusive"
    (undecided,) = (check for check in checks if check.verdict == "inconclusive")
    assert undecided.detail in finding.detail


def test_where_float32_does_not_fit_there_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = make(tmp_path, LLAMA, "bfloat16")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    checks = run(loaded)
    undecided = {
        (check.check, check.checked_dtype) for check in checks if check.verdict == "inconclusive"
    }
    assert undecided == {("tokens", "float32"), ("logits", "float32"), ("logits", "bfloat16")}
    detail = one(checks, "logits").detail
    assert detail.startswith("MemoryError: ")
    assert not failed(checks)


def test_a_lossy_strategy_is_exempt_and_its_error_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "kvbench.measure.caches.dynamic:as_the_model_does"
    entry = CacheStrategy(name="rough", description="Changes tokens.", body=body, lossy=True)
    monkeypatch.setitem(STRATEGIES, "rough", entry)
    loaded = make(tmp_path, LLAMA, "bfloat16")
    faults.shuffle_heads(monkeypatch)
    checks = run(loaded, "rough")
    assert verdicts(checks) == PASS | {"tokens": {"exempt"}, "logits": {"exempt"}}
    assert one(checks, "logits").rms_over_std > 1e-2
    assert one(checks, "tokens").agreement < 1


def test_a_static_cache_is_judged_by_what_it_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "tests.measure.bodies:transformers_static"
    entry = CacheStrategy(name="fixed", description=".", body=body)
    monkeypatch.setitem(STRATEGIES, "fixed", entry)
    assert verdicts(run(make(tmp_path, LLAMA), "fixed")) == PASS
    assert verdicts(run(make(tmp_path, MISTRAL), "fixed")) == PASS


def test_a_model_without_a_cache_cannot_be_judged_by_its_shape(
    tmp_path: Path, snapshot: object
) -> None:
    config = {
        "model_type": "openai-gpt",
        "n_layer": 2,
        "n_embd": 64,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": VOCABULARY,
    }
    checks = run(make(tmp_path, config))
    assert verdicts(checks) == PASS | {"shape": {"inconclusive"}}
    assert one(checks, "shape").detail == snapshot


@pytest.mark.parametrize("name", ["off", "dynamc"])
def test_a_strategy_that_cannot_be_verified_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        run(make(tmp_path, LLAMA), name)
