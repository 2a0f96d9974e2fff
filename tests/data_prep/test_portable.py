"""The same graph on Beam's own job service, with worker processes that were started by hand."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from data_prep.__main__ import main
from data_prep.build import build
from tests.data_prep.scan_files import save_domains

ROOT = Path(__file__).parents[2]
SUBJECTS = [f"{i:02d}" for i in range(12)]


class JobOfTwoWorkers(local_job_service.BeamJob):
    """Beam's own job, whose runner asks for two workers: the service passes --direct_num_workers by."""

    def _invoke_runner(self):
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        runner = FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = 2
        return runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options())


@pytest.fixture
def job_service():
    service = local_job_service.LocalJobServicer(beam_job_type=JobOfTwoWorkers)
    yield f"localhost:{service.start_grpc_server()}"
    service.stop()


@pytest.fixture
def pool(tmp_path):
    """Beam's pool, which starts a process for every worker it is asked for; its address and its log."""
    # it starts them as `python`
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    log = tmp_path / "pool.log"
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=tmp_path, env=environment)
    try:
        deadline = time.monotonic() + 60
        while b"Started worker pool" not in log.read_bytes():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"localhost:{port}", log
    finally:
        process.terminate()
        process.wait()


def test_two_separate_worker_processes_write_the_same_records(tmp_path, job_service, pool):
    address, log = pool
    key = tmp_path / "key"
    (_, a), (_, b) = domains = save_domains(tmp_path, SUBJECTS)
    here = build(*domains, tmp_path / "here", key_file=key, workers=1)
    command = ["-m", "data_prep", "build", "--a", f"ciss={a}", "--b", f"dess={b}", "--out", tmp_path / "there"]
    command += [
        "--key-file",
        key,
        "--workers",
        "2",
        "--runner",
        "PortableRunner",
        "--",
        f"--job_endpoint={job_service}",
    ]
    command += ["--environment_type=EXTERNAL", f"--environment_config={address}"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = {p.relative_to(tmp_path / "there"): p.read_bytes() for p in (tmp_path / "there").rglob("*.*")}
    assert there == {p.relative_to(tmp_path / "here"): p.read_bytes() for p in (tmp_path / "here").rglob("*.*")}
    assert len(here["shards"]) > 6
    # the pool started two
    assert len(set(re.findall(r'worker_id="(\w+)"', log.read_text()))) == 2


def test_a_service_that_is_not_there_is_one_sentence(tmp_path, capsys):
    (_, a), (_, b) = save_domains(tmp_path, ["1"])
    command = ["build", "--a", f"ciss={a}", "--b", f"dess={b}", "--out", tmp_path / "out", "--key-file", tmp_path / "k"]
    command += ["--runner", "PortableRunner", "--", "--job_endpoint=localhost:9", "--job-server-timeout=1"]
    assert main([*map(str, command)]) == 2
    assert "error: The Beam runner cannot be reached" in capsys.readouterr().err
