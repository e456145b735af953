"""The files of configs/launch: do they parse, and do they set TF_CONFIG right?"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks import engine_processes
from data_prep import synthetic
from xdc_tf.distribution import devices

pytestmark = pytest.mark.once

LAUNCH = Path(__file__).parents[2] / "configs" / "launch"
TELL = 'echo "$TF_CONFIG"; echo "$@"; exit ${EXIT_CODE:-0}'


def program(directory, name, text):
    path = directory / name
    path.write_text(f"#!/bin/bash\n{textwrap.dedent(text)}\n")
    path.chmod(0o755)
    return str(path)


def run_slurm(directory, **variables):
    """Runs the job's script with commands of our own in the place of Slurm's."""
    program(
        directory,
        "scontrol",
        """
        case "$1 $2" in
          "show hostnames") printf 'node3\\nnode4\\n' ;;
          requeue*) echo "requeued $2" ;;
        esac
        """,
    )
    program(directory, "srun", 'shift 2; SLURM_PROCID=1 exec "$@"')
    return subprocess.run(
        ["bash", LAUNCH / "slurm.sh", "--workdir=/shared/a run"],
        env=os.environ
        | {
            "PATH": f"{directory}:{os.environ['PATH']}",
            "PYTHON": program(directory, "python", TELL),
            "SLURM_JOB_NODELIST": "node[3-4]",
            "SLURM_JOB_ID": "40007",
        }
        | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def check_tf_config(text, addresses, index, monkeypatch):
    assert json.loads(text) == {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": index},
    }
    monkeypatch.setenv("TF_CONFIG", text)
    assert devices.num_workers_of_environment() == len(addresses)


def test_slurm_gives_each_task_all_hosts_and_its_number(tmp_path, monkeypatch):
    finished = run_slurm(tmp_path)
    assert finished.returncode == 0, finished.stderr
    tf_config, arguments = finished.stdout.splitlines()
    check_tf_config(tf_config, ["node3:20007", "node4:20007"], 1, monkeypatch)
    assert arguments == "-m xdc_tf.cli.pretrain --workdir=/shared/a run"


@pytest.mark.parametrize(
    ("variables", "requeued"),
    [
        ({"EXIT_CODE": "75"}, True),
        ({"EXIT_CODE": "75", "SLURM_RESTART_COUNT": "10"}, False),
        ({"EXIT_CODE": "1"}, False),
    ],
)
def test_slurm_requeues_a_job_that_lost_a_worker_some_times(
    variables, requeued, tmp_path
):
    finished = run_slurm(tmp_path, **variables)
    assert finished.returncode == int(variables["EXIT_CODE"])
    assert ("requeued 40007" in finished.stdout) == requeued


def kubernetes():
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


def test_kubernetes_gives_each_pod_all_addresses_and_its_index(tmp_path, monkeypatch):
    _, job = kubernetes()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    finished = subprocess.run(
        [*container["command"], *container["args"]],
        env=os.environ
        | {entry["name"]: entry.get("value", "1") for entry in container["env"]}
        | {"PYTHON": program(tmp_path, "python", TELL)},
        capture_output=True,
        text=True,
        check=True,
    )
    tf_config, arguments = finished.stdout.splitlines()
    addresses = ["xdc-tf-0.xdc-tf:2222", "xdc-tf-1.xdc-tf:2222"]
    check_tf_config(tf_config, addresses, 1, monkeypatch)
    assert arguments.startswith("-m xdc_tf.cli.pretrain --config=configs/base.py")


def test_kubernetes_names_its_service_pods_and_their_number_in_agreement():
    service, job = kubernetes()
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert variables["NUM_WORKERS"] == str(job["spec"]["completions"])
    assert variables["PORT"] == str(service["spec"]["ports"][0]["port"])


@pytest.mark.slow
def test_slurm_converts_by_dask(tmp_path):
    """Two tasks here in the place of two machines, with the real commands."""
    pytest.importorskip("distributed")
    manifest = synthetic.make_benchmark(tmp_path / "videos", num_videos=4, seed=0)
    program(tmp_path, "scontrol", 'printf "127.0.0.1\\n127.0.0.1\\n"')
    program(
        tmp_path,
        "srun",
        """
        shift 3
        SLURM_PROCID=1 setsid "$@" > /dev/null 2>&1 &
        other=$!
        SLURM_PROCID=0 setsid "$@" 2> errors & first=$!
        code=0; wait $first || code=$?
        for group in $first $other; do kill -KILL -- -$group; done
        exit $code
        """,
    )
    finished = subprocess.run(
        [
            *("bash", LAUNCH / "dask_slurm.sh", f"--manifest={manifest}"),
            *(f"--out={tmp_path / 'out'}", "--short_side=48", "--rows_per_shard=2"),
        ],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(LAUNCH.parents[1]),
            "SLURM_JOB_NODELIST": "node[3-4]",
            "SLURM_JOB_ID": str(engine_processes.free_port() - 20000),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, (tmp_path / "errors").read_text()
    assert "4 of 4 rows converted into 2 shards" in finished.stdout


def test_the_parts_of_a_dask_cluster_on_kubernetes_find_each_other():
    yaml = pytest.importorskip("yaml")
    text = (LAUNCH / "dask_kubernetes.yaml").read_text()
    parts = {(p["kind"], p["metadata"]["name"]): p for p in yaml.safe_load_all(text)}
    service = parts["Service", "xdc-tf-dask"]["spec"]
    address = f"tcp://xdc-tf-dask:{service['ports'][0]['port']}"
    pods = {
        name: part["spec"]["template"]
        for (kind, name), part in parts.items()
        if kind in ("Deployment", "Job")
    }
    scheduler = pods["xdc-tf-dask-scheduler"]
    assert service["selector"].items() <= scheduler["metadata"]["labels"].items()
    commands = {
        name: [*pod["spec"]["containers"][0]["command"]]
        + pod["spec"]["containers"][0]["args"]
        for name, pod in pods.items()
    }
    assert f"--port={service['ports'][0]['port']}" in commands["xdc-tf-dask-scheduler"]
    assert address in commands["xdc-tf-dask-worker"]
    assert f"--dask={address}" in commands["xdc-tf-convert"]
    allowed = parts["NetworkPolicy", "xdc-tf-dask"]["spec"]["podSelector"]
    for pod in pods.values():
        assert allowed["matchLabels"].items() <= pod["metadata"]["labels"].items()
