"""PyTorch's side of the GPU benchmark; run by benchmarks.gpu.

Needs PyTorch with torchvision; flash-kmeans for its measurement alone.
"""

import time

import numpy as np
import torch

from benchmarks import gpu_records

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_SCORES_AT_ONCE = 1 << 28
_NUM_CLASSES = 256


def wait(_=None) -> None:
    """Until the device is done."""
    if _DEVICE == "cuda":
        torch.cuda.synchronize()


def allow_tf32(allowed: bool) -> None:
    """For products and convolutions of float32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def ceilings(side: int) -> dict[str, float]:
    """TFLOP/s of square products by type, and GB/s of a copy, read and written."""
    rates = {}
    for name in ("bfloat16", "float16", "tf32", "float32"):
        allow_tf32(name == "tf32")
        matrix = torch.randn(side, side, device=_DEVICE)
        matrix = matrix.to(_DTYPES.get(name, torch.float32))
        product = lambda a=matrix: a @ a  # noqa: E731
        product(), wait()
        secs = gpu_records.median_secs(product, wait, steps=10)
        rates[name] = 2 * side**3 / secs / 1e12
    vector = torch.randn(side * side, device=_DEVICE)
    copy = torch.empty_like(vector)
    copy.copy_(vector), wait()
    secs = gpu_records.median_secs(lambda: copy.copy_(vector), wait, steps=10)
    return rates | {"copy_gb_per_sec": 8 * side**2 / secs / 1e9}


def train(
    modality: str,
    shape: list[int],
    batch_size: int,
    precision: str,
    steps: int,
    compiled: bool = False,
    depth_cut: bool = False,
) -> dict[str, float]:
    """Training steps and forward passes of torchvision's network, clips/s.

    Args:
      modality: "video" for r2plus1d_18, "audio" for ResNet-18 with one channel.
      shape: of a clip, channels last.
      batch_size: clips.
      precision: "float32", "tf32", "float16" or "bfloat16".
      steps: of a timed run.
      compiled: by torch.compile.
      depth_cut: the first stage alone, to try things out.
    """
    import torchvision

    allow_tf32(precision == "tf32")
    torch.backends.cudnn.benchmark = True
    if modality == "video":
        model = torchvision.models.video.r2plus1d_18(num_classes=_NUM_CLASSES)
        last = torch.channels_last_3d
    else:
        model = torchvision.models.resnet18(num_classes=_NUM_CLASSES)
        model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        last = torch.channels_last
    if depth_cut:
        model.layer2 = model.layer3 = model.layer4 = torch.nn.Identity()
        model.fc = torch.nn.Linear(64, _NUM_CLASSES)
    model = model.to(_DEVICE, memory_format=last)
    clips = torch.randn(batch_size, shape[-1], *shape[:-1], device=_DEVICE)
    clips = clips.to(memory_format=last)
    labels = torch.arange(batch_size, device=_DEVICE) % _NUM_CLASSES
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(_DEVICE, enabled=precision == "float16")
    run = torch.compile(model) if compiled else model

    def output():
        with torch.autocast(
            _DEVICE, _DTYPES.get(precision), enabled=precision in _DTYPES
        ):
            return run(clips)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(output().float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    def forward():
        with torch.inference_mode():
            return output()

    if _DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(3):
        loss = step()
    wait()
    figures = {"first_steps_secs": time.perf_counter() - start}
    figures["train_clips_per_sec"] = batch_size / gpu_records.median_secs(
        step, wait, steps=steps
    )
    figures["finite"] = bool(torch.isfinite(loss))
    if _DEVICE == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if not compiled:
        model.eval()
        forward(), wait()
        figures["forward_clips_per_sec"] = batch_size / gpu_records.median_secs(
            forward, wait, steps=steps
        )
    return figures


def kmeans(
    directory: str, rows: dict, num_clusters: int, num_iterations: int, precision: str
) -> dict[str, float]:
    """Lloyd's iterations as a few lines of PyTorch have them: seconds, inertia.

    Args:
      directory: of the rows' file.
      rows: arguments of make_rows.
      num_clusters: k; the first rows are the initial centroids.
      num_iterations: timed.
      precision: "float32" (without TF32), or "mixed" with bfloat16 products.
    """
    allow_tf32(False)
    path = gpu_records.make_rows(directory, **rows)
    values = torch.from_numpy(np.load(path)).to(_DEVICE).float()
    factors = values.bfloat16() if precision == "mixed" else values
    at_once = max(1, _SCORES_AT_ONCE // num_clusters)

    def iterate(centroids):
        columns = centroids.to(factors.dtype).T.contiguous()
        half_norms = 0.5 * columns.float().square().sum(0)
        sums = torch.zeros_like(centroids)
        counts = torch.zeros(num_clusters, device=_DEVICE)
        for start in range(0, len(values), at_once):
            scores = factors[start : start + at_once] @ columns
            labels = (scores - half_norms).argmax(1)
            sums.index_add_(0, labels, values[start : start + at_once])
            counts += torch.bincount(labels, minlength=num_clusters)
        means = sums / counts.clamp(min=1)[:, None]
        return torch.where(counts[:, None] > 0, means, centroids)

    # One iteration more, as the other engines do for the difference of two fits.
    centroids = iterate(values[:num_clusters].clone())
    wait()
    start = time.perf_counter()
    for _ in range(num_iterations):
        centroids = iterate(centroids)
    wait()
    secs = (time.perf_counter() - start) / num_iterations
    return {"secs_per_iteration": secs, "inertia": inertia(values, centroids)}


def flash_kmeans(
    directory: str, rows: dict, num_clusters: int, num_iterations: int, dtype: str
) -> dict[str, float]:
    """The same by flash-kmeans, on rows of a type: seconds of an iteration, inertia."""
    from flash_kmeans import batch_kmeans_Euclid

    path = gpu_records.make_rows(directory, **rows)
    values = torch.from_numpy(np.load(path)).to(_DEVICE).float()
    given = values.to(_DTYPES.get(dtype, torch.float32))[None]

    def fit(iterations):
        start = time.perf_counter()
        _, centroids, done = batch_kmeans_Euclid(
            given,
            num_clusters,
            max_iters=iterations,
            tol=-1.0,
            init_centroids=given[:, :num_clusters].clone(),
        )
        wait()
        if done != iterations:
            raise RuntimeError(f"it ended after {done} of {iterations} iterations")
        return time.perf_counter() - start, centroids

    fit(2)
    single_secs = fit(1)[0]
    secs, centroids = fit(1 + num_iterations)
    return {
        "secs_per_iteration": (secs - single_secs) / num_iterations,
        "inertia": inertia(values, centroids[0].float()),
    }


def inertia(values: torch.Tensor, centroids: torch.Tensor) -> float:
    """Sum of squared distances to the nearest centroids, by differences."""
    total = 0.0
    for start in range(0, len(values), 1 << 16):
        block = values[start : start + (1 << 16)]
        scores = block @ centroids.T - 0.5 * centroids.square().sum(1)
        nearest = centroids[scores.argmax(1)]
        total += float((block - nearest).square().sum(dtype=torch.float64))
    return total


def versions() -> dict[str, str]:
    """Versions of the libraries."""
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    if _DEVICE == "cuda":
        versions["cudnn"] = str(torch.backends.cudnn.version())
        versions["cuda"] = str(torch.version.cuda)
    return versions


if __name__ == "__main__":
    gpu_records.run_all(
        {
            function.__name__: function
            for function in (ceilings, train, kmeans, flash_kmeans)
        },
        versions(),
    )
