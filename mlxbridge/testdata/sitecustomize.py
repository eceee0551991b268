"""Damages a worker once: Python imports this module at its start, where it lies beside the worker's package.

MLXBRIDGE_TEST_FAULT names the fault, MLXBRIDGE_TEST_ARMED a file that is there until the fault has struck, so that the
next worker is well. It strikes in the middle of an answer: warm-up takes fewer steps.
"""

import os
import signal
import sys
import time

STEPS = 40


def raises(error):
    def strike(*_):
        raise error

    return strike


def says(data):
    def strike(*_):
        os.write(4, data)
        return []

    return strike


def stays(*_):
    time.sleep(0.01)
    return []


def vanishes(*_):
    os.close(4)
    time.sleep(3600)


FAULTS = {
    "step raises once": raises(RuntimeError("one bad step")),
    "step raises": raises(RuntimeError("[matmul] shapes do not fit")),
    "out of memory": raises(MemoryError("no memory for a step")),
    "Metal out of memory": raises(RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")),
    "step hangs": lambda *_: time.sleep(3600),
    "steps do nothing": stays,
    "killed": lambda *_: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda *_: os.kill(os.getpid(), signal.SIGSTOP),
    "aborts": lambda *_: os.abort(),
    "ends as if all were well": lambda *_: os._exit(0),
    "writes garbage": says(b"\xff" * 64),
    "writes half a frame": lambda *_: os.write(4, b"\x40\x00\x00\x00{") and os._exit(0),
    "writes no JSON": says(b"\x04\x00\x00\x00oops"),
    "closes its pipe": vanishes,
    "prints": lambda *_: [] if os.write(1, b"noise\n" * 1000) else [],
}


def damage(fault, armed):
    from mlxworker import lane

    step, strike = lane.Lane.next, FAULTS[fault]
    state = {"steps": 0, "struck": False}

    def next_step(self, chunk):
        state["steps"] += 1
        if state["steps"] < STEPS:
            return step(self, chunk)
        if not state["struck"]:
            state["struck"] = True
            os.unlink(armed)
        elif fault.endswith("once") or fault == "prints":
            return step(self, chunk)
        if fault == "prints":
            strike()
            return step(self, chunk)
        return strike()

    lane.Lane.next = next_step


if "mlxworker" in sys.orig_argv and os.environ["MLXBRIDGE_TEST_FAULT"].startswith("killed before it is ready"):
    with open(os.environ["MLXBRIDGE_TEST_ARMED"], "a+") as starts:
        starts.write("started\n")
        starts.seek(0)
        if "always" in os.environ["MLXBRIDGE_TEST_FAULT"] or len(starts.readlines()) == 1:
            starts.flush()
            os.kill(os.getpid(), signal.SIGKILL)
elif "mlxworker" in sys.orig_argv and os.path.exists(os.environ["MLXBRIDGE_TEST_ARMED"]):
    damage(os.environ["MLXBRIDGE_TEST_FAULT"], os.environ["MLXBRIDGE_TEST_ARMED"])
