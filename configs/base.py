"""Every key of a run's configuration, with the paper's setting where it is known.

XDC (Alwassel et al., NeurIPS 2020), R(2+1)D-18 on 8 x 112 x 112 clips and ResNet-18
on 2 s of 40-filter log-mel, SGD with momentum. Other configs change some values:

    python -m xdc_tf.cli.pretrain --config=configs/base.py --workdir=W --records=DIR
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The configuration; any key can be changed by --config.KEY=VALUE."""
    c = ml_collections.ConfigDict()

    # sdc, mdc, cdc, xdc, same_video, same_audio or supervised.
    c.method = "xdc"
    c.seed = 0
    c.num_rounds = 10
    # A work directory, of a run or of imported weights, whose encoders this run starts
    # from instead of random ones.
    c.init_from = ""

    # Clips.
    c.clip = ml_collections.ConfigDict()
    c.clip.num_frames = 8
    c.clip.fps = 30.0
    c.clip.crop_size = 112  # pixels
    c.clip.crop_share = 0.875  # crop side by the frame's short side: 112 of 128
    c.clip.audio_secs = 2.0
    # Subtracted from red, green and blue in [0, 1], and what they are then divided by.
    c.clip.video_mean = (0.43216, 0.394666, 0.37645)
    c.clip.video_std = (0.22803, 0.22145, 0.216989)

    # The log-mel setting that the records must have been made with.
    c.log_mel = ml_collections.ConfigDict()
    c.log_mel.sample_rate_hz = 16000
    c.log_mel.window_ms = 25.0
    c.log_mel.hop_ms = 20.0
    c.log_mel.fft_size = 512
    c.log_mel.num_filters = 40
    c.log_mel.min_hz = 0.0
    c.log_mel.max_hz = 8000.0
    c.log_mel.log_offset = 1e-6

    # Random changes of training clips; zero or False switches one off.
    c.augmentation = ml_collections.ConfigDict()
    c.augmentation.min_crop_share = 0.0
    c.augmentation.flip = True
    c.augmentation.brightness = 0.0
    c.augmentation.contrast = 0.0
    c.augmentation.saturation = 0.0
    c.augmentation.gain_db = 0.0
    c.augmentation.frequency_mask = 0
    c.augmentation.time_mask = 0

    # Encoders. Widths multiply the 64 to 512 channels of the four stages.
    c.video_encoder = ml_collections.ConfigDict()
    # r2plus1d as XDC's authors have it, r2plus1d_torchvision, r3d, mc3, r2plus1d_avid.
    c.video_encoder.architecture = "r2plus1d"
    c.video_encoder.depth = 18  # 4, 10, 18 or 34
    c.video_encoder.width = 1.0
    c.audio_encoder = ml_collections.ConfigDict()
    c.audio_encoder.architecture = "resnet"  # or resnet_torchvision, resnet_vmz
    c.audio_encoder.depth = 18  # 4, 10, 18 or 34
    c.audio_encoder.width = 1.0
    c.batch_norm_momentum = 0.9  # kept share at each update
    c.synchronized_batch_norm = False  # statistics over all devices of all machines
    c.precision = "float32"  # or mixed_bfloat16, mixed_float16

    # Clustering, once per round.
    c.kmeans = ml_collections.ConfigDict()
    c.kmeans.num_clusters = 256
    c.kmeans.num_iterations = 20
    c.kmeans.num_restarts = 1
    c.kmeans.num_heads = 1  # independent clusterings of each source, a head for each
    # An iteration that lowers the objective by no more than this part is the last; 0:
    # labels that do not change any more.
    c.kmeans.tolerance = 0.0
    c.kmeans.precision = "float32"  # or mixed
    c.kmeans.normalize = True  # L2-normalise the features
    c.kmeans.spherical = False  # L2-normalise the centroids too
    c.kmeans.balanced = False  # clusters of nearly equal size, by Sinkhorn's iteration
    c.kmeans.pca_components = 0  # whiten to that many dimensions; 0 is off
    # Features of a source above this size as float32 stay on disk and are streamed.
    c.kmeans.memory_gib = 4.0

    # When a round's clustering counts as collapsed, and what happens then.
    c.health = ml_collections.ConfigDict()
    # Effective clusters, exp(entropy of the sizes), under this share of num_clusters;
    # 0: never.
    c.health.min_effective_share = 0.1
    c.health.max_cluster_share = 0.5  # one cluster holds more of the examples; 1: never
    c.health.on_collapse = "warn"  # or stop, before the round is trained

    # The clips that are clustered: evenly spread, features averaged; 1 is the centre.
    c.features = ml_collections.ConfigDict()
    c.features.clips_per_video = 1
    # Where features come from: pass, over all videos in evaluation mode; or training,
    # which collects what the round's steps computed, with a pass for what they did not.
    c.features.source = "pass"
    c.features.dtype = "float32"  # or float16: half the disk
    c.features.batch_size = 64
    # Batches that renew a random encoder's batch-norm statistics before round 1; one
    # pass over the data set at most.
    c.features.batch_norm_batches = 50

    # Training on one round's labels.
    c.training = ml_collections.ConfigDict()
    c.training.batch_size = 32  # over all devices of all machines, for one update
    # Parts of each device's batch that are computed one after the other, their
    # gradients added up, to take less memory; batch norm sees one part at a time.
    c.training.accumulate_steps = 1
    c.training.shuffle_buffer = 2048  # clips
    c.training.epochs_per_round = 10  # the most, where patience is set
    # Epochs without a lower held-out loss after which a round ends; 0: never early.
    c.training.patience = 0
    c.training.held_out_share = 0.05  # of the videos; pseudo-labelled, never trained on
    c.training.max_steps_per_epoch = 0  # 0: the whole data set
    # So many steps of a run whose loss or gradients are not finite are left out; one
    # more stops it.
    c.training.skip_nonfinite = 0
    # Draw from all clusters equally often, whatever their sizes (supervised: from all
    # classes). A video of a small cluster then comes several times per epoch, up to
    # number of videos / num_clusters; shuffle_buffer should be larger than that.
    c.training.balance_clusters = False

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "sgd"  # or lars, lamb, for large batches
    c.optimizer.learning_rate = 0.01  # for the whole batch, or for reference_batch_size
    # 0, or the batch that learning_rate is stated for; the rate then grows with
    # training.batch_size in proportion (Goyal et al. 2017).
    c.optimizer.reference_batch_size = 0
    c.optimizer.momentum = 0.9  # of sgd and lars
    c.optimizer.trust_coefficient = 0.001  # of lars: a step's length by the weight's
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup_steps = 100  # in every round
    c.optimizer.schedule = "cosine"  # or steps, constant
    # For "steps": learning rate x decay_factor at these shares of a round.
    c.optimizer.decay_shares = (0.5, 0.75)
    c.optimizer.decay_factor = 0.1

    c.checkpoint_every_steps = 500
    c.checkpoints = ml_collections.ConfigDict()
    c.checkpoints.keep = 2  # the last so many
    c.log_every_steps = 20
    c.profile_steps = (0, 0)  # first and last step of the run to profile; 0, 0: none
    # The same bits in every run on the same devices, killed or not; slower on GPUs.
    c.deterministic = False
    return c
