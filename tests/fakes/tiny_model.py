"""Writes a random llama of half a megabyte that the real llama.cpp loads in milliseconds.

Same seed, same bytes. At temperature 0 its answers are deterministic, at any temperature they are valid UTF-8 made of
`PIECES`, and they end only by a limit, a stop string or a grammar: an answer to `max_tokens: 7` has seven tokens.
A request with tools is answered by one call, unless its last message is a tool's result. Prompts are read byte by byte,
so they have about one token for each byte. In schemas, prefer enum, boolean and integer: free strings seldom end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 64
LAYERS = 2
HEADS = 4
FEED_FORWARD = 128
PIECES = (
    *("▁hello", "▁world", "▁the", "▁model", "▁says", "▁yes", "▁no", "▁one", "▁two", "▁three"),
    *("▁hola", "▁niño", "▁café", "▁día", "▁mañana", "▁señal", "▁straße", "▁Ärger", "▁naïve", "▁œuvre"),
    *("▁мир", "▁слово", "▁κόσμος", "世", "界", "日本", "語", "한국", "▁🙂", "🚀", ".", "!", "?"),
)
TOOLS_MARKER = "<|tools|>"
CALL_MARKER = "<tool_call>"
END_MARKER = "</tool_call>"
CHAT_TEMPLATE = """\
{%- if tools -%}
{%- if messages[-1].role != "tool" -%}<|tools|>{%- endif -%}
tools:{%- for tool in tools %} {{ tool.function | tojson }}{% endfor -%}{{ "\\n" }}
{%- endif -%}
{%- for message in messages -%}
{{ message.role }}: {{ message.content or "" }}
{%- for call in message.tool_calls or [] -%}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor -%}
{{ "\\n" }}
{%- endfor -%}
{%- if add_generation_prompt -%}assistant: {% endif -%}
"""

_BLANK = ("▁", "<0x09>", "<0x0A>", "<0x0D>", "<0x20>")
# The stream's first dimensions are wired by hand; nothing random reads or writes them.
_CONSTANT, _IS_TOOLS, _TOOLS_SEEN, _CALL_ENDS, _WIRED = 0, 1, 2, 3, 4

Weights = NDArray[np.float32]


def write_tiny_model(path: Path, *, context: int = 2048, seed: int = 0) -> Path:
    """Write the model to `path` (it must end in .gguf) and give it back. The same file serves chat and embeddings."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(DIMENSIONS)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(DIMENSIONS // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    vocabulary = _vocabulary()
    texts = [text for text, _ in vocabulary]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types([kind for _, kind in vocabulary])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weights in _weights(np.random.default_rng(seed), texts).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> list[tuple[str, gguf.TokenType]]:
    kind = gguf.TokenType
    special = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    markers = [(text, kind.USER_DEFINED) for text in (TOOLS_MARKER, CALL_MARKER, END_MARKER)]
    byte_tokens = [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    return special + markers + byte_tokens + [(piece, kind.NORMAL) for piece in ("▁", *PIECES)]


def _weights(random: np.random.Generator, texts: list[str]) -> dict[str, Weights]:
    def matrix(rows: int, columns: int, scale: float) -> Weights:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    def from_stream(rows: int, scale: float) -> Weights:
        weights = matrix(rows, DIMENSIONS, scale * DIMENSIONS**-0.5)
        weights[:, :_WIRED] = 0.0
        return weights

    def into_stream(columns: int) -> Weights:
        weights = matrix(DIMENSIONS, columns, columns**-0.5)
        weights[:_WIRED] = 0.0
        return weights

    ones = np.ones(DIMENSIONS, dtype=np.float32)
    weights = {"output_norm.weight": ones}
    weights["token_embd.weight"] = embeddings = matrix(len(texts), DIMENSIONS, 1.0)
    embeddings[:, :_WIRED] = 0.0
    embeddings[:, _CONSTANT] = 4.0
    weights["output.weight"] = output = from_stream(len(texts), 3.0)
    output[: -len(PIECES)] = 0.0
    output[: -len(PIECES), _CONSTANT] = -40.0  # never sampled, unless a grammar demands it
    output[[texts.index(text) for text in _BLANK], _CONSTANT] = -60.0  # so that grammars of JSON give it without blanks
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        weights[f"{block}attn_norm.weight"] = ones
        weights[f"{block}ffn_norm.weight"] = ones
        for name in ("attn_q", "attn_k", "attn_v"):
            weights[f"{block}{name}.weight"] = from_stream(DIMENSIONS, 2.0)
        weights[f"{block}attn_output.weight"] = into_stream(DIMENSIONS)
        weights[f"{block}ffn_gate.weight"] = from_stream(FEED_FORWARD, 1.0)
        weights[f"{block}ffn_up.weight"] = from_stream(FEED_FORWARD, 1.0)
        weights[f"{block}ffn_down.weight"] = into_stream(FEED_FORWARD)
    _wire_tools(weights, texts)
    return weights


def _wire_tools(weights: dict[str, Weights], texts: list[str]) -> None:
    """A prompt with the marker of tools anywhere in it is answered by one call; the first head looks for the marker."""
    embeddings, output = weights["token_embd.weight"], weights["output.weight"]
    size = DIMENSIONS // HEADS
    slow = size - 2  # the pair of dimensions that positions turn least: 0.0003 of a radian for each token
    embeddings[texts.index(TOOLS_MARKER), _IS_TOOLS] = 8.0
    for name, read, strength in (("attn_q", _CONSTANT, 2.0), ("attn_k", _IS_TOOLS, 2.0), ("attn_v", _IS_TOOLS, 1.0)):
        head = weights[f"blk.0.{name}.weight"][:size]
        head[:] = 0.0
        head[slow, read] = strength
    weights["blk.0.attn_output.weight"][_TOOLS_SEEN, slow] = 1.0
    output[texts.index(CALL_MARKER), _TOOLS_SEEN] = 60.0
    output[texts.index(END_MARKER), _CONSTANT] = -20.0  # whole, where a grammar could also have it byte by byte
    embeddings[texts.index(END_MARKER), _CALL_ENDS] = 8.0
    output[texts.index("</s>"), _CALL_ENDS] = 100.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_tiny_model(options.path, context=options.context, seed=options.seed))
