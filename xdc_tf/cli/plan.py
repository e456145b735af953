"""Estimates what a run needs: memory, disk, reading, time and money.

    python -m xdc_tf.cli.plan --config=configs/base.py --num_videos=65000000 \\
        --gpus=64 --gpu=h100 --config.training.batch_size=2048

counts the operations of its encoders and prints tables with what they rest on. With
--gpu=this the device of this machine is measured first. See docs/planning.md.
"""

import json

from absl import flags

from xdc_tf.cli import recipe_flags
from xdc_tf.runtime import outputs, program

_CONFIG = recipe_flags.DEFINE_recipe(
    "config", None, "Configuration of the run, as of the command pretrain."
)
flags.mark_flag_as_required("config")
_NUM_VIDEOS = flags.DEFINE_integer(
    "num_videos", None, "Videos of the data set; default: those of --records."
)
_GPUS = flags.DEFINE_integer("gpus", 1, "Number of devices, over all machines.")
_GPU = flags.DEFINE_string(
    "gpu", "this", "Device, such as h100 or a100; this: measured on this machine."
)
_GPUS_PER_MACHINE = flags.DEFINE_integer(
    "gpus_per_machine", 8, "Number of devices of one machine, at most.", lower_bound=1
)
_EFFICIENCY = flags.DEFINE_list(
    "efficiency",
    None,
    "Fraction of the device's peak that matrix products reach: one number, or three "
    "for training, extraction and k-means. Default: as measured on a CPU, or on a GPU.",
)
_RECORDS = flags.DEFINE_string(
    "records", None, "Directory of records; all videos are assumed to be like theirs."
)
_VIDEO_SECS = flags.DEFINE_float(
    "video_secs", 10.0, "Length of a video, without --records.", lower_bound=0
)
_FPS = flags.DEFINE_float(
    "fps", 30.0, "Stored frames per second, without --records.", lower_bound=0
)
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side",
    256,
    "Pixels of a frame's shorter side, without --records.",
    lower_bound=1,
)
_PAYLOADS = flags.DEFINE_multi_string(
    "payload",
    [],
    "As of data_prep.convert, e.g. h264:gop=16,crf=23; without --records.",
)
_BYTES_PER_PIXEL = flags.DEFINE_float(
    "bytes_per_pixel",
    None,
    "Bytes per pixel of a stored frame, without --records. Default: what is usual of "
    "the payload.",
    lower_bound=0,
)
_STORAGE_GB_PER_SEC = flags.DEFINE_float(
    "storage_gb_per_sec",
    2.0,
    "Rate at which one machine reads, 10^9 bytes/s.",
    lower_bound=1e-3,
)
_NETWORK_GB_PER_SEC = flags.DEFINE_float(
    "network_gb_per_sec",
    25.0,
    "Rate from machine to machine, 10^9 bytes/s.",
    lower_bound=1e-3,
)
_DECODED_MPIXELS_PER_SEC = flags.DEFINE_float(
    "decoded_mpixels_per_sec",
    100.0,
    "Rate at which one CPU core decodes whole frames, 10^6 pixels/s.",
    lower_bound=1e-3,
)
_PRICE_PER_GPU_HOUR = flags.DEFINE_float(
    "price_per_gpu_hour",
    None,
    "Price of a device for an hour; the cost is in the same currency.",
    lower_bound=0,
)
_JSON = flags.DEFINE_string("json", None, "File to write all figures to as JSON.")


def main(argv):
    del argv
    values = _CONFIG.value.to_dict()  # first: says at once that its file is missing
    if _NUM_VIDEOS.value is None and not _RECORDS.value:
        raise ValueError("--num_videos is missing; give it, or --records.")
    if _JSON.value:
        outputs.try_file(_JSON.value)
    from data_prep.conversion_settings import ConversionSettings
    from xdc_tf.data import dataset_info, payloads, record_directory
    from xdc_tf.planning import device_table, plan, recordings, times
    from xdc_tf.runtime import files
    from xdc_tf.training import configuration, supervision

    config = configuration.from_mapping(values)
    efficiency = times.parse_efficiency(_EFFICIENCY.value)
    num_classes = None
    num_videos = _NUM_VIDEOS.value
    if _RECORDS.value:
        info = record_directory.open_directory(_RECORDS.value).info
        method = supervision.method(config.method)
        dataset_info.check_modalities(
            info, supervision.modalities(method), _RECORDS.value
        )
        dataset_info.check_audio(
            info,
            configuration.audio_payload(config, info),
            config.log_mel.sample_rate_hz,
            _RECORDS.value,
        )
        averages = recordings.measured(config, _RECORDS.value, info)
        num_classes = len(info.label_names) or None
        num_videos = info.num_examples if num_videos is None else num_videos
    else:
        described = ConversionSettings(payloads=payloads.parse(_PAYLOADS.value))
        averages = recordings.assumed(
            config,
            video_secs=_VIDEO_SECS.value,
            frames_per_sec=_FPS.value,
            short_side=_SHORT_SIDE.value,
            video=payloads.stored(described, payloads.VIDEO),
            bytes_per_pixel=_BYTES_PER_PIXEL.value,
        )
    device = device_table.find(_GPU.value)
    made = plan.make(
        config,
        num_videos=num_videos,
        cluster=times.Cluster(
            device=device,
            num_devices=_GPUS.value,
            devices_per_machine=_GPUS_PER_MACHINE.value,
            storage_bytes_per_sec=_STORAGE_GB_PER_SEC.value * 1e9,
            network_bytes_per_sec=_NETWORK_GB_PER_SEC.value * 1e9,
        ),
        recordings=averages,
        efficiency=efficiency or times.default_efficiency(device),
        decoded_pixels_per_sec=_DECODED_MPIXELS_PER_SEC.value * 1e6,
        price_per_device_hour=_PRICE_PER_GPU_HOUR.value,
        num_classes=num_classes,
    )
    print(plan.as_text(made))
    if _JSON.value:
        files.write_text(_JSON.value, json.dumps(plan.as_json(made), indent=2) + "\n")


def run():
    recipe_flags.find_neighbours()
    program.run(main)


if __name__ == "__main__":
    run()
