"""Start the worker: frames come on descriptor 3 and go out on 4, standard input is the lifeline."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import sys
import traceback

from mlxworker import accelerator

_FRAMES_IN, _FRAMES_OUT, _LIFELINE = 3, 4, 0


def main() -> int:
    """Serve until the other side is gone; return the exit code."""
    parser = argparse.ArgumentParser(prog="mlxworker", description="Serves one model over descriptors 3 and 4.")
    parser.add_argument("--name", default="", help="what the process is called in lists of processes")
    parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        for fd in (_FRAMES_IN, _FRAMES_OUT):
            os.set_inheritable(fd, False)
    except OSError:
        print("mlxworker: descriptors 3 and 4 must be open; mlxctl starts this program", file=sys.stderr)
        return 2
    # Ctrl-C in a terminal reaches the whole group; when to end is the other side's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _set_environment()
    return _serve()


def _set_environment() -> None:
    """Set what has to be known before MLX and its companions are imported."""
    defaults = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    if accelerator.has_cuda():
        # MLX builds a plan of cuDNN's for each number of tokens and each position that attention meets, which takes
        # longer than the piece of a prompt itself; rows of a batch have a mask, with which its own way is as fast.
        defaults |= {"MLX_CUDA_USE_CUDNN_SDPA": "0"}
    elif platform.system() != "Darwin":
        # Without a GPU, compiled kernels would call a C++ compiler at run time, and small products lose to threads.
        defaults |= {"MLX_DISABLE_COMPILE": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _serve() -> int:
    from mlxworker import frames, inbox

    writer = frames.Writer(_FRAMES_OUT)
    incoming = inbox.Inbox(_FRAMES_IN)
    incoming.start()
    inbox.watch_lifeline(_LIFELINE)

    from mlxworker import loop, telling
    from mlxworker.errors import LoadError

    try:
        loop.Loop(None, incoming, writer, os.getpid()).run()
    except loop.Shutdown:
        return 0
    except LoadError as e:
        return telling.load_failed(writer, e)
    except BrokenPipeError:
        return 0
    except Exception as e:
        logging.getLogger("mlxworker").exception("the worker ends")
        return telling.fatal(writer, e, traceback.format_exc())
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Without the interpreter's own end: MLX's threads need no farewell.
    os._exit(code)
