"""How long a checkpoint of the published size takes to load, and how much memory it needs beside the file.

``python tests/benchmarks/bench_checkpoint.py``. DUSt3R 512 DPT, randomly filled, is written in the published layout
into a temporary folder (2.3 GB) and loaded in processes of its own: as it is, when the parameters stay the mapped file;
in bfloat16 on the CPU, which is a copy of half the size; and, where there is a GPU, in bfloat16 there. "Own" memory is
what is not a file's (RssAnon); "mapped" the part of files that was read so far (RssFile); "peak" both at their most
(VmHWM).
"""

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from c4d_nb.pointmaps.dust3r import VITL_DPT, VITL_LINEAR, DUSt3R

SIZES = {"dpt": VITL_DPT, "linear": VITL_LINEAR}

_log = logging.getLogger("bench_checkpoint")


def write_published(head: str, folder: Path) -> Path:
    """One of two names of a tensor only, contiguous, no word of a licence."""
    with torch.device("meta"):
        model = DUSt3R(SIZES[head])
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(values.shape).uniform_(-0.02, 0.02, generator=generator)
        for name, values in model.state_dict().items()
        if ".layer_rn." not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def memory_mib() -> dict[str, float]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {words[0].rstrip(":"): float(words[1]) for words in lines if words[-1] == "kB"}
    return {name: kib[field] / 1024 for name, field in (("own", "RssAnon"), ("mapped", "RssFile"), ("peak", "VmHWM"))}


def measure(folder: Path, device: str, dtype: torch.dtype, results: multiprocessing.Queue) -> None:
    torch.zeros(1, device=device)
    before, start = memory_mib(), time.perf_counter()
    model = DUSt3R.from_checkpoint(folder, device=device, dtype=dtype)
    seconds, loaded = time.perf_counter() - start, memory_mib()
    start = time.perf_counter()
    total = sum(float(parameter.detach().abs().max()) for parameter in model.parameters())  # reads every value
    reading, after = time.perf_counter() - start, memory_mib()
    assert 0 < total < len(list(model.parameters()))
    grown = {
        f"{name} {when}": at[name] - before[name] for when, at in (("loaded", loaded), ("read", after)) for name in at
    }
    results.put({"load, s": seconds, "read, s": reading} | grown)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and memory of loading a full-size checkpoint. Linux only.")
    parser.add_argument("--head", choices=SIZES, default="dpt")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="for the 2.3 GB that are written, and deleted again")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    cases = [("cpu", torch.float32), ("cpu", torch.bfloat16)]
    if torch.cuda.is_available():
        cases.append(("cuda", torch.bfloat16))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        start = time.perf_counter()
        write_published(options.head, Path(folder))
        size_mib = (Path(folder) / "model.safetensors").stat().st_size / 2**20
        writing = time.perf_counter() - start
        _log.info(
            "%d cores, load %.1f; a file of %.0f MiB, written in %.1f s",
            os.cpu_count(),
            os.getloadavg()[0],
            size_mib,
            writing,
        )
        _log.info("memory in MiB, beyond what the process had before it loaded the network:")
        for number, (device, dtype) in enumerate(cases):
            results = context.Queue()
            process = context.Process(target=measure, args=(Path(folder), device, dtype, results))
            process.start()
            row = results.get()
            process.join()
            if number == 0:
                _log.info("%-14s" + "%15s" * len(row), "", *row)
            name = f"{device} {str(dtype).removeprefix('torch.')}"
            _log.info("%-14s" + "%15.1f" * len(row), name, *row.values())


if __name__ == "__main__":
    main()
