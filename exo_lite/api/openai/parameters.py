"""The parameters of other servers: none that would change an answer is ignored silently.

Those that work are fields of the bodies. The others stand in these tables, by where they come from: OpenAI, vLLM,
llama.cpp's server, SGLang, TGI. docs/http.md tells users of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches

from pydantic import BaseModel

from exo_lite.domain.errors import InvalidRequest

Values = tuple[object, ...]

_OPENAI: Mapping[str, Values] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "tool_calls": ([],),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "top_logprobs": (0,),
    "audio": (),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_VLLM: Mapping[str, Values] = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template": (),
    "documents": ([],),
    "early_stopping": (False,),
    "echo": (False,),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_json": (),
    "guided_regex": ("",),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": ({},),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "prompt_embeds": (),
    "prompt_logprobs": (0, False),
    "return_tokens_as_token_ids": (False,),
    "structural_tag": ("",),
    "structured_outputs": ({},),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
_LLAMA_CPP: Mapping[str, Values] = {
    "adaptive_target": (-1,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "grammar": ("",),
    "json_schema": ({},),
    "lora": ([],),
    "min_keep": (0, 1),
    "mirostat": (0,),
    "n_indent": (0,),
    "n_probs": (0,),
    "samplers": (),
    "t_max_predict_ms": (0, -1),
    "tfs_z": (1,),
    "thinking_forced_open": (False,),
    "top_n_sigma": (0, -1),
    "typical_p": (1,),
    "xtc_probability": (0,),
}
_SGLANG_AND_TGI: Mapping[str, Values] = {
    "custom_logit_processor": ("",),
    "custom_params": ({},),
    "ebnf": ("",),
    "guideline": ("",),
    "lora_path": ("",),
    "no_stop_trim": (False,),
    "regex": ("",),
    "return_hidden_states": (False,),
    "session_params": ({},),
    "stop_regex": ("", []),
}
_ROUTERS: Mapping[str, Values] = {
    "models": ([],),
    "plugins": ([],),
    "safe_prompt": (False,),
    "thinking": ({"type": "disabled"},),
    "transforms": ([],),
}

REFUSED: Mapping[str, Values] = {**_OPENAI, **_VLLM, **_LLAMA_CPP, **_SGLANG_AND_TGI, **_ROUTERS}
"""They would change the answer and are not supported yet, with the values that ask for nothing."""

RENAMED: Mapping[str, tuple[str, Values]] = {
    "enable_thinking": ("chat_template_kwargs", ()),
    "max_new_tokens": ("max_tokens", ()),
    "n_predict": ("max_tokens", (-1,)),
    "num_predict": ("max_tokens", (-1,)),
    "num_ctx": ("--context of `exo-lite load`", ()),
    "options": ("parameters beside model", ({},)),
    "random_seed": ("seed", ()),
    "repeat_penalty": ("repetition_penalty", (1,)),
}
"""They are refused too, and what to use instead is named."""

IGNORED = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction", "parallel_tool_calls"),
        *("prompt_cache_key", "prompt_cache_retention"),
        *("cache_salt", "priority", "request_id", "spaces_between_special_tokens", "include_reasoning"),
        *("guided_decoding_backend", "guided_whitespace_pattern", "detokenize"),
        *("cache_prompt", "id_slot", "slot_id", "n_keep", "n_cache_reuse", "repeat_last_n", "penalty_last_n"),
        *("dynatemp_exponent", "mirostat_tau", "mirostat_eta", "xtc_threshold", "adaptive_decay"),
        *("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("timings_per_token", "return_progress", "return_tokens", "response_fields", "post_sampling_probs"),
        *("parse_tool_calls", "reasoning_format"),
        *("rid", "extra_key", "separate_reasoning", "stream_reasoning", "return_cached_tokens_details"),
        *("tool_prompt", "usage", "provider", "route"),
    }
)
"""They leave the answer as it is: labels, accounts, hints for speed, and what only goes with something refused."""

IGNORED_HEADER = "X-Ignored-Parameters"
MAX_TOLD = 16
MAX_EXTRA = 256
"""Each is compared with those that there are."""
SIMILAR_ENOUGH = 0.85

_TELLABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def refuse_unsupported(body: BaseModel, *, place: str = "") -> None:
    """Raises InvalidRequest naming the first parameter that would have to change the answer but cannot."""
    for name, value in _extra(body, place).items():
        if value is None:
            continue
        if name in REFUSED and not _is_harmless(value, REFUSED[name]):
            raise InvalidRequest(f"{place}{name} is not supported yet: leave it out", param=f"{place}{name}")
        instead, harmless = RENAMED.get(name, ("", (value,)))
        if not _is_harmless(value, harmless):
            raise InvalidRequest(f"{place}{name} is not supported: use {instead} instead", param=f"{place}{name}")


def unknown_parameters(body: BaseModel) -> list[str]:
    """Names that nobody here has heard of; InvalidRequest is raised for one that looks like a slip of the pen."""
    known = {*type(body).model_fields, *REFUSED, *RENAMED, *IGNORED}
    unknown = [name for name in _extra(body) if name not in known]
    for name in unknown:
        meant = get_close_matches(name, type(body).model_fields, n=1, cutoff=SIMILAR_ENOUGH)
        if meant:
            raise InvalidRequest(f"{name[:64]} is unknown: did you mean {meant[0]}?", param=name[:64])
    return unknown


def _extra(body: BaseModel, place: str = "") -> Mapping[str, object]:
    """Return a body's unknown fields. Raises InvalidRequest if there are too many."""
    extra = body.model_extra or {}
    if len(extra) > MAX_EXTRA:
        what = f"{place}: " if place else ""
        raise InvalidRequest(f"{what}{len(extra)} unknown parameters are more than the {MAX_EXTRA} allowed")
    return extra


def ignored_header(unknown: Collection[str]) -> dict[str, str]:
    """The response header that tells of them."""
    told = [name for name in unknown if _TELLABLE.fullmatch(name)][:MAX_TOLD]
    return {IGNORED_HEADER: ", ".join(told)} if told else {}


def _is_harmless(value: object, harmless: Values) -> bool:
    """Plain equality, except that neither True counts as 1 nor 0 as False."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in harmless)
