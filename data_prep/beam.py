"""The Apache Beam pipeline, the same for every runner, and the processes of the one that runs it here."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cyclescan.common.command import progress
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_text

COUNTER = "counter"
OUTCOMES = "outcomes.tmp"


def find_runner(name: str, options: Sequence[str] = ()):
    """Return a runner of Beam by name, None for the one that runs here.

    Raises:
        InputError: Beam does not know the name, or cannot read one of the options (as on a command line).
    """
    if options:
        _pipeline_options(options)
    if name.lower() in ("direct", "directrunner"):
        # Beam's own DirectRunner first tries Prism, a program that it downloads
        return None
    with _quiet():
        from apache_beam.runners import runner
    try:
        return runner.create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"The runner {name!r} cannot be used: {error}") from error


def _pipeline_options(options: Sequence[str], **more):
    with _quiet():
        from apache_beam.options.pipeline_options import PipelineOptions

    if not options[:1] or options[0].startswith("--"):
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
            # `flags` is never None: Beam would read this program's own command line
            parsed = PipelineOptions(flags=list(options), **more)
            parsed.get_all_options(retain_unknown_options=True)  # reads them now, and not somewhere in a runner
            return parsed
        reason = said.getvalue().strip().rpartition("error: ")[2]
    else:
        reason = f"{options[0]!r} does not begin with --"
    raise InputError(f"The runner's options are not understood: {reason}.")


def run(
    function: Callable[[Any], dict],
    tasks: Sequence,
    folder: Path,
    runner,
    *,
    workers: int,
    options: Sequence[str],
    total: int,
) -> list[dict]:
    """Call `function` with every task, each in some worker; returns what it returned (plain JSON), in no fixed order.

    Args:
        function: importable by name in the workers.
        tasks: picklable.
        folder: seen by the workers under the same name; the outcomes come back through a file in it.
        runner: see `find_runner`.
        workers: processes, for the runners that leave this to us.
        options: of Beam and the runner, as on a command line.
        total: how many bytes the workers will have appended to `folder`/counter; for the progress bar.

    Raises:
        InputError: an option is not understood, the runner's service cannot be reached, or its workers cannot write
            to `folder`.
    """
    with _quiet():
        import apache_beam as beam
        import grpc
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
        from apache_beam.transforms.environments import SubprocessSDKEnvironment

    workers = min(workers, len(tasks))
    here = runner is None
    if here:
        command = _worker_command()
        environment = SubprocessSDKEnvironment.from_command_string(command) if workers > 1 else None
        runner = FnApiRunner(default_environment=environment)
    outcomes, counter = folder / OUTCOMES, folder / COUNTER
    write_text(counter, "")
    pipeline = beam.Pipeline(runner=runner, options=_pipeline_options(options, direct_num_workers=workers))
    (
        pipeline
        | "shards" >> beam.Create(tasks)
        | "read, prepare, write" >> beam.Map(function)
        | "gather" >> beam.combiners.ToList()
        | "outcomes" >> beam.Map(_save, str(outcomes.absolute()))
    )
    with _quiet() if here else contextlib.nullcontext(), _watched(counter, total):
        try:
            pipeline.run().wait_until_finish()
        except (grpc.RpcError, grpc.FutureTimeoutError, TimeoutError) as error:
            raise InputError(f"The Beam runner cannot be reached: {type(error).__name__} {error}.") from error
    if not outcomes.exists():
        raise InputError(f"{outcomes} cannot be written by the runner's workers; is the disk full, or not theirs?")
    result: Any = read_json(outcomes)
    outcomes.unlink()  # it names files
    return result


def _save(outcomes: list[dict], path: str) -> None:
    # an error would come back as Beam's own, with the trace of a worker; the file that is missing says it as well
    with contextlib.suppress(InputError):
        write_text(path, json.dumps(outcomes))


def _worker_command() -> str:
    """The shell command of a worker process: Beam's own, which finds every module that this process finds.

    Beam's multi_processing mode has a command of its own; it breaks where the interpreter's path has a space in it,
    finds cyclescan only where it is installed, and writes its life story to stderr. A worker ends with this process,
    also when this process is killed.
    """
    path = [p or os.getcwd() for p in sys.path]
    code = (
        f"import logging, sys; sys.path[:] = {path!r}; logging.disable(logging.WARNING); "
        f"from data_prep import beam; beam.end_with({os.getpid()}); "
        "from apache_beam.runners.worker import sdk_worker_main; sdk_worker_main.main([])"
    )
    return shlex.join([sys.executable, "-c", code])


def end_with(pid: int) -> None:
    """End this process within a second of the process `pid`, whatever it is doing."""

    def watch():
        while True:
            time.sleep(1)
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back Beam's warnings: about services that are not used here, and about workers it did not start itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _watched(counter: Path, total: int) -> Iterator[None]:
    """Show a bar while the workers append one byte to `counter` for every scan."""
    done = threading.Event()
    with progress(total=total, desc="scans", unit="scan") as bar:

        def show():
            while not done.wait(0.3):
                bar.update(counter.stat().st_size - bar.n)

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            bar.update(counter.stat().st_size - bar.n)
