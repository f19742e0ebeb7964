"""What every benchmark says of the machine and the versions that its figures belong to."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib import metadata


def describe(*packages: str) -> dict[str, str]:
    """CPU model, cores, load, system, Python, and the versions of `packages` ("missing" where not installed)."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    found = {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def line(machine: dict[str, str]) -> str:
    """The description as one line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def file_system(path: str) -> str:
    """The type of the file system that holds `path`, "" where the system does not say."""
    best = ("", "")
    try:
        with open("/proc/mounts") as file:
            for entry in file:
                _, point, kind, *_ = entry.split()
                if os.path.abspath(path).startswith(point) and len(point) >= len(best[0]):
                    best = (point, kind)
    except OSError:
        pass
    return best[1]


def fsync_ms(folder: str, count: int = 40) -> float:
    """Median wall time of one fsync of a file that just grew by 2 KiB, in milliseconds."""
    path = os.path.join(folder, "fsync-probe")
    taken = []
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        for _ in range(count):
            os.write(file, b"x" * 2048)
            start = time.perf_counter()
            os.fsync(file)
            taken.append((time.perf_counter() - start) * 1e3)
    finally:
        os.close(file)
        os.unlink(path)
    return statistics.median(taken)


def create_ms(folder: str, count: int = 40) -> float:
    """Median wall time of making one empty file, in milliseconds."""
    taken = []
    for number in range(count):
        path = os.path.join(folder, f"create-probe-{number}")
        start = time.perf_counter()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        taken.append((time.perf_counter() - start) * 1e3)
    for number in range(count):
        os.unlink(os.path.join(folder, f"create-probe-{number}"))
    return statistics.median(taken)
