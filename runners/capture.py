"""What surrounds a run, as plain data: interpreter, packages, machine, a few variables, and (in ``source``) the code.

Two runs are comparable only where this says so, therefore it is exact about versions and hardware. What it must
never do: record a variable that nobody allowed, the machine's plain name, or an access token; and never fail a run
because a tool (nvidia-smi, sysctl) is missing or slow: what is not known is empty.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from ledger.secrets import find
from runners.source import Git, capture_git, code_digest, code_files, file_digest

__all__ = [
    "Environment",
    "Git",
    "Gpu",
    "Hardware",
    "Package",
    "SecretInEnvironment",
    "capture_environment",
    "capture_git",
    "code_digest",
    "code_files",
    "file_digest",
    "other_python",
    "packages_of",
]


class SecretInEnvironment(ValueError):
    """An allowed variable holds an access token. Names the variable and the kind, never the value."""


class Package(msgspec.Struct, frozen=True, order=True):
    name: str  # normalised: lower case, single dashes
    version: str


class Gpu(msgspec.Struct, frozen=True):
    name: str
    memory_bytes: int
    driver: str


class Hardware(msgspec.Struct, frozen=True):
    cpu: str
    logical_cores: int
    usable_cores: int  # those that this process may use
    memory_bytes: int
    gpus: tuple[Gpu, ...]  # those that the run can see
    hardware_class: str  # short and stable, such as "cuda:NVIDIA H200 x1": runs are compared within it


class Environment(msgspec.Struct, frozen=True):
    """Everything around a run that may change its result and is not its code or its data."""

    python: str
    implementation: str
    platform: str  # "Linux x86_64"
    release: str  # of the system's kernel
    packages: tuple[Package, ...]
    hardware: Hardware
    host: str  # digest of the machine's name
    boot: str  # changes with every start of the machine; "" where unknown
    variables: dict[str, str]  # only allowed ones


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALLOWED = _words(
    "CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING CUBLAS_WORKSPACE_CONFIG NVIDIA_TF32_OVERRIDE "
    "HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS "
    "VECLIB_MAXIMUM_THREADS PYTHONHASHSEED PYTHONOPTIMIZE XLA_FLAGS TF32_OVERRIDE RANK WORLD_SIZE LOCAL_RANK "
    "LOCAL_WORLD_SIZE SLURM_JOB_ID SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_JOB_PARTITION SLURM_JOB_NUM_NODES "
    "SLURM_NNODES SLURM_NTASKS SLURM_PROCID SLURM_LOCALID SLURM_GPUS SLURM_GPUS_ON_NODE SLURM_CPUS_PER_TASK"
)
ALLOWED_PREFIXES = ("PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "NCCL_", "JAX_", "TRITON_")
PRESENCE = frozenset(("LD_PRELOAD", "DYLD_INSERT_LIBRARIES"))  # that they are set matters; their value names folders
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)(?:_|$)", re.I
)
_MAX_VALUE = 4096
_TOOL_TIMEOUT = 5.0


def capture_environment(extra_env: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Environment:
    """The surroundings of a run in this interpreter. ``environ`` is the run's, when it is not ours.

    SecretInEnvironment when a variable that is allowed, or that ``extra_env`` asks for, holds a token.
    """
    environ = os.environ if environ is None else environ
    variables = _variables(environ, extra_env)  # first: nothing else is worth doing when it is refused
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=f"{platform.system()} {platform.machine()}",
        release=platform.release(),
        packages=_packages(importlib.metadata.distributions()),
        hardware=_hardware(environ),
        host=hashlib.sha256(platform.node().encode()).hexdigest()[:16],
        boot=_boot(),
        variables=variables,
    )


# -- packages ------------------------------------------------------------------------------------------------


def _packages(found: Iterable[importlib.metadata.Distribution]) -> tuple[Package, ...]:
    """Name and version of each; of two with one name the first on the path, which is the one that is imported."""
    versions: dict[str, str] = {}
    for one in found:
        try:
            name, version = one.metadata["Name"], one.version
        except Exception:  # a half-removed package has no metadata, and that must not cost a run
            continue
        if name and version:
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return tuple(sorted(Package(name, version) for name, version in versions.items()))


_ASK = """
import json, sys
sys.path[:] = [p for p in sys.path if p]  # not the present folder
from importlib import metadata
print(json.dumps([[d.metadata["Name"], d.version] for d in metadata.distributions()]))
"""


def packages_of(python: str, timeout: float = 20.0) -> tuple[Package, ...] | None:
    """The packages of another interpreter, by asking it; None when it does not answer."""
    out = _output([python, "-c", _ASK], timeout)
    versions: dict[str, str] = {}
    try:
        for name, version in json.loads(out):
            if name and version:
                versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    except (ValueError, TypeError):
        return None
    return tuple(sorted(Package(name, version) for name, version in versions.items()))


def other_python(argv: Sequence[str], env: Mapping[str, str]) -> str | None:
    """The path of ``argv[0]`` when it is a Python with packages of its own, not ours; else None."""
    if not argv or not re.fullmatch(r"(?:python|pypy)[\d.]*", Path(argv[0]).name):
        return None
    path = shutil.which(argv[0], path=env.get("PATH", os.defpath))
    return path if path and _home(path) != _home(sys.executable) else None


def _home(python: str) -> Path:
    """Where an interpreter's packages live: its virtual environment, or the installation behind the links."""
    folder = Path(os.path.abspath(python)).parent.parent
    return folder.resolve() if (folder / "pyvenv.cfg").exists() else Path(python).resolve()


# -- variables -----------------------------------------------------------------------------------------------


def _variables(environ: Mapping[str, str], extra: Sequence[str]) -> dict[str, str]:
    wanted = set(extra)
    out = {}
    for name in sorted(environ):
        asked = name in wanted
        if name in PRESENCE:
            out[name] = "(set)"
            continue
        if not (asked or name in ALLOWED or name.startswith(ALLOWED_PREFIXES)):
            continue
        if _SECRET_NAME.search(name):
            if asked:
                raise SecretInEnvironment(f"the variable {name} is not recorded: its name says that it is a secret")
            continue
        # Some tokens are known only by the name before them, so both are looked at together.
        if kind := find(f"{name}={environ[name]}"):
            raise SecretInEnvironment(f"the variable {name} holds a token ({kind}) and would be recorded: unset it")
        out[name] = environ[name][:_MAX_VALUE]
    return out


# -- hardware ------------------------------------------------------------------------------------------------


def _output(argv: Sequence[str], timeout: float = _TOOL_TIMEOUT) -> str:
    """What a tool prints, or "" when it is missing, fails or is slow."""
    try:
        done = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _hardware(environ: Mapping[str, str]) -> Hardware:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    cpu, gpus = _cpu(), _visible(_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
    return Hardware(cpu, cores, usable, _memory(), gpus, _hardware_class(cpu, usable, gpus))


def _cpu() -> str:
    if sys.platform == "darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    else:
        try:
            text = Path("/proc/cpuinfo").read_text(errors="replace")
        except OSError:
            text = ""
        found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.M)
        name = found[1] if found else ""
        if not found and (part := re.search(r"^CPU part\s*:\s*(\S+)", text, re.M)):
            name = f"{platform.machine()} part {part[1]}"
    name = re.sub(r"\((?:R|TM|C)\)|\bCPU\b|@\s*[\d.]+\s*GHz|\b\d+-Core Processor\b|\bProcessor\b", " ", name)
    return " ".join(name.split()) or platform.machine() or "unknown"


def _memory() -> int:
    if sys.platform == "darwin":
        out = _output(["sysctl", "-n", "hw.memsize"]).strip()
        return int(out) if out.isdigit() else 0
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _gpus() -> list[Gpu]:
    if shutil.which("nvidia-smi") is None:
        return []
    out = _output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"])
    found = []
    for line in out.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3:
            memory = int(fields[1]) << 20 if fields[1].isdigit() else 0  # MiB; "[N/A]" on shared memory
            found.append(Gpu(fields[0], memory, fields[2]))
    return found


def _visible(gpus: list[Gpu], wanted: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to the run: like CUDA, up to the first entry that names none."""
    if wanted is None:
        return tuple(gpus)
    out = []
    for word in wanted.split(","):
        word = word.strip()
        if word.isdigit() and int(word) < len(gpus):
            out.append(gpus[int(word)])
        elif word.startswith(("GPU-", "MIG-")) and gpus:
            out.append(gpus[0])  # by its identifier: which one is not told here, its kind almost always is
        else:
            break
    return tuple(out)


def _hardware_class(cpu: str, cores: int, gpus: Sequence[Gpu]) -> str:
    if gpus:
        kinds = sorted({gpu.name for gpu in gpus})
        return " + ".join(f"cuda:{kind} x{sum(gpu.name == kind for gpu in gpus)}" for kind in kinds)
    return f"{'apple' if cpu.startswith('Apple') else 'cpu'}:{cpu} x{cores}"


def _boot() -> str:
    if sys.platform == "darwin":
        text = _output(["sysctl", "-n", "kern.boottime"])
    else:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            try:
                found = re.search(r"^btime \d+", Path("/proc/stat").read_text(), re.M)
            except OSError:
                found = None
            text = found[0] if found else ""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
