"""Disks that are full, damaged or not ours, under prefixes that are written there."""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Driver
from spilling import FILL, ROOM, disk, driver_of, ended, files, say, settle

from mlxworker import entryfile, sharing
from mlxworker.model import Model


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "cut off": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "empty": lambda f: f.write_bytes(b""),
    "header only": lambda f: f.write_bytes(f.read_bytes()[:40]),
    "no safetensors": lambda f: f.write_bytes(b"\xff" * 5000),
    "longer": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
    "older format": lambda f: f.write_bytes(f.read_bytes().replace(entryfile.FORMAT.encode(), b"mlxctl-prefix-0")),
    "renamed": lambda f: f.rename(f.with_name("0" * 32 + ".prefix")),
    "changed": _flip,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_files_that_are_not_right_are_removed(
    tiny: Model, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    (file,) = files(tmp_path)
    DAMAGE[kind](file)
    (tmp_path / "left.prefix-new").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        driver = driver_of(tiny, tmp_path)
        settle(driver)
        got = driver.run(say("b", FILL))[0]
    assert files(tmp_path) == []
    assert not (tmp_path / "left.prefix-new").exists()
    ended(driver)

    assert got.usage["cached_tokens"] == 0
    assert got.tokens == first.answers["a"].tokens
    assert len(caplog.records) == 1


def test_another_model_or_version_finds_nothing(tiny: Model, small: Model, tmp_path: Path) -> None:
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    ended(first)
    for changed in ({"stored_bits": 8}, {}):
        driver = driver_of(small if not changed else tiny, tmp_path, **changed)
        settle(driver)
        assert len(disk(driver)) == len(files(tmp_path)) == 0
        ended(driver)


def test_the_disk_holds_no_more_than_allowed(tiny: Model, tmp_path: Path) -> None:
    prompts = [[*range(40 + 100 * i, 140 + 100 * i)] * 3 for i in range(6)]
    most = 3 * 320 * 2048
    driver = driver_of(tiny, tmp_path, spill_bytes=most, prefix_bytes=1300 * 2048)
    for i, p in enumerate(prompts):
        driver.run(say(f"a{i}", p))
        settle(driver)
    ended(driver)
    kept = sum(f.stat().st_size for f in files(tmp_path))
    assert 0 < kept <= most + 8192

    fewer = driver_of(tiny, tmp_path, spill_bytes=most // 3)
    settle(fewer)
    assert len(files(tmp_path)) == len(disk(fewer)) == 1
    ended(fewer)


def test_a_full_disk_stops_the_writing_and_nothing_else(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Path, sheet: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entryfile, "write", full)
    driver = driver_of(tiny, tmp_path, prefix_bytes=1300 * 2048)
    with caplog.at_level(logging.WARNING):
        for i in range(6):
            prompt = [*range(40 + 100 * i, 140 + 100 * i)] * 3
            assert driver.run(say(f"a{i}", prompt))[0].tokens == Driver(tiny).run(say("x", prompt))[0].tokens
            settle(driver)
    ended(driver)

    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert (len(disk(driver)), disk(driver).nbytes, driver.engine.prefix.outside) == (0, 0, 0)


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    sheet = entryfile.Sheet("m", [1, 2], True, [], [], [entryfile.token_bytes([1, 2])])
    with pytest.raises(OSError, match="no"):
        entryfile.write(tmp_path / "a.prefix", sheet)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["a file", "locked"])
def test_a_folder_that_cannot_be_used(tiny: Model, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    other = driver_of(tiny, tmp_path / "d") if how == "locked" else None
    if other is None:
        (tmp_path / "d").write_text("")
    with caplog.at_level(logging.WARNING):
        driver = driver_of(tiny, tmp_path / "d")
        assert driver.run(say("a", FILL))[0].reason == "length"
    ended(driver)
    if other is not None:
        ended(other)

    assert len(caplog.records) == 1


ODD: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda f: f.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_not_read(tiny: Model, tmp_path: Path, kind: str) -> None:
    first = driver_of(tiny, tmp_path)
    want = first.run(say("a", FILL))[0].tokens
    ended(first)
    (file,) = files(tmp_path)
    driver = driver_of(tiny, tmp_path)
    settle(driver)  # it knows the file
    file.unlink()
    ODD[kind](file)

    got = driver.run(say("b", FILL))[0]
    settle(driver)
    ended(driver)
    after = driver_of(tiny, tmp_path)
    settle(after)
    again = after.run(say("c", FILL))[0]

    assert (got.tokens, got.usage["cached_tokens"]) == (want, 0)
    assert again.tokens == want
    ended(after)


def test_a_disk_that_has_not_answered_once_is_not_asked_again(
    tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = [*range(40, 340)]
    first = driver_of(tiny, tmp_path)
    first.run(say("a", FILL))
    first.run(say("b", other))
    ended(first)
    driver = driver_of(tiny, tmp_path, prefix_bytes=ROOM)
    settle(driver)
    gate, asked = threading.Event(), []

    def hung(file: Path, identity: str, whole: bool) -> None:
        asked.append(file)
        gate.wait(60)
        raise OSError("too late")

    monkeypatch.setattr(entryfile, "read", hung)
    monkeypatch.setattr(sharing, "MOST_READ_SECONDS", 0.05)
    with caplog.at_level(logging.WARNING):
        driver.run(say("c", FILL))
        # Nothing that waits would come to an end from here on.
        monkeypatch.setattr(sharing, "MOST_READ_SECONDS", 1e9)
        got = driver.run(say("d", other), say("e", FILL))
    gate.set()
    settle(driver)
    ended(driver)

    assert [a.error for a in got] == [None, None]
    assert len(asked) == 1
    assert [r.getMessage() for r in caplog.records] == [
        "prefixes are neither kept on disk nor read from now on: it has not answered for 0 s"
    ]
    assert driver.engine.prefix.outside == 0


def test_a_file_under_the_name_of_another_is_removed(tiny: Model, tmp_path: Path) -> None:
    other = [*range(40, 340)]
    first = driver_of(tiny, tmp_path)
    want = first.run(say("a", FILL), say("b", other))[0].tokens
    ended(first)
    wrong, right = (tmp_path / entryfile.name_of(n) for n in _names(tmp_path, FILL, other))
    driver = driver_of(tiny, tmp_path)
    settle(driver)
    wrong.write_bytes(right.read_bytes())

    got = driver.run(say("c", FILL))[0]
    settle(driver)

    assert (got.tokens, got.usage["cached_tokens"]) == (want, 0)
    assert not wrong.exists()
    assert len(disk(driver)) == 1
    ended(driver)


def test_no_file_is_read_twice_for_one_row(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = driver_of(tiny, tmp_path)
    want = first.run(say("a", FILL))[0].tokens
    ended(first)
    driver = driver_of(tiny, tmp_path)
    settle(driver)
    read, real = [], entryfile.read

    def counting(file: Path, identity: str, whole: bool) -> entryfile.Found:
        read.append(file)
        return real(file, identity, whole)

    monkeypatch.setattr(entryfile, "read", counting)
    # The store takes it, and has lost it again when the row looks.
    monkeypatch.setattr(driver.engine.prefix, "insert", lambda *_, **__: True)

    got = driver.run(say("b", FILL))[0]

    assert got.tokens == want
    assert len(read) == 1
    ended(driver)


def _names(folder: Path, *prompts: list[int]) -> list[list[int]]:
    """Return the tokens of the files that begin with these prompts."""
    found = [_tokens(file) for file in files(folder)]
    return [next(t for t in found if t[: len(p)] == p) for p in prompts]


def _tokens(file: Path) -> list[int]:
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    (count,) = json.loads(data[8 : 8 + length])["tokens"]["shape"]
    return list(struct.unpack_from(f"<{count}I", data, 8 + length))
