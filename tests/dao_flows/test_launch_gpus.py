"""Several GPU jobs on a node: each worker and each process of a training sees its own, none more cores than are its."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dao_flows.launch.project import Project, contents
from dao_flows.makers.models.checkpoints import pick_device
from dao_flows.model.training.distributed import local_device

URI = "mongodb://127.0.0.1:1"


def launch(folder: Path, gpus: int, environment: dict[str, str]) -> list[str]:
    """What the workers of a project's launch.sh saw: route, GPU, threads, directory."""
    texts = contents(Project(folder, URI, gpus=gpus))
    (folder / "env.sh").write_text("")
    script = texts["launch.sh"][1]
    start = next(line.strip() for line in script.splitlines() if "rapidfire" in line and '"$@"' in line)
    seen = f'echo "$route ${{CUDA_VISIBLE_DEVICES-none}} $OMP_NUM_THREADS $(basename "$PWD")" >> {folder}/seen'
    (folder / "launch.sh").write_text(script.replace(start, seen))
    clean = {
        name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    }
    run = ["bash", str(folder / "launch.sh"), "--timeout", "1"]
    subprocess.run(run, env={**clean, **environment}, check=True, timeout=60)
    return sorted((folder / "seen").read_text().splitlines())


def test_without_a_queue_each_gpu_has_a_worker_that_sees_no_other(tmp_path):
    seen = [line.split() for line in launch(tmp_path, 3, {"OMP_NUM_THREADS": "2"})]
    assert seen == [
        ["cpu", "2", "cpu"],  # sees no GPU at all
        ["dft", "2", "dft"],
        ["gpu", "0", "2", "gpu-0"],
        ["gpu", "1", "2", "gpu-1"],
        ["gpu", "2", "2", "gpu-2"],
    ]


def test_the_gpus_that_the_script_was_given_are_shared_out_and_cores_too(tmp_path):
    seen = [line.split() for line in launch(tmp_path, 3, {"CUDA_VISIBLE_DEVICES": "5,7"})]
    assert [line[:2] for line in seen if line[0] == "gpu"] == [["gpu", "5"], ["gpu", "7"]]
    cores = len(os.sched_getaffinity(0))
    assert {int(line[-2]) for line in seen} == {max(1, cores // 4)}


def test_one_worker_for_all_gpus_unless_asked(tmp_path):
    assert [line.split()[:2] for line in launch(tmp_path, 0, {})] == [["cpu", "none"], ["dft", "none"], ["gpu", "none"]]


def test_slurm_jobs_keep_to_the_cores_they_asked_for(tmp_path):
    (tmp_path / "env.sh").write_text(contents(Project(tmp_path, URI, queue="slurm"))["env.sh"][1])

    def threads(**environment: str) -> str:
        command = f". {tmp_path}/env.sh; echo $OMP_NUM_THREADS"
        clean = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "77", **environment}
        return subprocess.run(["bash", "-c", command], env=clean, capture_output=True, text=True).stdout.strip()

    assert threads() == "77"  # a login shell
    assert threads(SLURM_JOB_ID="1", SLURM_CPUS_PER_TASK="4") == "4"
    assert threads(SLURM_JOB_ID="1") == "1"  # ranks of MPI


def test_a_process_of_a_training_takes_the_visible_gpu_that_torchrun_counts_off(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_device("cuda") == "cuda"  # the first that is visible
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert local_device("cuda") == "cuda:1"  # an index into what is visible, GPU 7 here
    assert local_device("cpu") == "cpu"


def test_no_visible_gpu_means_the_cpu():
    code = "from dao_flows.makers.models.checkpoints import pick_device; print(pick_device('auto'))"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "cpu", done.stderr
    assert pick_device("cpu") == "cpu"


def has_gpu_partition() -> bool:
    if shutil.which("sinfo") is None:
        return False
    asked = subprocess.run(["sinfo", "--noheader", "--format=%P %G"], capture_output=True, text=True)
    return any(line.split() and line.startswith("gpu ") and "gpu:" in line for line in asked.stdout.splitlines())


@pytest.mark.skipif(not has_gpu_partition(), reason="there is no Slurm with a GPU in a partition called gpu")
def test_two_gpu_jobs_never_run_at_once_on_the_one_gpu_and_each_sees_it(tmp_path):
    body = f"""echo "$SLURM_JOB_ID begin $(date +%s%N) ${{CUDA_VISIBLE_DEVICES-none}}" >> {tmp_path}/seen
sleep 2
echo "$SLURM_JOB_ID end $(date +%s%N)" >> {tmp_path}/seen"""
    command = ["sbatch", "--parsable", "-p", "gpu", "-o", "/dev/null", "--time=2"]
    gpu = [*command, "--gres=gpu:1", "--wrap", body]
    jobs = [subprocess.run(gpu, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    without = [*command, "--wrap", f'echo "${{CUDA_VISIBLE_DEVICES-none}}" > {tmp_path}/without']
    subprocess.run(without, capture_output=True, check=True)
    deadline = time.monotonic() + 90
    seen: list[list[str]] = []
    while time.monotonic() < deadline and not (len(seen) == 4 and (tmp_path / "without").exists()):
        time.sleep(0.5)
        seen = (
            [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
            if (tmp_path / "seen").exists()
            else []
        )
    assert [line[1] for line in sorted(seen, key=lambda line: int(line[2]))] == ["begin", "end", "begin", "end"]
    assert {line[0] for line in seen} == set(jobs)
    assert [line[3] for line in seen if line[1] == "begin"] == ["0", "0"]
    assert (tmp_path / "without").read_text().strip() in ("", "none", "NoDevFiles")
