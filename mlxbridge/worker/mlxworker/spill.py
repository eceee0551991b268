"""Prefixes that memory has no room for, on disk: written behind the steps, read back when that beats computing.

Files are written and read on a thread; what they hold is taken apart and put together on the thread that owns MLX.
The folder belongs to one model. Nothing that goes wrong with it is more than a line in the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlxworker import entryfile
from mlxworker.entryfile import BrokenError, Found, Sheet
from mlxworker.errors import describe
from mlxworker.model import Model
from mlxworker.prefix import Entry, PrefixStore
from mlxworker.trie import Node, Trie

# Shorter ones are computed again sooner than they are found.
LEAST_TOKENS = 256
_MOST_JOBS = 256
# Taken for a disk's rate until it is measured: bytes a second.
_RATE = 500e6
# As many bytes become arrays in one step.
_PIECE_BYTES = 32 << 20
_WAIT_SECONDS = 0.005

log = logging.getLogger("mlxworker")


@dataclass(eq=False)
class _Record:
    """A file, which holds the sequence of tokens that leads to node."""

    file: Path
    length: int
    nbytes: int
    trimmable: bool
    node: Node[_Record]
    used: int
    there: bool  # it is written
    loading: bool = False


@dataclass
class _Job:
    """Something to do on the thread, and what became of it. Without sheet and record it is to read the folder."""

    record: _Record | None = None
    sheet: Sheet | None = None
    doomed: tuple[Path, ...] = ()
    found: tuple[Found, ...] = ()
    error: str = ""
    seconds: float = 0.0


def of_model(model: Model, adapter: str, folder: str, most_bytes: int, store: PrefixStore, bits: int) -> Spill | None:
    """Return where prefixes of a model are kept on disk; None if there is no such folder, or no room in it."""
    if not folder or not most_bytes or not store.budget:
        return None
    versions = model.api.versions
    extra = [model.device, str(bits), *(f"{k} {versions[k]}" for k in sorted(versions) if k.startswith("mlx"))]
    try:
        identity = entryfile.identity([model.folder, *([Path(adapter)] if adapter else [])], extra)
    except OSError as e:
        log.warning("prefixes are not kept on disk: %s", describe(e))
        return None
    made = Spill(Path(folder), most_bytes, identity, store)
    store.evicted = made.keep
    return made


class Spill:
    """Bounded by bytes on disk, least recently used out first. Belongs to the thread that owns MLX."""

    def __init__(self, folder: Path, most_bytes: int, identity: str, store: PrefixStore) -> None:
        self._folder, self._most, self._identity, self._store = folder, most_bytes, identity, store
        self._trie: Trie[_Record] = Trie()
        self._records: set[_Record] = set()
        self._ticks = itertools.count(1)
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_MOST_JOBS)
        self._done: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._under_way = 0  # jobs
        self._restoring: tuple[_Record, Found, dict[str, mx.array]] | None = None
        self._rate = _RATE
        self._writes = True
        self._given_up = False
        self._heard = 0.0  # when the thread last said something, or was asked after it had nothing to do
        self._lock: int | None = None
        self._loading: _Record | None = None  # one at a time: each takes memory beside the store
        self._cuttable = 0  # files that are
        self.nbytes = 0
        self.version = 0  # changes with what wants() may answer
        if self._open():
            threading.Thread(target=self._work, name="prefixes", daemon=True).start()
            self._submit(_Job())

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._records)

    def keep(self, entry: Entry) -> bool:
        """Write an entry that memory is to lose. Say whether it is, or will be, on disk."""
        if not self._writes or entry.length < LEAST_TOKENS or not self._fits(entry):
            return False
        tokens = entry.node.tokens()
        covering = self._trie.covering(tokens)
        if covering is not None:
            covering.used = next(self._ticks)
            return True
        layout = entryfile.take_apart(entry.cache)
        if layout is None or entry.nbytes > self._most or self._jobs.full():
            return False
        try:
            pieces = [entryfile.token_bytes(tokens), *entryfile.as_bytes(layout.arrays.values())]
        except Exception as e:  # an entry that is lost is no reason to lose a step
            self._disable(describe(e))
            return False
        sheet = Sheet(self._identity, tokens, entry.trimmable, layout.layers, layout.outlines(), pieces)
        record = self._add(tokens, entry.nbytes, entry.trimmable, there=False)
        self._store.outside += entry.nbytes
        self._submit(_Job(record, sheet, (*self._covered(record), *self._make_room(record))))
        return True

    def wants(self, tokens: list[int], known: int, rate: float, tried: set[str]) -> bool:
        """Say whether a row should wait for more of its beginning than the known tokens; begin to read it if need be.

        rate is at how many tokens a second it would be computed, 0 if that is not known. tried has the files that were
        read for this row; none is read twice.
        """
        if self._given_up:
            return False
        record, length = self._trie.find(tokens, LEAST_TOKENS, self._cuttable > 0)
        if record is None or not record.there or length - known < LEAST_TOKENS:
            return False
        if record.loading:
            tried.add(record.file.name)
            return True
        if record.file.name in tried or record.nbytes > self._store.budget or self._jobs.full():
            return False
        if rate and record.nbytes / self._rate > (length - known) / rate:
            return False
        if self._loading is None:
            record.used, record.loading, self._loading = next(self._ticks), True, record
            self._store.outside += record.nbytes
            tried.add(record.file.name)
            self._submit(_Job(record))
        return True

    def despair(self, seconds: float) -> None:
        """Give the disk up, for good, if it has said nothing for so long: nobody is to wait for it again."""
        if self._given_up or not self._under_way or time.monotonic() - self._heard <= seconds:
            return
        log.warning("prefixes are neither kept on disk nor read from now on: it has not answered for %.0f s", seconds)
        self._given_up, self._writes = True, False
        self.version += 1
        if self._loading is not None and self._restoring is None:
            self._loaded(self._loading)

    def poll(self, wait: bool = False) -> None:
        """Take in what the thread has done. With wait, give it a moment: there is nothing else to do."""
        if self._restoring is not None:
            self._restore()
            return
        with contextlib.suppress(queue.Empty):
            while self._under_way and self._restoring is None:
                self._settle(self._done.get(timeout=_WAIT_SECONDS) if wait else self._done.get_nowait())
                wait = False

    def close(self, seconds: float) -> None:
        """Write the entries that are to be kept longest, as far as these seconds suffice, and give the folder back."""
        until = time.monotonic() + (0 if self._given_up else seconds)
        for entry in self._store.recent():
            while self._under_way and not self._fits(entry) and time.monotonic() < until:
                self.poll(wait=True)
            if time.monotonic() >= until:
                break
            self.keep(entry)
        while self._under_way and time.monotonic() < until:
            self.poll(wait=True)
        with contextlib.suppress(queue.Full):
            self._jobs.put_nowait(None)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._writes = False

    def _fits(self, entry: Entry) -> bool:
        """Say whether memory may hold an entry until it is written: one alone, or a few small ones."""
        return not self._store.outside or self._store.outside + entry.nbytes <= self._store.budget // 4

    def _open(self) -> bool:
        """Take the folder for ourselves; say whether that was possible."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self._disable(f"{self._folder} cannot be used: {describe(e)}")
            return False
        return True

    def _submit(self, job: _Job) -> None:
        if not self._under_way:
            self._heard = time.monotonic()
        self._jobs.put_nowait(job)
        self._under_way += 1

    def _settle(self, job: _Job) -> None:
        self._under_way -= 1
        self._heard = time.monotonic()
        record = job.record
        if record is None:
            self._index(job)
        elif job.sheet is not None:
            self._store.outside -= record.nbytes
            record.there = not job.error
            self.version += 1
            if job.error:
                self._forget(record)
                self._disable(job.error)
        elif not record.loading:
            return  # nobody waits for it any more
        elif job.error or not job.found:
            log.warning("a stored prefix is of no use: %s", job.error)
            self._forget(record)
            self._loaded(record)
        else:
            self._learn(record.nbytes, job.seconds)
            self._restoring = (record, job.found[0], {})

    def _index(self, job: _Job) -> None:
        """Take in what an earlier worker left, oldest first."""
        if job.error:
            log.warning("stored prefixes were removed: %s", job.error)
        doomed = []
        for found in sorted(job.found, key=lambda f: f.used):
            covering = self._trie.covering(found.tokens)
            if covering is None:
                self._add(found.tokens, found.size, found.trimmable, there=True)
            elif covering.length > len(found.tokens):
                doomed.append(self._folder / entryfile.name_of(found.tokens))
        doomed += self._make_room(None)
        if doomed and not self._jobs.full():
            self._submit(_Job(doomed=tuple(doomed)))

    def _restore(self) -> None:
        """Make arrays of some of what was read; when all are there, the store has them."""
        if self._restoring is None:
            return
        record, found, arrays = self._restoring
        made = 0
        try:
            for name, (dtype, shape, body) in found.body.items():
                if name not in arrays:
                    arrays[name] = entryfile.as_array(dtype, shape, body)
                    made += len(body)
                    if made >= _PIECE_BYTES:
                        return
            useful = self._store.insert(found.tokens, entryfile.put_together(found.layers, arrays))
        except Exception as e:  # whatever is in a file, it ends here
            log.warning("a stored prefix is of no use: %s", describe(e))
            useful = False
        if not useful and not self._jobs.full():  # else it stays, and counts
            self._forget(record)
            self._submit(_Job(doomed=(record.file,)))
        self._restoring = None
        self._loaded(record)

    def _loaded(self, record: _Record) -> None:
        record.loading, self._loading = False, None
        self.version += 1
        self._store.outside -= record.nbytes

    def _add(self, tokens: list[int], nbytes: int, trimmable: bool, there: bool) -> _Record:
        node = self._trie.place(tokens)
        file = self._folder / entryfile.name_of(tokens)
        record = _Record(file, len(tokens), nbytes, trimmable, node, next(self._ticks), there)
        node.entry = record
        self._records.add(record)
        self._cuttable += trimmable
        self.nbytes += nbytes
        self.version += 1
        return record

    def _make_room(self, keep: _Record | None) -> list[Path]:
        """Forget what is too much, and return the files."""
        out: list[Path] = []
        if self.nbytes <= self._most:
            return out
        for record in sorted(self._records, key=lambda r: r.used):
            if self.nbytes <= self._most:
                break
            if record is not keep and record.there and not record.loading:
                self._forget(record)
                out.append(record.file)
        return out

    def _covered(self, record: _Record) -> list[Path]:
        """Forget what a new file has as well, and return the files."""
        above = [r for r in record.node.above() if r.there and not r.loading] if record.trimmable else []
        for other in above:
            self._forget(other)
        return [r.file for r in above]

    def _forget(self, record: _Record) -> None:
        if record in self._records:
            self._records.discard(record)
            self._cuttable -= record.trimmable
            self.nbytes -= record.nbytes
            self.version += 1
            self._trie.clear(record.node, prune=True)

    def _learn(self, nbytes: int, seconds: float) -> None:
        if seconds > 0:
            self._rate = 0.5 * self._rate + 0.5 * nbytes / seconds

    def _disable(self, why: str) -> None:
        if self._writes:
            log.warning("prefixes are not kept on disk from now on: %s", why)
        self._writes = False

    # -- on the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            started = time.perf_counter()
            try:
                self._do(job)
            except Exception as e:  # without the thread, rows would wait for ever
                job.error = describe(e)
            job.seconds = time.perf_counter() - started
            self._done.put(job)

    def _do(self, job: _Job) -> None:
        for file in job.doomed:
            file.unlink(missing_ok=True)
        if job.record is None:
            if not job.doomed:
                self._scan(job)
        elif job.sheet is not None:
            entryfile.write(job.record.file, job.sheet)
        else:
            try:
                job.found = (self._read(job.record.file, whole=True),)
                os.utime(job.record.file)
            except (BrokenError, OSError):
                _remove(job.record.file)
                raise

    def _read(self, file: Path, whole: bool) -> Found:
        found = entryfile.read(file, self._identity, whole)
        if entryfile.name_of(found.tokens) != file.name:
            raise BrokenError("its name is not that of its tokens")
        return found

    def _scan(self, job: _Job) -> None:
        """Read the heads of all files; remove those that are of no use."""
        for left in self._folder.glob(f"*{entryfile.NEW}"):
            _remove(left)
        found, bad = [], []
        for file in self._folder.glob(f"*{entryfile.SUFFIX}"):
            try:
                found.append(self._read(file, whole=False))
            except (BrokenError, OSError) as e:
                bad.append(f"{file.name}: {describe(e)}")
                _remove(file)
        job.found = tuple(found)
        if bad:
            job.error = f"{len(bad)} of them, as {bad[0]}"


def _remove(file: Path) -> None:
    """Remove what may not be a file, as far as that is possible."""
    with contextlib.suppress(OSError):
        file.unlink()
