"""What PyTorch computes, as files to check this project against; needs PyTorch.

    python -m venv .venv-torch
    .venv-torch/bin/pip install -r benchmarks/requirements-torch.txt
    .venv-torch/bin/python -m benchmarks.torch_references --out=references

writes for each model NAME.keys.json (names and shapes of its state dict), NAME.npz
(activations in evaluation mode, the loss and the gradient of one step in training mode)
and, with --weight_files, NAME.legacy.pth and NAME.zip.pth: its state dict in the format
of PyTorch 1.4 and in today's.

    .venv-torch/bin/python -m benchmarks.torch_references --out=references \\
        --exports=exports

opens NAME.*.pth in exports, made by benchmarks.import_exactness, in the same classes
instead, and prints how far their features and logits are from those of NAME.npz.
"""

import argparse
import functools
import json
import os

import numpy as np
import torch
import torchvision
from torchvision.models.video import resnet as video_resnet

from benchmarks import reference_rule


class PerConvMidPlanes(video_resnet.Conv2Plus1D):
    """(2+1)D convolution whose mid-planes follow from its own planes, as XDC's."""

    def __init__(self, in_planes, out_planes, midplanes, stride=1, padding=1):
        del midplanes
        mid_planes = (27 * in_planes * out_planes) // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, mid_planes, stride, padding)


def authors_r2plus1d(blocks, num_classes=400):
    """R(2+1)D as XDC's and VMZ's authors have it."""
    model = video_resnet.VideoResNet(
        video_resnet.BasicBlock,
        [PerConvMidPlanes] * 4,
        blocks,
        video_resnet.R2Plus1dStem,
        num_classes=num_classes,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eps = 1e-3
    return model


def audio_resnet18():
    """torchvision's ResNet-18 with one input channel."""
    model = torchvision.models.resnet18(num_classes=400)
    model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return model


class AvidBlock(torch.nn.Module):
    """AVID-CMA's residual block: one batch norm after the sum, none on the shortcut."""

    def __init__(self, in_planes, planes, stride):
        super().__init__()
        conv, norm = (
            functools.partial(torch.nn.Conv3d, bias=False),
            torch.nn.BatchNorm3d,
        )
        space, time = (1, stride, stride), (stride, 1, 1)
        self.spt_conv1 = conv(in_planes, planes, (1, 3, 3), space, (0, 1, 1))
        self.spt_bn1 = norm(planes)
        self.tmp_conv1 = conv(planes, planes, (3, 1, 1), time, (1, 0, 0))
        self.tmp_bn1 = norm(planes)
        self.spt_conv2 = conv(planes, planes, (1, 3, 3), 1, (0, 1, 1))
        self.spt_bn2 = norm(planes)
        self.tmp_conv2 = conv(planes, planes, (3, 1, 1), 1, (1, 0, 0))
        self.out_bn = norm(planes)
        if stride > 1 or in_planes != planes:
            self.res_conv = conv(in_planes, planes, 1, stride)

    def forward(self, x):
        y = torch.relu(self.spt_bn1(self.spt_conv1(x)))
        y = torch.relu(self.tmp_bn1(self.tmp_conv1(y)))
        y = torch.relu(self.spt_bn2(self.spt_conv2(y)))
        shortcut = self.res_conv(x) if hasattr(self, "res_conv") else x
        return torch.relu(self.out_bn(shortcut + self.tmp_conv2(y)))


class AvidR2Plus1d(torch.nn.Module):
    """AVID-CMA's R(2+1)D-18, with a classifier, under its modules' names."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Sequential(
            torch.nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            torch.nn.BatchNorm3d(64),
            torch.nn.ReLU(),
            torch.nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        in_planes = 64
        for stage, planes in enumerate((64, 128, 256, 512), start=2):
            blocks = [
                AvidBlock(in_planes, planes, 2 if stage > 2 else 1),
                AvidBlock(planes, planes, 1),
            ]
            setattr(self, f"conv{stage}x", torch.nn.Sequential(*blocks))
            in_planes = planes
        self.avgpool = torch.nn.AdaptiveMaxPool3d(1)
        self.fc = torch.nn.Linear(512, 400)

    def forward(self, x):
        x = self.conv5x(self.conv4x(self.conv3x(self.conv2x(self.conv1(x)))))
        return self.fc(self.avgpool(x).flatten(1))


class VmzAudioBlock(torch.nn.Module):
    """A residual block of VMZ's audio network."""

    def __init__(self, in_planes, planes, stride):
        super().__init__()
        norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3)
        conv = functools.partial(torch.nn.Conv2d, bias=False)
        self.conv1 = conv(in_planes, planes, 3, stride, 1)
        self.bn1 = norm(planes)
        self.conv2 = conv(planes, planes, 3, 1, 1)
        self.bn2 = norm(planes)
        self.downsample = None
        if stride > 1 or in_planes != planes:
            self.downsample = torch.nn.Sequential(
                conv(in_planes, planes, 1, stride), norm(planes)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class VmzAudioResNet18(torch.nn.Module):
    """VMZ's audio network of depth 18 with a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 16, 3, 1, 1)
        self.layer0 = torch.nn.Sequential(
            VmzAudioBlock(16, 32, 2), VmzAudioBlock(32, 32, 1), VmzAudioBlock(32, 32, 1)
        )
        in_planes = 32
        for stage, planes in enumerate((64, 128, 256, 512), start=1):
            blocks = (
                VmzAudioBlock(in_planes, planes, 2),
                VmzAudioBlock(planes, planes, 1),
            )
            setattr(self, f"layer{stage}", torch.nn.Sequential(*blocks))
            in_planes = planes
        self.avgpool = torch.nn.AdaptiveMaxPool2d(1)
        self.fc = torch.nn.Linear(512, 400)

    def forward(self, x):
        x = self.layer0(self.conv1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


MODELS = {
    "xdc_r2plus1d_18": functools.partial(authors_r2plus1d, [2, 2, 2, 2]),
    "xdc_r2plus1d_34": functools.partial(authors_r2plus1d, [3, 4, 6, 3]),
    "torchvision_r2plus1d_18": torchvision.models.video.r2plus1d_18,
    "torchvision_r3d_18": torchvision.models.video.r3d_18,
    "torchvision_mc3_18": torchvision.models.video.mc3_18,
    "avid_r2plus1d_18": AvidR2Plus1d,
    "torchvision_resnet_18": audio_resnet18,
    "vmz_resnet_18": VmzAudioResNet18,
}


def activations(model, inputs):
    """Stem, stages, pooled features and logits in evaluation mode."""
    kept = {}
    stems = ("stem", "maxpool", "layer0", "conv1")
    modules = dict(model.named_children())
    stem = next(modules[name] for name in stems if name in modules)
    stages = [modules.get(f"layer{n}") or modules[f"conv{n + 1}x"] for n in range(1, 5)]
    names = ("stem", "layer1", "layer2", "layer3", "layer4")
    named = dict(zip(names, [stem, *stages], strict=True))
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: kept.update({name: output})
        )
        for name, module in (*named.items(), ("features", model.avgpool))
    ]
    model.eval()
    with torch.no_grad():
        logits = model(inputs)
    for hook in hooks:
        hook.remove()
    arrays = {"logits": logits, "features": kept.pop("features").flatten(1)}
    for name, value in kept.items():
        corner = (
            slice(None),
            slice(8),
            *([slice(2)] * (value.ndim - 4)),
            slice(3),
            slice(3),
        )
        arrays[f"{name}_shape"] = np.array(value.shape)
        arrays[f"{name}_mean"] = value.flatten(2).mean(2)
        arrays[f"{name}_corner"] = value[corner]
    return {
        k: np.asarray(v, np.int64 if "shape" in k else np.float32)
        for k, v in arrays.items()
    }


def step_once(model, inputs):
    """Loss and gradient of the cross-entropy in training mode, in float64.

    Of each gradient its length and its first eight values.
    """
    model.train().double()
    labels = torch.tensor(reference_rule.LABELS)
    loss = torch.nn.functional.cross_entropy(model(inputs.double()), labels)
    loss.backward()
    arrays = {"loss": loss.detach()}
    for key, parameter in model.named_parameters():
        arrays[f"gradient_length/{key}"] = parameter.grad.norm()
        arrays[f"gradient_start/{key}"] = parameter.grad.flatten()[:8]
    for key, statistic in model.named_buffers():
        if key.endswith("running_mean"):
            arrays[f"updated/{key}"] = statistic.flatten()[:8]
    return {key: np.asarray(value, np.float32) for key, value in arrays.items()}


def inputs_of(name):
    """The input of a model."""
    audio = name.endswith("_resnet_18")
    drawn = reference_rule.spectrograms() if audio else reference_rule.clips()
    return torch.from_numpy(drawn)


def check_exports(exports, references):
    """Opens every file in a directory strictly and compares what it computes."""
    for file in sorted(os.listdir(exports)):
        if not file.endswith(".pth"):
            continue
        name = file.split(".")[0]
        model = MODELS[name]()
        tensors = torch.load(os.path.join(exports, file), weights_only=True)
        model.load_state_dict(tensors, strict=True)
        outputs = activations(model, inputs_of(name))
        with np.load(os.path.join(references, f"{name}.npz")) as expected:
            errors = {
                key: np.abs(outputs[key] - expected[key]).max()
                / np.abs(expected[key]).max()
                for key in ("features", "logits")
            }
        print(file, *(f"{key} {error:.1e}" for key, error in errors.items()))


def main():
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="directory for the files")
    parser.add_argument("--models", default=",".join(MODELS), help="which, by comma")
    parser.add_argument("--weight_files", action="store_true")
    parser.add_argument("--exports", help="directory of exported files to open")
    arguments = parser.parse_args()
    if arguments.exports:
        check_exports(arguments.exports, arguments.out)
        return
    os.makedirs(arguments.out, exist_ok=True)
    for name in arguments.models.split(","):
        model = MODELS[name]()
        shapes = {key: list(v.shape) for key, v in model.state_dict().items()}
        drawn = reference_rule.weights(shapes)
        model.load_state_dict({k: torch.from_numpy(v) for k, v in drawn.items()})
        path = os.path.join(arguments.out, name)
        with open(f"{path}.keys.json", "w") as file:
            json.dump(shapes, file)
        if arguments.weight_files:
            tensors = model.state_dict()
            torch.save(tensors, f"{path}.zip.pth")
            torch.save(
                tensors, f"{path}.legacy.pth", _use_new_zipfile_serialization=False
            )
        inputs = inputs_of(name)
        arrays = activations(model, inputs)
        step = step_once(model, reference_rule.part(inputs))
        np.savez_compressed(f"{path}.npz", **arrays, **step)
        print(f"{path}.npz: loss {step['loss']:.6f}", flush=True)


if __name__ == "__main__":
    main()
