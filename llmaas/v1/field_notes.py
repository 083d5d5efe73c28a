"""What the OpenAPI document says of single fields, by the name of their type. Types are for decoding; words are kept here."""

from __future__ import annotations

from collections.abc import Mapping

_MODEL = "Id or alias of a model that the key may use; `GET /v1/models` lists them."
_END_USER = "Who asks, in your own numbering. It is kept on the usage row and is not sent to the engine."
_STREAM = "Send the answer piece by piece, as server-sent events."
_STREAM_OPTIONS = "How a stream is sent."
_LOG_PROBABILITIES = "Also give the log probability of each token."
_STOP = "Where the answer ends; the stop text is not part of it."
_SEED = "The same seed, model and engine give the same answer as far as the engine can."
_TEMPERATURE = "Higher is more varied, 0 is the likeliest word each time."
_TOP_P = "Choose among the likeliest words that together have this probability."
_FREQUENCY = "Above 0: words that were said often are said less."
_PRESENCE = "Above 0: words that were said at all are said less."
_MOST = "The most tokens of output. Without it: what the model and the limits of the key allow."
_BIAS = "By token id: how much likelier or unlikelier it gets, from -100 to 100."
_CHOICES = "How many answers to give. Each is paid for."
_SAMPLING = {
    "model": _MODEL,
    "max_tokens": _MOST,
    "temperature": _TEMPERATURE,
    "top_p": _TOP_P,
    "n": _CHOICES,
    "stop": _STOP,
    "seed": _SEED,
    "presence_penalty": _PRESENCE,
    "frequency_penalty": _FREQUENCY,
    "logit_bias": _BIAS,
    "stream": _STREAM,
    "stream_options": _STREAM_OPTIONS,
    "user": _END_USER,
}

FIELD_NOTES: Mapping[str, Mapping[str, str]] = {
    "ChatRequest": {
        **_SAMPLING,
        "messages": "The conversation so far, oldest first.",
        "max_completion_tokens": "Another name of `max_tokens`; it goes before it.",
        "logprobs": _LOG_PROBABILITIES,
        "top_logprobs": "For each token, also give so many others that were likely.",
        "tools": "Functions that the model may call. It answers with calls, you run them and send what they gave.",
        "tool_choice": "Whether it may (`auto`), must (`required`) or must not (`none`) call one, or which one it has to.",
        "parallel_tool_calls": "Whether one answer may call several functions.",
        "response_format": "Text, any JSON object, or JSON that fits a schema.",
        "functions": "The older form of `tools`. Calls are answered as `function_call`.",
        "function_call": "The older form of `tool_choice`.",
        "verbosity": "How long answers are, `low` to `high`. Only engines of kind `openai` are told.",
        "prediction": "Text that much of the answer will repeat. Only engines of kind `openai` are told.",
        "modalities": 'Answers are text, so `["text"]` only.',
        "audio": "Refused: answers are text.",
        "web_search_options": "Refused: models here search nothing.",
        "reasoning_effort": "How long a reasoning model thinks, in the words that its engine knows, such as `low` or `high`.",
    },
    "CompletionRequest": {
        **_SAMPLING,
        "prompt": "A text, several, token ids, or several lists of token ids.",
        "best_of": "Make so many and give the best `n` of them.",
        "logprobs": "For each token, give so many that were likely.",
        "echo": "Repeat the prompt before the answer.",
        "suffix": "What comes after the text to fill in.",
    },
    "EmbeddingRequest": {
        "model": _MODEL,
        "input": "A text, several, token ids, or several lists of token ids.",
        "encoding_format": "Vectors as numbers, or as base64 of 32-bit floats.",
        "dimensions": "Shorter vectors, from models that can make them.",
        "user": _END_USER,
    },
    "StreamOptions": {"include_usage": "Send one more event at the end, with the tokens that were used."},
    "Message": {
        "content": "A text, or parts of text and images.",
        "name": "Of the one who says it.",
        "tool_calls": "In a turn of the assistant: the functions that it called.",
        "tool_call_id": "In a turn of a tool: which call this is the result of.",
        "reasoning": "Another name of `reasoning_content`.",
        "function_call": "The older form of `tool_calls`.",
        "reasoning_content": "What the assistant thought before it answered.",
    },
    "ImageUrl": {"url": "A `data:` address with the image in it.", "detail": "`low`, `high` or `auto`."},
    "ToolCall": {"id": "Send it back as `tool_call_id` with the result."},
    "FunctionCall": {"arguments": "JSON, as a string."},
    "FunctionDefinition": {
        "description": "What it is for. The model chooses by it.",
        "parameters": "A JSON schema of the arguments.",
        "strict": "Hold the model to the schema.",
    },
    "JsonSchema": {"schema": "The JSON schema that the answer fits.", "strict": "Hold the model to the schema."},
    "ChatCompletion": {
        "id": "Also in the header `id`; it finds the request among those of the project.",
        "model": "The model's id, also when it was asked for by an alias.",
    },
    "ChatChoice": {
        "finish_reason": "`stop`: it was done. `length`: it reached a limit. `tool_calls`: it wants functions called."
    },
    "AnswerMessage": {"reasoning_content": "What a reasoning model thought before it answered."},
    "Usage": {
        "prompt_tokens": "Of the input, those from the cache among them.",
        "completion_tokens": "Of the output, those of reasoning among them.",
        "reasoning_tokens": "The part of `completion_tokens` that was thought and not said.",
    },
    "Model": {
        "phase": "`deprecated`: better use another one.",
        "deprecation_date": "Day in UTC from which on it is deprecated.",
        "shutdown_date": "Day in UTC from which on it is not served; who names it gets its successor, or 404.",
        "successor": "The model to move to.",
    },
    "ErrorObject": {
        "message": "For people.",
        "code": "For programs.",
        "param": "The field that is wrong.",
        "state": "While a model is being loaded: how far that is.",
    },
}
