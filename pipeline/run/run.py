"""A run, start to end: plan the shards, restore what is not done, make whole shards, sum up."""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import ray

from pipeline.cluster.crew import Crew
from pipeline.cluster.session import ray_session
from pipeline.config import JobConfig
from pipeline.input import sources
from pipeline.input.rows import LeftOut, SourceError
from pipeline.input.sources import Listing
from pipeline.messages import some
from pipeline.observe.observer import observing
from pipeline.observe.progress import Progress, say
from pipeline.output import commits, lease, rows, run_json, usage_json
from pipeline.output.folder import METRICS_FILE, SUMMARY, OutputFolder
from pipeline.output.progress_json import Start
from pipeline.results import summary
from pipeline.results.summary import RunSummary
from pipeline.run import budget, captioning, failures, graph, pool
from pipeline.run.breaker import Breaker
from pipeline.run.compaction import Compaction
from pipeline.run.scan import scan
from pipeline.run.stop import Stop
from pipeline.run.watchdog import Watch
from pipeline.stores import retries, storage, storage_options
from pipeline.worker import stored_prompts


class RunError(RuntimeError):
    """A run that could not complete; what is committed stays, and the same command goes on from there.

    One argument a reason.
    """

    def __str__(self) -> str:
        return "\n".join(self.args)


class LimitError(RunError):
    """A run that was stopped at a limit of its job, budget or error_share; it would stop there again."""


def run(
    config: JobConfig, *, shards: str | None = None, retry_errors: bool = False, take_over: bool = False
) -> RunSummary:
    """Restores every row of the input that has no row in the output, and writes the summary.

    shards: only those whose name matches this pattern. retry_errors: restores rows with status `error` again.
    take_over: ends the lease of another driver on the output. A finished run returns within seconds, without
    starting Ray.

    Raises ConfigError when the output was begun with other settings or lies in the input; RunError when the
    input or its keys are wrong, another driver works on the output, or the run could not complete;
    LimitError, of those, when it was stopped at a limit of its job.
    """
    start = time.monotonic()
    output = OutputFolder(config.output)
    storage_options.configure(config.storage)
    pool.refuse_vanishing_output(config.output)
    retried = retries.Since()
    try:
        run_json.refuse_output_in_input(output, config.input)
        stored_prompts.check(config)
        listed = sources.listing(config.input, config.reading)
        run_json.refuse_output_in_input(output, listed.linked)
        planned = listed.shards
        config = run_json.as_begun(config)
        run_json.refuse_other_settings(config)
        run_json.refuse_changed_input(config, planned)
        earlier = usage_json.read(output)
    except SourceError as error:
        raise RunError(*error.args) from error
    except OSError as error:
        raise RunError(str(error)) from error
    names = [shard.name for shard in planned]
    chosen = fnmatch.filter(names, shards) if shards else names
    if not chosen:
        raise RunError(f"--shards {shards}: matches none of {some(names)}")
    open_shards = _open_shards(output, chosen, retry_errors)
    if open_shards:
        captioning.check(config)
        pool.refuse_missing_device(config)
        pool.refuse_uncompiled(config)
    dollars = usage_json.dollars(earlier, config.price)
    if open_shards and config.budget is not None and dollars is not None and dollars >= config.budget:
        raise LimitError(budget.spent(dollars, config.budget))
    summed_up = all(storage.exists(output.at(name)) for name in (SUMMARY, METRICS_FILE))
    if open_shards or not summed_up or not set(listed.left_out) <= set(summary.left_out(output)):
        with _alone(config, take_over) as held, Start(output) as entry:
            held.stop.told = entry.stopping
            storage.remove(output.at(SUMMARY))
            commits.remove_leftovers(output)
            try:
                done = (
                    _restore(config, listed, chosen, open_shards, retry_errors, held, entry)
                    if open_shards
                    else Done(Counter(), sources.left_out_of(planned))
                )
            except KeyboardInterrupt:
                if held.stop.over_budget:
                    read = sources.left_out_of(planned) if held.left_out is None else held.left_out
                    left_out = (*listed.left_out, *read)
                    seconds = time.monotonic() - start
                    summary.write(config, names, held.rows, seconds, {}, left_out, held.stop.reason)
                raise
            lease.check(output, held.lease)
            again = done.retries + Counter(retried.names())
            left_out = (*listed.left_out, *done.left_out)
            summary.write(config, names, held.rows, time.monotonic() - start, again, left_out)
    return summary.count(output, chosen, time.monotonic() - start)


@dataclass
class Held:
    """What a run has on its output: the lease's id, how it is ended early, and the rows that it restored.

    left_out: what of the shards becomes no row, once that is known.
    """

    lease: str
    stop: Stop
    rows: int = 0
    left_out: tuple[LeftOut, ...] | None = None


class Done(NamedTuple):
    """retries: of other processes, by their error. left_out: what of shards is no row."""

    retries: Counter[str]
    left_out: tuple[LeftOut, ...]


@contextmanager
def _alone(config: JobConfig, take_over: bool) -> Iterator[Held]:
    """Holds the output alone; whatever ends the run in here becomes one RunError."""
    with Stop() as stop:
        try:
            with lease.hold(
                OutputFolder(config.output), take_over=take_over, lost=stop.now, say=say
            ) as lease_id:
                yield Held(lease_id, stop)
        except KeyboardInterrupt:
            if stop.reason is None:  # a person's own
                raise
            raise (LimitError if stop.over_budget else RunError)(stop.reason) from None
        except failures.LimitReached as error:
            raise LimitError(str(error)) from error
        except SourceError as error:
            said = getattr(error, "cause", error).args  # a worker's comes inside Ray's
            raise RunError(*([stop.reason] if stop.reason else said)) from error
        except (ray.exceptions.RayError, OSError, RuntimeError) as error:
            raise RunError(stop.reason or failures.explain(error, config.output)) from error


def _restore(
    config: JobConfig,
    listed: Listing,
    chosen: Sequence[str],
    open_shards: set[str],
    retry_errors: bool,
    held: Held,
    entry: Start,
) -> Done:
    """Restores the open shards, each made whole as soon as its last row is there."""
    output = OutputFolder(config.output)
    with (
        ray_session(),
        Crew(held.lease).watched() as crew,
        Watch(config.no_progress_seconds, held.stop, crew).kept() as watch,
        observing(config) as observer,
    ):
        held.stop.listen()
        found = scan(
            listed.shards,
            output,
            retry_errors=retry_errors,
            open_shards=open_shards,
            stores=config.storage,
            captions_of=captioning.fingerprint(config),
        )
        held.left_out = found.left_out
        total, left = sum(found.rows[name] for name in chosen), sum(item.left for item in found.work)
        lease.check(output, held.lease)
        observer.counted(total, total - left)
        whole = Compaction(output, found.work, held.lease, config.storage)
        options = pool.actor_options(config)
        pool.refuse_too_large(config, options)
        crew.wanted = pool.wanted(config, options.device)
        breaker = Breaker(None if retry_errors else config.error_share)
        size, gpus = options.batch_size, partial(pool.gpus, options.device)
        for note in (*pool.notes(config, options.device), *run_json.begin(config, options.device)):
            say(note)
        for one in (*listed.left_out, *found.left_out):
            say(str(one))
        with budget.kept(observer.usage, config.budget, held.stop, gpus):
            captioning.caption(config, found.uncaptioned, options, held.lease, moved=watch.progress, tell=say)
            with Progress(
                entry, total, total - left, size, retries=found.retries, crew=crew
            ).shown() as progress:
                for part in graph.parts(found.work, *pool.shares(config, options.device)):
                    # Closed here, stopped or not: Ray Data cancels what is in work while Ray is up.
                    with closing(graph.receipts(config, part, options, retry_errors, held.lease)) as made:
                        for receipts in held.stop.gracefully(made, crew.at_work):
                            watch.progress()
                            held.rows += receipts.num_rows
                            progress.committed(receipts)
                            whole.count(receipts)
                            observer.committed(receipts)
                            observer.retried(progress.retries)
                            breaker.committed(receipts)
                whole.finish()
        return Done(progress.retries + whole.retries, found.left_out)


def _open_shards(output: OutputFolder, chosen: Sequence[str], retry_errors: bool) -> set[str]:
    """Shards that are not whole, whose commits were not tidied away, or that have errors to try again."""
    whole, begun = set(output.restored()), output.unfinished()
    failed = rows.with_errors(output, [name for name in chosen if name in whole]) if retry_errors else set()
    return {name for name in chosen if name not in whole or name in begun or name in failed}
