"""What surrounds a run: exact where it matters, silent about what nobody allowed."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runners import capture
from runners.capture import SecretInEnvironment, capture_environment, other_python, packages_of

TOKEN = "hf_" + "a1B2" * 9


def tool(folder: Path, name: str, text: str) -> None:
    """A program of that name, first on the path, that prints ``text``."""
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    (folder / name).chmod(0o755)


def test_the_interpreter_its_packages_and_the_machine_are_described():
    found = capture_environment()
    assert found.python == platform.python_version()
    assert found.platform == f"{platform.system()} {platform.machine()}"
    assert {p.name: p.version for p in found.packages}["msgspec"] == msgspec.__version__
    assert list(found.packages) == sorted(found.packages)
    assert found.hardware.memory_bytes > 1 << 28
    assert 1 <= found.hardware.usable_cores <= found.hardware.logical_cores == os.cpu_count()


def test_the_surroundings_are_plain_data_and_come_out_the_same_twice():
    first = msgspec.json.encode(capture_environment())
    assert first == msgspec.json.encode(capture_environment())
    assert msgspec.json.decode(first, type=capture.Environment).hardware.cpu


def test_the_name_of_the_machine_is_not_in_it():
    assert platform.node().encode() not in msgspec.json.encode(capture_environment().host)


def test_only_allowed_variables_are_recorded():
    given = {"OMP_NUM_THREADS": "2", "NCCL_DEBUG": "INFO", "HOME": "/home/u", "MY_ARM": "b", "OTHER": "x"}
    found = capture_environment(["MY_ARM"], given)
    assert found.variables == {"OMP_NUM_THREADS": "2", "NCCL_DEBUG": "INFO", "MY_ARM": "b"}


def test_a_preloaded_library_is_told_without_its_path():
    assert capture_environment((), {"LD_PRELOAD": "/lib/x.so"}).variables == {"LD_PRELOAD": "(set)"}


@pytest.mark.parametrize("name", ["MY_ARM", "XLA_FLAGS"])
def test_a_token_in_a_recorded_variable_is_refused_by_name_and_not_shown(name):
    with pytest.raises(SecretInEnvironment, match=f"{name}.*Hugging Face") as caught:
        capture_environment(["MY_ARM"], {name: f"key={TOKEN}"})
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_in_a_variable_that_is_not_recorded_is_nobodys_business():
    assert capture_environment((), {"HF_TOKEN": TOKEN}).variables == {}


def test_a_variable_that_is_called_a_secret_is_never_recorded():
    assert capture_environment((), {"TORCH_API_KEY": "abc"}).variables == {}
    with pytest.raises(SecretInEnvironment, match="MY_PASSWORD"):
        capture_environment(["MY_PASSWORD"], {"MY_PASSWORD": "hunter2"})


def test_gpus_are_read_and_make_the_hardware_class(tmp_path, monkeypatch):
    tool(tmp_path, "nvidia-smi", "NVIDIA H200, 143771, 570.86.15\nNVIDIA H200, 143771, 570.86.15")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hardware = capture_environment((), {}).hardware
    assert hardware.gpus == (capture.Gpu("NVIDIA H200", 143771 << 20, "570.86.15"),) * 2
    assert hardware.hardware_class == "cuda:NVIDIA H200 x2"


@pytest.mark.parametrize(
    ("visible", "end"),
    [("0", "cuda:NVIDIA H200 x1"), ("1,0", "cuda:NVIDIA H200 x2"), ("GPU-5a", "cuda:NVIDIA H200 x1")],
)
def test_gpus_that_the_run_cannot_see_do_not_count(tmp_path, monkeypatch, visible, end):
    tool(tmp_path, "nvidia-smi", "NVIDIA H200, 143771, 570.86.15\nNVIDIA H200, 143771, 570.86.15")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert capture_environment((), {"CUDA_VISIBLE_DEVICES": visible}).hardware.hardware_class == end


@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_run_with_all_gpus_hidden_is_a_cpu_run(tmp_path, monkeypatch, visible):
    tool(tmp_path, "nvidia-smi", "NVIDIA H200, 143771, 570.86.15")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert not capture_environment((), {"CUDA_VISIBLE_DEVICES": visible}).hardware.gpus


def test_a_graphics_tool_that_hangs_or_fails_costs_nothing_but_its_answer(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(capture, "_TOOL_TIMEOUT", 0.3)
    assert capture._output(["nvidia-smi"], 0.3) == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho broken; exit 9\n")
    assert capture._output(["nvidia-smi"], 5) == ""


def test_the_packages_of_another_python_are_asked_of_it():
    found = packages_of(sys.executable)
    assert found is not None
    assert capture.Package("msgspec", msgspec.__version__) in found
    assert set(found) <= set(capture_environment().packages)  # ours may see more: the folder that it runs in


def test_a_python_that_does_not_answer_gives_nothing(tmp_path):
    tool(tmp_path, "python", "not json")
    assert packages_of(str(tmp_path / "python")) is None
    assert packages_of(str(tmp_path / "missing")) is None


def test_a_python_of_another_environment_is_told_from_ours(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    assert other_python([sys.executable, "train.py"], {}) is None
    assert other_python(["bash", "run.sh"], dict(os.environ)) is None
    folder = tmp_path / "v" / "bin"
    assert other_python(["python", "train.py"], {"PATH": str(folder)}) == str(folder / "python")
