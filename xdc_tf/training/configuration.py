"""Every key of a run's configuration, and the named values that the parts take of it.

Defaults are the paper's settings where these are known: XDC (Alwassel et al., NeurIPS
2020), R(2+1)D-18 on 8 x 112 x 112 clips and ResNet-18 on 2 s of 40-filter log-mel, SGD
with momentum. Sections that a part of the program defines are classes of that part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from xdc_tf.data import clips, log_mel, payloads
from xdc_tf.data.augmentation_settings import Augmentation
from xdc_tf.data.clips import ClipSettings
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import AUDIO, VIDEO, Stored
from xdc_tf.features.feature_store import DTYPES
from xdc_tf.labels.criteria import CriteriaSettings
from xdc_tf.labels.health import HealthSettings
from xdc_tf.labels.label_changes import LabelSettings
from xdc_tf.labels.pseudo_labels import KMeansSettings
from xdc_tf.models import encoder_table
from xdc_tf.models.encoder_table import EncoderSettings, ResNetSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import typed_settings
from xdc_tf.runtime.typed_settings import (
    COUNT,
    FLAG,
    FRACTION,
    PRECISION,
    TEXT,
    Choice,
    Number,
    Parsed,
    Several,
    Whole,
)
from xdc_tf.training import supervision
from xdc_tf.training.charts import TensorBoardSettings
from xdc_tf.training.optimizers import DECAYING, OptimizerSettings
from xdc_tf.training.schedules import Schedule

FROM_PASS, FROM_TRAINING = "pass", "training"


@dataclass(frozen=True)
class ClipConfig:
    """The clips that the encoders see."""

    num_frames: Annotated[int, Whole(1, 4096)] = 8
    fps: Annotated[float, Number(0, 1e4, above=True)] = 30.0
    crop_size: Annotated[int, Whole(1, 4096)] = 112  # pixels
    # Crop side by the frame's short side: 112 of 128.
    crop_share: Annotated[float, Number(0, 1, above=True)] = 0.875
    audio_secs: Annotated[float, Number(0, 3600, above=True)] = 2.0
    # Subtracted from red, green and blue in [0, 1], and what they are then divided by.
    video_mean: Annotated[tuple[float, ...], Several(Number(-1e6, 1e6), 3)] = (
        clips.VIDEO_MEAN
    )
    video_std: Annotated[tuple[float, ...], Several(Number(0, 1e6, above=True), 3)] = (
        clips.VIDEO_STD
    )
    # Subtracted from log-mel, and what it is then divided by; if that is 0, mean and
    # standard deviation are those of the records.
    log_mel_mean: Annotated[float, Number(-1e6, 1e6)] = 0.0
    log_mel_std: Annotated[float, Number(0, 1e6)] = 0.0


@dataclass(frozen=True)
class FeatureConfig:
    """The features that are clustered."""

    # Clips of a video, evenly spread, features averaged; 1 is the centre.
    clips_per_video: Annotated[int, Whole(1, 10_000)] = 1
    # Where features come from: pass, over all videos in evaluation mode; or training,
    # which collects what the round's steps computed, with a pass for what they did not.
    source: Annotated[str, Choice((FROM_PASS, FROM_TRAINING))] = FROM_PASS
    dtype: Annotated[str, Choice(DTYPES)] = "float32"  # or float16: half the disk
    batch_size: Annotated[int, COUNT] = 64
    # Batches that renew a random encoder's batch-norm statistics before round 1; one
    # pass over the data set at most.
    batch_norm_batches: Annotated[int, Whole()] = 50

    @property
    def from_training(self) -> bool:
        """Whether training steps give the features."""
        return self.source == FROM_TRAINING


@dataclass(frozen=True)
class TrainingConfig:
    """Training on one round's labels."""

    batch_size: Annotated[int, COUNT] = 32  # over all devices, for one update
    # Parts of each device's batch that are computed one after the other, their
    # gradients added up, to take less memory; batch norm sees one part at a time.
    accumulate_steps: Annotated[int, COUNT] = 1
    # Compute a transformer's blocks again for their gradients in place of keeping what
    # they computed: less memory for one more forward pass.
    gradient_checkpointing: Annotated[bool, FLAG] = False
    shuffle_buffer: Annotated[int, COUNT] = 2048  # clips
    epochs_per_round: Annotated[int, COUNT] = 10  # the most, where patience is set
    # Epochs without a lower held-out loss after which a round ends; 0: never early.
    patience: Annotated[int, Whole()] = 0
    # Fraction of the videos; pseudo-labelled, never trained on.
    held_out_share: Annotated[float, Number(0, 1, below=True)] = 0.05
    max_steps_per_epoch: Annotated[int, Whole()] = 0  # 0: the whole data set
    # Steps of a run whose loss or gradients are not finite that are left out; one more
    # stops it.
    skip_nonfinite: Annotated[int, Whole()] = 0
    # Draw from all clusters equally often, whatever their sizes (supervised: from all
    # classes). A video of a small cluster then comes several times per epoch, up to
    # number of videos / num_clusters; shuffle_buffer should be larger than that.
    balance_clusters: Annotated[bool, FLAG] = False


@dataclass(frozen=True)
class CheckpointConfig:
    """The checkpoints of a run."""

    keep: Annotated[int, COUNT] = 2  # the last so many


def _encoder(modality: str) -> Parsed:
    return Parsed(lambda values: encoder_table.settings_of(modality, values))


@dataclass(frozen=True)
class Config:
    """A run's configuration, whose values fit each other.

    Imported weights have one of the encoders; the other is None.
    """

    # Of the run, in TensorBoard and on its pages; "": that of the work directory.
    name: Annotated[str, TEXT] = ""
    method: Annotated[str, Choice(supervision.METHODS)] = "xdc"
    seed: Annotated[int, Whole()] = 0
    num_rounds: Annotated[int, Whole(1, 100_000)] = 10
    # A work directory, of a run or of imported weights, or an export, whose encoders
    # this run starts from instead of random ones.
    init_from: Annotated[str, TEXT] = ""
    clip: ClipConfig = ClipConfig()
    # The log-mel setting that the records must have been made with.
    log_mel: LogMelSettings = LogMelSettings()
    # Random changes of training clips; zero or False switches one off.
    augmentation: Augmentation = Augmentation()
    # Widths multiply the 64 to 512 channels of the four stages.
    # r2plus1d as XDC's authors have it, r2plus1d_torchvision, r3d, mc3, r2plus1d_avid;
    # resnet, resnet_torchvision, resnet_vmz. Depths are 4, 10, 18 and 34.
    video_encoder: Annotated[EncoderSettings | None, _encoder("video")] = (
        ResNetSettings("r2plus1d", 18, 1.0)
    )
    audio_encoder: Annotated[EncoderSettings | None, _encoder("audio")] = (
        ResNetSettings("resnet", 18, 1.0)
    )
    batch_norm_momentum: Annotated[float, FRACTION] = 0.9  # kept at each update
    # Statistics over all devices of all machines.
    synchronized_batch_norm: Annotated[bool, FLAG] = False
    precision: Annotated[str, PRECISION] = "float32"
    kmeans: KMeansSettings = KMeansSettings()  # once per round
    health: HealthSettings = HealthSettings()
    criteria: CriteriaSettings = CriteriaSettings()
    features: FeatureConfig = FeatureConfig()
    labels: LabelSettings = LabelSettings()
    training: TrainingConfig = TrainingConfig()
    optimizer: OptimizerSettings = OptimizerSettings()
    checkpoint_every_steps: Annotated[int, COUNT] = 500
    checkpoints: CheckpointConfig = CheckpointConfig()
    log_every_steps: Annotated[int, COUNT] = 20
    tensorboard: TensorBoardSettings = TensorBoardSettings()
    # First and last step of the run to profile; 0, 0: none.
    profile_steps: Annotated[tuple[int, int], Several(Whole(), 2)] = (0, 0)
    # The same bits in every run on the same devices, killed or not; slower on GPUs.
    deterministic: Annotated[bool, FLAG] = False

    def __post_init__(self):
        typed_settings.check(self)
        _check_teacher(self.labels, self.method)
        first, last = self.profile_steps
        if not (first == last == 0 or 1 <= first <= last):
            raise ValueError(
                f"config.profile_steps={tuple(self.profile_steps)} must be the first "
                "and the last step of the run to profile, from 1, such as 100,120; "
                "0,0: none."
            )
        if round(self.clip.audio_secs / (self.log_mel.hop_ms / 1000)) < 1:
            raise ValueError(
                f"config.clip.audio_secs={self.clip.audio_secs} must be at least "
                f"config.log_mel.hop_ms={self.log_mel.hop_ms}."
            )
        encoders = architectures(self)
        for encoder in encoders.values():
            encoder_table.check(encoder, clip(self, None))
        if self.training.gradient_checkpointing:
            encoder_table.check_recomputes(encoders.values())


def _check_teacher(labels: LabelSettings, method: str) -> None:
    sources = list(supervision.clustered_sources(supervision.method(method)))
    if labels.teacher and labels.teacher not in sources:
        raise ValueError(
            f"config.labels.teacher={labels.teacher!r} must be a label source of "
            f"{method}: one of {sources}."
        )
    if bool(labels.teacher) != bool(labels.teacher_rounds):
        raise ValueError(
            f"config.labels.teacher={labels.teacher!r} and config.labels.teacher_rounds"
            f"={labels.teacher_rounds} go together; set both or neither."
        )


def from_mapping(values: Config | Mapping[str, Any]) -> Config:
    """The configuration of a run.

    Args:
      values: by section and key, all of them, as recipes give them; or a configuration,
        which is returned.

    Raises:
      ValueError: on a value out of its range, a missing or an unknown key, or values
        that do not fit each other; names the key, the value and the range.
    """
    if isinstance(values, Config):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"a configuration is no {type(values).__name__}.")
    return typed_settings.from_mapping(Config, values)


def of_encoders(values: Any) -> Config:
    """The configuration that trained encoders come with, as far as it describes them.

    Keys of training may be missing, as they are where weights were imported, and those
    of another version are passed over.

    Raises:
      ValueError: names the key.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a configuration is no {type(values).__name__}.")
    no_encoders = {"video_encoder": None, "audio_encoder": None}
    config = typed_settings.from_mapping(
        Config, values, is_partial=True, absent=no_encoders
    )
    method = supervision.method(config.method)
    needed = ["method", "clip", "log_mel"]
    needed += [f"{modality}_encoder" for modality in supervision.modalities(method)]
    # How their layers were regularised; imported weights' were not trained here.
    needed += ["optimizer"] if method.supervision else []
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"config.{missing[0]} is missing.")
    for section in (ClipConfig, LogMelSettings):
        key = "clip" if section is ClipConfig else "log_mel"
        unknown = set(values[key]) - set(typed_settings.fields(section))
        if unknown:
            raise ValueError(f"config.{key}.{min(unknown)} is no key.")
    log_mel.validate(config.log_mel)
    return config


def to_mapping(config: Config) -> dict[str, Any]:
    """The values of a configuration as files hold them, nested by section."""
    return typed_settings.to_mapping(config)


def of_encoders_file(values: Any, source: str) -> Config:
    """The configuration of trained encoders, of a file from elsewhere.

    Args:
      values: what the file held.
      source: path of the file, for the message.

    Raises:
      ValueError: names the file, the key, its value and its range.
    """
    try:
        return of_encoders(values)
    except ValueError as error:
        raise ValueError(
            f"{source}: {error} Restore the file, or use another run's."
        ) from None
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{source} cannot be read as a configuration ({error!r}); restore the "
            "file, or use another run's."
        ) from None


def audio_payload(config: Config, info: DatasetInfo | None) -> Stored:
    """What the audio encoders take: the records' payload, or the config's log-mel.

    Args:
      config: of a run.
      info: of the records that it is trained on; None if there are none.
    """
    audio = payloads.log_mel_of(config.log_mel)
    if info is not None and payloads.stored(info, AUDIO).name != audio.name:
        audio = payloads.stored(info, AUDIO)
    return audio


def clip(
    config: Config, info: DatasetInfo | None, audio: Stored | None = None
) -> ClipSettings:
    """The clip's shape; audio is normalised as the records are unless config says how.

    Args:
      config: of a run.
      info: of the records that it is trained on; None if there are none.
      audio: what its encoders take; None for audio_payload.
    """
    audio = audio or audio_payload(config, info)
    values = typed_settings.to_mapping(config.clip)
    if not config.clip.log_mel_std:
        values["log_mel_mean"] = info.log_mel_mean if info else 0.0
        values["log_mel_std"] = info.log_mel_std if info else 1.0
    return ClipSettings(
        **values,
        mel_hop_secs=audio.row.hop_samples(audio.settings)
        / config.log_mel.sample_rate_hz,
        num_mels=audio.row.row_length(audio.settings),
    )


def architectures(config: Config) -> dict[str, EncoderSettings]:
    """Encoder architectures by modality; imported weights have one."""
    encoders = {VIDEO: config.video_encoder, AUDIO: config.audio_encoder}
    return {modality: encoder for modality, encoder in encoders.items() if encoder}


def portable_layers(config: Config) -> LayerSettings:
    """What an encoder's layers keep outside of the run: float32, local batch norm.

    Of imported weights, which no configuration trained, the layers' defaults.
    """
    if not supervision.method(config.method).supervision:
        return LayerSettings()
    return LayerSettings(
        batch_norm_momentum=config.batch_norm_momentum,
        # These decay the weights themselves; a penalty would decay them twice.
        weight_decay=0.0
        if config.optimizer.name in DECAYING
        else config.optimizer.weight_decay,
        seed=config.seed,
    )


def training_layers(config: Config) -> LayerSettings:
    """What an encoder's layers are made with for training."""
    return portable_layers(config)._replace(
        dtype=config.precision,
        synchronized_batch_norm=config.synchronized_batch_norm,
        fast=True,
    )


def check_health(config: Config) -> None:
    """Checks that some clustering does not count as collapsed.

    Raises:
      ValueError: on a fraction that every clustering exceeds.
    """
    largest = config.health.max_cluster_share
    num_clusters = min(config.kmeans.clusters_of_heads)
    if largest * num_clusters < 1:
        raise ValueError(
            f"config.health.max_cluster_share={largest} is less than the mean fraction "
            f"of config.kmeans.num_clusters={num_clusters} clusters, so that every "
            "clustering would count as collapsed; raise it."
        )


def schedule(config: Config) -> Schedule:
    """Shape of a round's learning rate, for the global batch."""
    optimizer = config.optimizer
    peak = optimizer.learning_rate
    if optimizer.reference_batch_size:
        peak *= config.training.batch_size / optimizer.reference_batch_size
    return Schedule(
        name=optimizer.schedule,
        peak=peak,
        warmup_steps=optimizer.warmup_steps,
        decay_shares=optimizer.decay_shares,
        decay_factor=optimizer.decay_factor,
    )
