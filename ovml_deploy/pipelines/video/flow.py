"""Threads that read and prepare frames while the engine computes, with bounds on what waits."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Semaphore, Thread

import numpy as np

from ovml_deploy.pipelines.video.records import Counts
from ovml_deploy.pipelines.video.sampling import LATEST_FRAME
from ovml_deploy.pipelines.video.sources import Frame

Prepared = tuple[Frame, "Future[np.ndarray]"]


class Waiting:
    """Frames that were read and not taken yet: a few, which hold the reader back, or the latest."""

    def __init__(self, policy: str, most: int, counts: Counts) -> None:
        self._latest = policy == LATEST_FRAME
        self._most = 1 if self._latest else most
        self._counts = counts
        self._frames: deque[Frame] = deque()
        self._changed = Condition()
        self._over = False
        #: What ended the reader, if that was an error.
        self.error: BaseException | None = None

    def put(self, frame: Frame) -> bool:
        """Add a frame, when there is room or in the place of an older one; False: it came too late."""
        with self._changed:
            if self._latest and self._frames:
                self._frames.clear()
                self._counts.dropped += 1
            while len(self._frames) >= self._most and not self._over:
                self._changed.wait()
            if self._over:
                return False
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def take(self) -> Frame | None:
        """Return the next frame; None after the last."""
        with self._changed:
            while not self._frames and not self._over:
                self._changed.wait()
            frame = self._frames.popleft() if self._frames else None
            self._changed.notify_all()
            return frame

    def end(self, error: BaseException | None = None) -> None:
        """Say that no frame will follow those that are there."""
        with self._changed:
            self._over, self.error = True, error or self.error
            self._changed.notify_all()

    def forget(self) -> None:
        """Let go of the frames that are there."""
        with self._changed:
            self._frames.clear()


class Flow:
    """Frames, read on one thread and prepared on others, in order.

    At most ``waiting`` + ``ahead`` + ``workers`` frames are held, most of them once prepared.
    """

    def __init__(
        self,
        frames: Iterator[Frame],
        prepare: Callable[[Frame], np.ndarray],
        policy: str,
        counts: Counts,
        ahead: int,
        workers: int,
    ) -> None:
        # The latest frame is prepared while the engine computes the one before, and none beyond.
        ahead, workers = (1, 1) if policy == LATEST_FRAME else (ahead, workers)
        self._waiting = Waiting(policy, 2, counts)
        self._frames, self._prepare = frames, prepare
        self._turn, self._room = Lock(), Semaphore(ahead)
        self._ready: SimpleQueue[Prepared | None] = SimpleQueue()
        self._is_over = False
        self._threads = [
            Thread(target=self._read, name="ovml-read", daemon=True),
            *(Thread(target=self._work, name="ovml-prepare", daemon=True) for _ in range(workers)),
        ]
        for thread in self._threads:
            thread.start()

    def batch(self, size: int, full: bool) -> list[Prepared]:
        """Return the next frames: ``size`` of them, fewer at the end or unless ``full``; none after it.

        Raises what ended the reader, once all frames were given out.
        """
        found: list[Prepared] = []
        while len(found) < size and not self._is_over:
            try:
                item = self._ready.get(block=full or not found)
            except Empty:
                break
            if item is None:
                self._is_over = True
            else:
                found.append(item)
                self._room.release()
        if not found and self._waiting.error is not None:
            raise self._waiting.error
        return found

    def end(self) -> None:
        """Take no further frames, without waiting for a source that may hang."""
        self._waiting.end()

    def close(self, patience: float) -> None:
        """End the threads; one that hangs in a source is left behind after ``patience`` seconds."""
        self.end()
        self._waiting.forget()
        for _ in self._threads:
            self._room.release()
        for thread in self._threads:
            thread.join(patience)

    def _read(self) -> None:
        try:
            for frame in self._frames:
                if not self._waiting.put(frame):
                    break
            self._waiting.end()
        except BaseException as error:  # raised where the frames are wanted
            self._waiting.end(error)
        finally:
            if hasattr(self._frames, "close"):
                self._frames.close()

    def _work(self) -> None:
        while True:
            with self._turn:  # so that frames are queued in the order in which they are taken
                self._room.acquire()
                frame = self._waiting.take()
                if frame is None:
                    self._room.release()
                    self._ready.put(None)
                    return
                future: Future[np.ndarray] = Future()
                self._ready.put((frame, future))
            try:
                future.set_result(self._prepare(frame))
            except Exception as error:  # of this frame, whatever it is
                future.set_exception(error)
