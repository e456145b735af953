"""What the GPU benchmark measures, in which order, and how large."""

import dataclasses
import os

from benchmarks.gpu_records import Measurement

# Which part of --minutes a stage gets in --stage=all.
STAGES = {
    "check": 0.24,
    "train": 0.38,
    "kmeans": 0.14,
    "extract": 0.1,
    "pipeline": 0.07,
    "profile": 0.07,
}
TORCH, OURS = "gpu_torch", "gpu_tensorflow"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements; the defaults are for a GPU of 80 GB."""

    side: int = 8192
    depth: int = 18
    width: float = 1.0
    short: tuple[int, ...] = (8, 112, 112, 3)
    long: tuple[int, ...] = (32, 112, 112, 3)
    log_mel: tuple[int, ...] = (100, 40, 1)
    batch_size: int = 64
    large_batch_size: int = 192
    long_batch_size: int = 16
    audio_batch_size: int = 512
    check_batch_size: int = 8
    steps: int = 5
    checked_steps: int = 10
    kmeans_check: tuple[int, int, int, int] = (200_000, 256, 256, 10)
    num_rows: int = 1_000_000
    row_width: int = 512
    num_clusters: tuple[int, int] = (256, 4096)
    many_rows: int = 10_000_000
    many_width: int = 128
    many_clusters: int = 1024
    copies: tuple[int, int] = (8, 30)
    blocks: tuple[tuple[int, int], ...] = (
        (1 << 18, 256),
        (1 << 16, 4096),
        (1 << 14, 4096),
    )
    scores: int = 1 << 28
    iterations: int = 20
    videos: int = 16
    clips: int = 3200
    profiled_steps: int = 20
    pretrain_flags: tuple[str, ...] = ("--config.checkpoint_every_steps=10",)
    pretrain_clip: tuple[int, ...] = (2, 8, 40, 40, 3)


_TINY_FLAGS = {
    "checkpoint_every_steps": 3,
    "training.batch_size": 4,
    "training.epochs_per_round": 1,
    "clip.num_frames": 4,
    "clip.crop_size": 16,
    "clip.audio_secs": 0.5,
    # The fewest layers: most of the time is tracing.
    "video_encoder.architecture": "r3d",
    "video_encoder.depth": 4,
    "audio_encoder.depth": 4,
    "video_encoder.width": 0.5,
    "audio_encoder.width": 0.5,
    "kmeans.num_clusters": 4,
    "kmeans.num_restarts": 1,
    "features.batch_size": 8,
    "features.batch_norm_batches": 2,
}
TINY = Sizes(
    side=64,
    depth=4,
    width=0.125,
    short=(4, 16, 16, 3),
    long=(8, 16, 16, 3),
    log_mel=(20, 20, 1),
    batch_size=2,
    large_batch_size=3,
    long_batch_size=2,
    audio_batch_size=3,
    check_batch_size=2,
    steps=1,
    checked_steps=2,
    kmeans_check=(2000, 8, 8, 3),
    num_rows=2000,
    row_width=16,
    num_clusters=(8, 16),
    many_rows=3000,
    many_width=8,
    many_clusters=8,
    copies=(2, 3),
    blocks=((512, 8), (256, 16), (128, 16)),
    scores=4096,
    iterations=2,
    videos=1,
    clips=32,
    profiled_steps=2,
    pretrain_flags=tuple(f"--config.{k}={v}" for k, v in _TINY_FLAGS.items()),
    pretrain_clip=(2, 4, 16, 16, 3),
)


def measurements(
    stage: str, sizes: Sizes, *, directory: str, records: str = ""
) -> list[Measurement]:
    """A stage's measurements, the most important first.

    Args:
      stage: of STAGES.
      sizes: how much work.
      directory: for files that they share.
      records: of the embedded benchmark, or empty.
    """
    return _PLANS[stage](sizes, directory, records)


def _network(sizes: Sizes, modality: str, shape: tuple[int, ...]) -> tuple:
    name = {"video": "r2plus1d_torchvision", "audio": "resnet_torchvision"}[modality]
    return (name, sizes.depth, sizes.width, shape)


def _check(sizes, directory, records):
    video = {"video": _network(sizes, "video", sizes.short)}
    audio = {"audio": _network(sizes, "audio", sizes.log_mel)}
    size, steps = sizes.check_batch_size, sizes.checked_steps
    rows, width, clusters, iterations = sizes.kmeans_check

    def step(name, streams, size, precision):
        return Measurement(
            f"check {name} step {precision}",
            OURS,
            "step_agrees",
            dict(streams=streams, batch_size=size, precision=precision),
            solo=precision == "tf32",
        )

    def finite(precision, streams, name):
        return Measurement(
            f"check {name} mixed_{precision} finite",
            OURS,
            "mixed_is_finite",
            dict(streams=streams, batch_size=size, precision=precision, steps=steps),
        )

    return [
        Measurement(
            "check kmeans",
            OURS,
            "kmeans_agrees",
            dict(
                num_rows=rows,
                width=width,
                num_clusters=clusters,
                num_iterations=iterations,
            ),
        ),
        step("video", video, size, "float32"),
        finite("bfloat16", video, "video"),
        finite("float16", video, "video"),
        Measurement(
            "check pretraining, killed and resumed",
            OURS,
            "pretraining_resumes",
            dict(
                directory=os.path.join(directory, "pretraining"),
                records=records,
                flags=sizes.pretrain_flags,
                clip=sizes.pretrain_clip,
            ),
        ),
        step("audio", audio, 4 * size, "float32"),
        finite("float16", audio, "audio"),
        finite("bfloat16", audio, "audio"),
        step("video", video, size, "tf32"),
    ]


def _train(sizes, directory, records):
    del directory, records
    short = {"video": _network(sizes, "video", sizes.short)}
    long = {"video": _network(sizes, "video", sizes.long)}
    audio = {"audio": _network(sizes, "audio", sizes.log_mel)}

    def ours(name, streams, size, precision, *, steps=sizes.steps, **options):
        # TensorFlow keeps the convolutions that it has chosen with TF32 or without.
        solo = options.get("deterministic", False) or precision == "float32"
        batch = dict(batch_size=size, precision=precision, steps=steps)
        words = ["train", name, f"batch {size}", precision, *map(str, options)]
        return Measurement(
            " ".join(words), OURS, "train", {"streams": streams} | batch | options, solo
        )

    def torch(name, streams, size, precision, **options):
        ((modality, network),) = streams.items()
        arguments = dict(
            modality=modality,
            shape=network[3],
            batch_size=size,
            precision=precision,
            steps=sizes.steps,
            depth_cut=sizes.depth < 18,
        )
        what = "torch compiled" if options else "torch train"
        name = f"{what} {name} batch {size} {precision}"
        return Measurement(name, TORCH, "train", arguments | options)

    types, size = ("bfloat16", "tf32", "float16", "float32"), sizes.batch_size
    return [
        Measurement("ceilings", OURS, "ceilings", dict(side=sizes.side)),
        *(ours("8x112", short, size, precision) for precision in types),
        Measurement("torch ceilings", TORCH, "ceilings", dict(side=sizes.side)),
        *(torch("8x112", short, size, precision) for precision in types),
        torch("32x112", long, sizes.long_batch_size, "bfloat16"),
        ours("32x112", long, sizes.long_batch_size, "bfloat16"),
        ours("8x112", short, size, "bfloat16", jit_compile=True),
        ours("8x112", short, size, "bfloat16", compiled_update=True),
        ours("audio and 8x112", short | audio, size, "bfloat16"),
        ours("8x112", short, sizes.large_batch_size, "bfloat16"),
        ours("audio", audio, sizes.audio_batch_size, "bfloat16"),
        torch("audio", audio, sizes.audio_batch_size, "bfloat16"),
        torch("32x112", long, sizes.long_batch_size, "tf32"),
        torch("8x112", short, size, "bfloat16", compiled=True),
        ours("32x112", long, sizes.long_batch_size, "tf32"),
        ours("8x112", short, size, "tf32", jit_compile=True),
        ours("8x112", short, size, "bfloat16", deterministic=True),
    ]


def _kmeans(sizes, directory, records):
    del records
    rows = dict(num_rows=sizes.num_rows, width=sizes.row_width, dtype="float32")
    half = dict(num_rows=sizes.num_rows, width=sizes.row_width, dtype="float16")
    many = dict(num_rows=sizes.many_rows, width=sizes.many_width, dtype="float16")

    def measured(program, function, rows, clusters, kind, **options):
        words = {TORCH: "torch", OURS: "ours"}[program]
        if function == "flash_kmeans":
            words = "flash-kmeans"
        key = "dtype" if function == "flash_kmeans" else "precision"
        shape = f"{rows['num_rows']} x {rows['width']}, k {clusters}"
        return Measurement(
            f"kmeans {words} {kind} {shape} {' '.join(options)}".strip(),
            program,
            function,
            {
                "directory": directory,
                "rows": rows,
                "num_clusters": clusters,
                "num_iterations": sizes.iterations,
                key: kind,
            }
            | options,
        )

    few, some = sizes.num_clusters

    def from_files(copies):
        return Measurement(
            f"kmeans ours mixed from files, {copies} x {sizes.num_rows} x "
            f"{sizes.row_width}, k {few}",
            OURS,
            "kmeans",
            {
                "directory": directory,
                "rows": half,
                "num_clusters": few,
                "num_iterations": max(1, sizes.iterations // 10),
                "precision": "mixed",
                "copies": copies,
            },
        )

    return [
        measured(OURS, "kmeans", rows, few, "mixed", whole=True),
        measured(OURS, "kmeans", rows, few, "float32"),
        measured(OURS, "kmeans", rows, some, "mixed", whole=True),
        measured(OURS, "kmeans", rows, some, "float32"),
        measured(TORCH, "kmeans", rows, few, "mixed"),
        measured(TORCH, "kmeans", rows, few, "float32"),
        measured(TORCH, "kmeans", rows, some, "mixed"),
        measured(TORCH, "kmeans", rows, some, "float32"),
        measured(TORCH, "flash_kmeans", rows, few, "bfloat16"),
        measured(TORCH, "flash_kmeans", rows, some, "bfloat16"),
        measured(TORCH, "kmeans", many, sizes.many_clusters, "mixed"),
        measured(TORCH, "flash_kmeans", many, sizes.many_clusters, "float16"),
        measured(OURS, "kmeans", many, sizes.many_clusters, "mixed"),
        from_files(sizes.copies[0]),
        measured(OURS, "kmeans", rows, few, "mixed", block_scores=sizes.scores),
        measured(OURS, "kmeans", rows, some, "mixed", block_scores=sizes.scores),
        from_files(sizes.copies[1]),
        *(
            Measurement(
                f"kmeans parts {num_rows} x {sizes.row_width}, k {clusters}",
                OURS,
                "kmeans_parts",
                {
                    "num_rows": num_rows,
                    "width": sizes.row_width,
                    "num_clusters": clusters,
                    "steps": 4 * sizes.steps,
                },
            )
            for num_rows, clusters in sizes.blocks
        ),
    ]


def _extract(sizes, directory, records):
    del directory, records
    short = {"video": _network(sizes, "video", sizes.short)}
    audio = {"audio": _network(sizes, "audio", sizes.log_mel)}
    measurements = [
        Measurement(
            f"extract 8x112 batch {size} {precision}",
            OURS,
            "extract",
            dict(
                streams=short,
                batch_size=size,
                precision=precision,
                batches=2 * sizes.steps,
            ),
            solo=precision == "float32",
        )
        for size, precision in (
            (sizes.batch_size, "bfloat16"),
            (sizes.batch_size, "tf32"),
            (sizes.batch_size, "float16"),
            (sizes.large_batch_size, "bfloat16"),
            (sizes.batch_size, "float32"),
        )
    ]
    return measurements + [
        Measurement(
            f"extract audio batch {sizes.audio_batch_size} bfloat16",
            OURS,
            "extract",
            dict(
                streams=audio,
                batch_size=sizes.audio_batch_size,
                precision="bfloat16",
                batches=2 * sizes.steps,
            ),
        )
    ]


def _pipeline(sizes, directory, records):
    del records
    return [
        Measurement(
            "pipeline 8x112",
            OURS,
            "pipeline",
            dict(
                directory=os.path.join(directory, "pipeline"),
                num_videos=sizes.videos,
                num_clips=sizes.clips,
            ),
        )
    ]


def _profile(sizes, directory, records):
    del directory, records
    streams = {
        "video": _network(sizes, "video", sizes.short),
        "audio": _network(sizes, "audio", sizes.log_mel),
    }
    return [
        Measurement(
            f"profile audio and 8x112 batch {sizes.batch_size} {precision}",
            OURS,
            "profile",
            dict(
                streams=streams,
                batch_size=sizes.batch_size,
                precision=precision,
                steps=sizes.profiled_steps,
            ),
        )
        for precision in ("bfloat16", "tf32")
    ]


_PLANS = {
    "check": _check,
    "train": _train,
    "kmeans": _kmeans,
    "extract": _extract,
    "pipeline": _pipeline,
    "profile": _profile,
}
