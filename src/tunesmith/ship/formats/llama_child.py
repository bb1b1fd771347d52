"""llama.cpp in a process of its own: started by `llama_cpp.py`, says its address on one line, ends with its parent.

Reading a GGUF file is native code; whatever goes wrong in it ends this process and no other.
"""

from __future__ import annotations

import json
import sys


def main(settings_text: str) -> None:
    """Serve one GGUF file on loopback until standard input closes.

    Args:
        settings_text: a JSON object with path, context, slots and threads.
    """
    import xllamacpp

    settings = json.loads(settings_text)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["path"]
    parameters.n_ctx = settings["context"] * settings["slots"]
    parameters.n_parallel = settings["slots"]
    parameters.kv_unified = True
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = settings["threads"]
    parameters.cpuparams_batch.n_threads = settings["threads"]
    parameters.use_jinja = True
    parameters.prefill_assistant = False
    parameters.warmup = False
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
