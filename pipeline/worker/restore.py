"""One model, rows in, restored rows out; what goes wrong with a row becomes that row's error."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, cycle, islice
from threading import Lock
from typing import Any

import torch

from p2l_engine import methods, metrics, restore
from p2l_engine.operators import LinearOperator
from p2l_engine.operators.base import ImageShape
from p2l_engine.restore import Restored
from p2l_engine.seeding import image_seed
from p2l_engine.solvers import Progress
from pipeline import limits
from pipeline.cluster import devices
from pipeline.cluster.heartbeat import Heartbeat
from pipeline.config import JobConfig
from pipeline.input.rows import InputRow
from pipeline.messages import describe, readable
from pipeline.output.columns import Row
from pipeline.pictures.images import ImageError, encode_png
from pipeline.stores.storage import StorageError
from pipeline.worker import captions, micro_batch, models, stored_prompts
from pipeline.worker.measure import Prepared, against, measurements, prepare, rgb
from pipeline.worker.memory import Memory
from pipeline.worker.options import ActorOptions

log = logging.getLogger(__name__)

READY = 1  # micro-batches that wait for the device beside the one on it
UNUSED = "caption not used: the row has a prompt of its own"


Measured = tuple[LinearOperator, torch.Tensor]
Finish = Callable[[], list[Row]]  # what is left to do for images once they are restored: output rows


class Restorer:
    """Restores rows with one model; after memory ran out twice, with half as many at a time.

    One thread, the device's, computes; those that call prepare images for it and encode what it gives, so
    that with two of them it never waits. heartbeat: told of each step of a micro-batch.
    """

    def __init__(self, config: JobConfig, options: ActorOptions, heartbeat: Heartbeat | None = None) -> None:
        options.limit_threads()
        self.config = config
        self._heartbeat = heartbeat or Heartbeat()
        self._device_thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._turn = Lock()  # of one caller's rows to be restored; another's wait, or both would end late
        self._to_be_tuned = options.tune
        self._ran_out: Counter[int] = Counter()  # of memory: how often, by the number of images
        self._most = options.batch_size
        self._fits: dict[Hashable, int] = {}  # images of a group for which there is memory
        self.device = options.device
        self.solver = config.method
        self.model = None
        if self.solver.prior is not None:
            config = config.model_copy(update={"model": models.as_begun(config, self.device)})
            self.model = models.load(config.model, self.solver.prior)
        self.solver.load(self.model)
        self._memory = None if self.model is None else Memory(config, self.device, options.share)
        self.checkpointing = False  # whether some images took too much memory without it
        self._short: set[Hashable] = set()  # groups of which one image alone ran out of memory
        url = config.prompt_embeddings
        self._stored = None if url is None else stored_prompts.stored(url)
        self._caption = captions.stored(config)
        self._constants = {
            "operator": json.dumps(config.operator.model_dump(mode="json")),
            "method": json.dumps(methods.to_block(config.method, config.operator.column)),
            "model": config.model.id,
            "fingerprint": self.config.fingerprint,
        }

    def __call__(self, rows: Iterable[InputRow]) -> list[Row]:
        """One output row for each input row, in their order."""
        given = list(rows)
        done = {row["key"]: row for found in self.stream(given) for row in found}
        return [done[row.key] for row in given]

    def stream(self, rows: Iterable[InputRow]) -> Generator[list[Row]]:
        """An output row for each input row as soon as it is restored, so not in their order.

        Images of one shape are restored together; what waits for its like is held up to a limit of pixels.
        """
        groups = self._groups(rows)
        first = list(islice(groups, 1))  # prepared before its turn
        under_way = deque[Future[list[Finish]]]()
        with self._turn:
            for begun in chain.from_iterable(map(self._begun, chain(first, groups))):
                under_way.append(begun)
                if len(under_way) > READY:
                    yield from _finished(under_way.popleft())
        while under_way:
            yield from _finished(under_way.popleft())

    def _groups(self, rows: Iterable[InputRow]) -> Iterator[list[Prepared] | Row]:
        """Images that can be restored together, and output rows of what cannot be restored."""
        groups: dict[Hashable, list[Prepared]] = defaultdict(list)
        for row in rows:
            try:
                image = self._prepared(row)
            except (ImageError, LookupError) as error:
                yield self.failed(row, str(error))
                continue
            except StorageError:
                raise  # a store out of reach is no fault of the row
            except Exception as error:  # a row never ends the job
                yield self.failed(row, f"cannot prepare the row: {describe(error)}")
                continue
            groups[image.group].append(image)
            if len(groups[image.group]) >= self._at_once(image.group):
                yield groups.pop(image.group)
            elif _pixels(groups) >= limits.RESTORED_PIXELS:
                yield from _emptied(groups)
        yield from _emptied(groups)

    def _prepared(self, row: InputRow) -> Prepared:
        """Raises ImageError, and LookupError for one without a caption or embedding that there should be."""
        image = prepare(row, self.config)
        return replace(
            image,
            embedding=None if self._stored is None else self._stored(row),
            caption=None if self._caption is None else self._caption(row),
        )

    def _begun(self, found: list[Prepared] | Row) -> Iterator[Future[list[Finish]]]:
        """Hands images to the device, a micro-batch at a time; a row that failed goes along in its place."""
        if isinstance(found, dict):
            yield self._device_thread.submit(lambda rows: [lambda: rows], [found])
            return
        group = found[0].group
        if group not in self._fits:
            self._device_thread.submit(self._choose, found).result()
        while found:
            size = self._at_once(group)  # once: the device's thread may make it less
            now, found = found[:size], found[size:]
            measured = None
            with suppress(Exception):  # the device's thread meets it again, and tells which row has it
                measured = measurements(now, self.config)
            yield self._device_thread.submit(self._restore_all, now, measured)

    def _restore_all(self, images: Sequence[Prepared], measured: Measured | None) -> list[Finish]:
        """Restores a micro-batch, which may be more than there is memory for by now."""
        most = self._at_once(images[0].group)
        if len(images) <= most:
            return self._restore(images, measured)
        return self._restore(images[:most]) + self._restore_all(images[most:], None)

    def _restore(self, images: Sequence[Prepared], measured: Measured | None = None) -> list[Finish]:
        """Restores a micro-batch; when that fails, its halves, so that only what fails alone is an error.

        measured: what `measurements` gives for it, where that is known.
        Raises what `devices.is_fault`.
        """
        try:
            return [self._solve(images, *(measured or measurements(images, self.config)))]
        except Exception as error:
            if devices.is_fault(error):
                raise
            cause = "out of memory" if devices.is_out_of_memory(error) else "cannot restore the image"
            message = f"{cause}: {describe(error)}"
        # Outside of the handler: the traceback there holds the failed batch's tensors.
        if message.startswith("out of memory"):
            self._ran_out[len(images)] += 1
            if self._ran_out[len(images)] > 1:  # once may be another's doing
                self._most = min(self._most, max(1, len(images) // 2))
            log.warning("memory ran out", extra={"images": len(images), "next": self.micro_batch})
            gc.collect()
            torch.cuda.empty_cache()
            if len(images) == 1 and devices.is_held_by_others(self.device):
                raise devices.DeviceFault(f"{message}; other processes hold its memory")
            if len(images) == 1 and self.model is not None and images[0].group not in self._short:
                self._short.add(images[0].group)
                return self._restore(images, measured)
        if len(images) == 1:
            return [lambda: [self.failed(images[0].row, message)]]
        middle = len(images) // 2
        return self._restore(images[:middle]) + self._restore(images[middle:])

    def _solve(self, images: Sequence[Prepared], operator: LinearOperator, y: torch.Tensor) -> Finish:
        start = time.perf_counter()
        with self._heartbeat.restoring(len(images)):
            restored = _on_the_cpu(self._restored(images, operator, y, self._heartbeat.step))
        seconds = (time.perf_counter() - start) / len(images)
        unread = [models.unread(self.model, self._prompt(image)) for image in images]
        measured = operator.entries(y).tolist()
        return partial(self._rows, images, y, restored, seconds, measured, unread)

    def _rows(
        self,
        images: Sequence[Prepared],
        y: torch.Tensor,
        restored: Restored,
        seconds: float,
        measured: Sequence[float],
        unread: Sequence[str | None],
    ) -> list[Row]:
        """The output rows of a micro-batch. seconds: an image took."""
        shared = {"seconds": seconds, "nfe": restored.nfe}
        rows = []
        for index, image in enumerate(images):
            if (error := restored.errors[index]) is not None:
                rows.append(self.failed(image.row, f"restoration diverged: {error}") | shared)
                continue
            row = (
                self._row(image.row, "ok") | shared | self._pictures(image, restored.images[index], y[index])
            )
            if "deviation" in self.config.keep and restored.deviation is not None:
                levels = metrics.to_uint8(restored.deviation[index] - 1)  # 0 is no deviation
                row["deviation"] = _picture(image.row.key, levels)
            row["caption"] = image.caption
            if self.solver.prior == "latent" and image.embedding is None:
                row["prompt"] = self._prompt(image)
            row["residual"] = float(restored.residual[index])
            row["measured"] = int(measured[index])
            unused = UNUSED if image.caption is not None and image.row.prompt is not None else None
            row["warning"] = "; ".join(filter(None, (image.doubt, unused, unread[index]))) or None
            if "prompt_embedding" in self.config.keep and restored.prompt_embeddings is not None:
                row["prompt_embedding"] = restored.prompt_embeddings[index].float().numpy().tolist()
            rows.append(row)
        return rows

    def _restored(
        self, images: Sequence[Prepared], operator: LinearOperator, y: torch.Tensor, progress: Progress
    ) -> Restored:
        self._make_room(operator.image_shape(tuple(y.shape[1:])), images)
        given = [image.embedding for image in images if image.embedding is not None]
        return restore(
            self.model,
            operator.to(self.device),
            y.to(self.device),
            method=self.solver,
            prompts=[self._prompt(image) for image in images],
            prompt_embeddings=torch.stack(given) if given else None,
            seeds=[image.seed for image in images],
            progress=progress,
            sigma=self.config.noise,
        )

    def _make_room(self, shape: ImageShape, images: Sequence[Prepared]) -> None:
        """Switches activation checkpointing on where the images need it.

        Raises TooLarge for ones that do not fit at all, and OutOfMemoryError for too many.
        """
        if self._memory is None or self.model is None:
            return
        fit = self._memory.fit(shape[1:], len(images))
        checkpointing = fit.checkpointing or images[0].group in self._short
        if checkpointing and not self.checkpointing:
            log.info("activation checkpointing", extra={"height": shape[1], "width": shape[2]})
        self.checkpointing |= checkpointing
        self.model.checkpoint_activations(checkpointing)
        if len(images) > fit.images:
            raise torch.OutOfMemoryError(
                f"{len(images)} images of {shape[1]}x{shape[2]} need more than there is"
            )

    @property
    def micro_batch(self) -> int:
        """Images that are restored together at most, of those that take the most memory."""
        return min([self._most, *self._fits.values()])

    def _at_once(self, group: Hashable) -> int:
        return min(self._most, self._fits.get(group, self._most))

    def _choose(self, images: Sequence[Prepared]) -> None:
        """Finds how many images like these are restored together: as many as fit, or fewer as fast."""
        fitting = self._most
        if self._memory is not None:
            with suppress(Exception):  # the images' own restoration tells of it
                operator, y = measurements(images[:1], self.config)
                fitting = self._memory.fit(operator.image_shape(tuple(y.shape[1:]))[1:], fitting).images
        self._fits[images[0].group] = min(self._most, fitting)
        if self._to_be_tuned:
            self._tune(images)

    def _tune(self, images: Sequence[Prepared]) -> None:
        """Chooses the micro-batch by the first steps of more and more of these images together."""
        rates: dict[int, float] = {}
        size, most = 1, self._at_once(images[0].group)
        while size <= most:
            try:
                seconds = self._seconds_of_a_step([image for image, _ in zip(cycle(images), range(size))])
            except Exception as error:  # of memory, or of these images, which their own restoration tells of
                if devices.is_fault(error):
                    raise
                break
            rates[size] = size / seconds
            size = min(2 * size, most) if size < most else most + 1
        if rates:
            self._to_be_tuned = False
            self._most = micro_batch.smallest_fast(rates)
            log.info("micro-batch chosen", extra={"images": self._most, "rates": rates})

    def _seconds_of_a_step(self, images: Sequence[Prepared]) -> float:
        clock = micro_batch.Clock(torch.cuda.synchronize if self.device == "cuda" else lambda: None)

        def step(done: int, steps: int) -> None:
            self._heartbeat.step(done, steps)
            clock.step(done, steps)

        with self._heartbeat.restoring(len(images)), suppress(micro_batch.Enough):
            self._restored(images, *measurements(images, self.config), step)
        if clock.seconds is None:
            raise RuntimeError("the restoration ended before its steps could be measured")
        return clock.seconds

    def _prompt(self, image: Prepared) -> str:
        """What the row says of itself, else its caption's, else the job's."""
        if image.row.prompt is not None:
            return image.row.prompt
        if self.config.caption is not None and image.caption is not None:
            return self.config.caption.prompt(image.caption)
        return self.config.prompt

    def _pictures(self, image: Prepared, restored: torch.Tensor, y: torch.Tensor) -> Row:
        """The image columns, their size, and what a reference allows to measure."""
        pixels = metrics.to_uint8(restored)
        height, width = pixels.shape[:2]
        found: Row = {"image": _picture(image.row.key, pixels), "width": width, "height": height}
        if "measurement" in self.config.keep and (picture := rgb(y)) is not None:
            found["measurement"] = _picture(image.row.key, picture)
        if self.config.mode == "measure":
            found |= against(image.pixels, pixels)
            if "reference" in self.config.keep:
                found["reference"] = _picture(image.row.key, image.pixels)
        return found

    def _row(self, row: InputRow, status: str) -> Row:
        names = {"key": row.key, "source_shard": row.source_shard, "status": status}
        return names | {"seed": image_seed(self.config.seed, row.key)} | self._constants

    def failed(self, row: InputRow, message: str) -> Row:
        """The output row of one that cannot be restored."""
        return self._row(row, "error") | {"error": readable(message)}


def _finished(begun: Future[list[Finish]]) -> Iterator[list[Row]]:
    """The output rows of a micro-batch, once the device has done it. Raises what that raised."""
    for finish in begun.result():
        yield finish()


def _emptied(groups: dict[Hashable, list[Prepared]]) -> Iterator[list[Prepared]]:
    while groups:
        yield groups.popitem()[1]


def _on_the_cpu(restored: Restored) -> Restored:
    """What rows are made of; here, since a copy asked for later would wait for what the device then does."""
    return replace(
        restored,
        images=restored.images.cpu(),
        latents=None,
        prompt_embeddings=None if restored.prompt_embeddings is None else restored.prompt_embeddings.cpu(),
        residual=restored.residual.cpu(),
        deviation=None if restored.deviation is None else restored.deviation.cpu(),
    )


def _pixels(groups: Mapping[Hashable, Sequence[Prepared]]) -> int:
    return sum(image.pixels.size // 3 for images in groups.values() for image in images)


def _picture(key: str, pixels: Any) -> dict[str, Any]:
    return {"bytes": encode_png(pixels), "path": f"{key}.png"}
