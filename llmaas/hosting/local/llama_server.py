"""The child process of the built-in engine: llama.cpp's own server from the `xllamacpp` wheel, with the flags of `llama-server`,
so that a `llama-server` of the machine's own is started with the same words.
"""

from __future__ import annotations

import argparse
import signal

from llmaas.pulse import ENGINE_END, STOPS
from llmaas.settings import read_engine_key


def main() -> None:
    parser = argparse.ArgumentParser(prog="llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", default="")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, required=True)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int, default=-1)
    parser.add_argument("--threads-http", type=int, default=-1)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--ubatch-size", type=int, default=0)
    parser.add_argument("--embeddings", action="store_true")
    for flag in ("--jinja", "--slots", "--no-webui", "--no-context-shift"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()

    import xllamacpp as xlc  # noqa: PLC0415 - `--help` and bad flags need no engine

    params = xlc.CommonParams()
    params.model.path = given.model
    params.hostnames = [given.host]
    params.port = given.port
    params.n_ctx = given.ctx_size
    params.n_parallel = given.parallel
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.use_jinja = True
    params.ctx_shift = False
    params.ui = False
    params.embedding = given.embeddings
    params.n_threads_http = given.threads_http
    if given.batch_size:
        params.n_batch = given.batch_size
    if given.ubatch_size:
        params.n_ubatch = given.ubatch_size
    if given.alias:
        params.model_alias = {given.alias}
    if given.threads > 0:
        params.cpuparams.n_threads = given.threads
    key = read_engine_key()
    if key is not None:
        params.api_keys = [key.reveal()]
    try:
        server = xlc.Server(params)
    except RuntimeError as error:
        raise SystemExit(f"llama.cpp: {error}") from None
    print(f"listening at {server.listening_address}", flush=True)  # noqa: T201 - this is the engine's log
    signal.sigwait({ENGINE_END})


if __name__ == "__main__":
    # Who stops the whole service may tell all its processes. When this one ends is for the engine host to say, which lets answers
    # finish first.
    signal.pthread_sigmask(signal.SIG_BLOCK, {ENGINE_END, *STOPS})
    main()
