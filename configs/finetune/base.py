"""Every key of a finetuning, with its meaning; other configs change some values.

An encoder with one linear head is trained on the labels of the training records, all
layers (XDC, Alwassel et al., NeurIPS 2020, "full finetuning") or the head alone
("fc-only"), and scored on the test records by the mean of ten clips:

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/base.py --workdir=W --records=TRAIN \\
        --test_records=TEST

The values are no one's recipe. The rates are small enough for any encoder, and the
epoch that counts is chosen by a tenth of the training videos.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The configuration; any key can be changed by --config.KEY=VALUE."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of the head, held-out videos, clips, their order and dropout
    # Train the head alone, on an encoder in evaluation mode that stays as it is: the
    # linear protocol, by SGD and with random clips.
    c.frozen = False

    # Clips; 0: as the encoder was trained.
    c.clip = ml_collections.ConfigDict()
    c.clip.num_frames = 0
    c.clip.fps = 0.0
    c.clip.crop_size = 0  # pixels
    c.clip.audio_secs = 0.0

    # Random changes of training clips; zero or False switches one off.
    c.augmentation = ml_collections.ConfigDict()
    c.augmentation.min_crop_share = 0.0  # of the frame's short side
    c.augmentation.flip = True
    c.augmentation.brightness = 0.0
    c.augmentation.contrast = 0.0
    c.augmentation.saturation = 0.0
    c.augmentation.gain_db = 0.0
    c.augmentation.frequency_mask = 0  # filters
    c.augmentation.time_mask = 0  # rows of the spectrogram

    c.model = ml_collections.ConfigDict()
    c.model.dropout = 0.0  # share of the features that the head does not see
    c.model.batch_norm_momentum = 0.9  # kept share at each update
    c.model.synchronized_batch_norm = False  # statistics over all devices
    c.model.precision = "float32"  # or mixed_bfloat16, mixed_float16

    # SGD. Learning rates are peaks, for the whole batch.
    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.head_learning_rate = 0.01
    c.optimizer.encoder_learning_rate = 0.001  # of its last stage
    # Each stage has the rate of the one above times this; the stem has the lowest.
    c.optimizer.layer_decay = 1.0
    c.optimizer.momentum = 0.9
    c.optimizer.weight_decay = 1e-4  # L2 penalty on the kernels of all that is trained
    c.optimizer.schedule = "cosine"  # or steps, constant
    c.optimizer.warmup_epochs = 0.0  # of linear growth; may be a part of an epoch
    # For "steps": learning rates x decay_factor after so many epochs.
    c.optimizer.milestones = ()
    c.optimizer.decay_factor = 0.1

    c.training = ml_collections.ConfigDict()
    c.training.num_train = 0  # training videos per class, chosen by the seed; 0: all
    c.training.batch_size = 32  # over all devices, for one update
    c.training.num_epochs = 12
    # Clips in an epoch, by as many passes over the videos as it takes; 0: one pass.
    c.training.clips_per_epoch = 0
    # The first so many epochs train the head alone; batch norm follows the clips.
    c.training.head_epochs = 0
    c.training.shuffle_buffer = 2048  # clips
    # Share of the training videos, of every class, that is not trained on. The epoch
    # with the best accuracy on them counts, of equal ones that with the lowest loss.
    # 0: all are trained on, and the last epoch counts.
    c.training.held_out_share = 0.1
    c.training.held_out_clips = 3  # per held-out video
    c.training.evaluate_every = 1  # epochs, on the held-out videos

    c.test = ml_collections.ConfigDict()
    c.test.num_clips = 10  # evenly spread, their softmax scores averaged
    c.test.num_crops = 1  # of video: or 3, along the frame's longer side
    c.test.eval_batch_size = 32  # clips, of held-out and test videos
    return c
