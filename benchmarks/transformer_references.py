"""What the library transformers computes, as files to check imported weights against.

    .venv-torch/bin/python -m benchmarks.transformer_references --out=tests/parity

writes for each model NAME.keys.json (names and shapes in the file that save_pretrained
writes) and NAME.npz (features in evaluation mode). Weights and inputs follow from
benchmarks/reference_rule.py. With --weight_files it writes NAME.safetensors too. The
environment is that of benchmarks/requirements-torch.txt.
"""

import argparse
import json
import os
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from benchmarks import reference_rule

_FORM = {"hidden_size": 192, "num_attention_heads": 3, "num_hidden_layers": 2}
_WIDE = {**_FORM, "intermediate_size": 768}


def _of_image(model, size):
    """Features of images, by the class token after the last norm."""
    images = torch.from_numpy(reference_rule.noise(2, 3, size, size))
    return model(images).pooler_output


def _clip():
    """[1, 16, 3, 224, 224], as VideoMAE has the axes."""
    return torch.from_numpy(reference_rule.noise(1, 16, 3, 224, 224))


def dinov2():
    """A model of 70 pixels, on these and on 112."""
    model = transformers.Dinov2Model(
        transformers.Dinov2Config(**_FORM, image_size=70, patch_size=14)
    )
    return model, lambda m: {
        "features_70": _of_image(m, 70),
        "features_112": _of_image(m, 112),
    }


def dinov2_registers():
    """With four registers and a classifier, which are others' than the features'."""
    model = transformers.Dinov2WithRegistersForImageClassification(
        transformers.Dinov2WithRegistersConfig(**_FORM, image_size=70, patch_size=14)
    )
    return model, lambda m: {"features_70": _of_image(m.dinov2_with_registers, 70)}


def videomae():
    """Finetuned: mean of tokens, a norm, a classifier."""
    model = transformers.VideoMAEForVideoClassification(
        transformers.VideoMAEConfig(**_WIDE, num_labels=5)
    )

    def compute(m):
        clip = _clip()
        features = m.fc_norm(m.videomae(clip).last_hidden_state.mean(1))
        return {"features": features, "logits": m(clip).logits}

    return model, compute


def videomae_pretrained():
    """As it is pretrained: a norm after the last block, a decoder beside."""
    model = transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(
            **_WIDE, use_mean_pooling=False, decoder_num_hidden_layers=1
        )
    )
    return model, lambda m: {"features": m.videomae(_clip()).last_hidden_state.mean(1)}


def ast():
    """AST with its classifier, on 1,024 frames of 128 filters."""
    model = transformers.ASTForAudioClassification(
        transformers.ASTConfig(**_WIDE, num_labels=5)
    )
    rows = torch.from_numpy(reference_rule.noise(1, 1024, 128))
    return model, lambda m: {
        "features": m.audio_spectrogram_transformer(rows).pooler_output
    }


MODELS = {
    f"transformers_{make.__name__}": make
    for make in (dinov2, dinov2_registers, videomae, videomae_pretrained, ast)
}


def main():
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="directory for the files")
    parser.add_argument("--models", default=",".join(MODELS), help="which, by comma")
    parser.add_argument("--weight_files", action="store_true")
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    for name in arguments.models.split(","):
        model, compute = MODELS[name]()
        path = os.path.join(arguments.out, name)
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            file = os.path.join(directory, "model.safetensors")
            shapes = {key: list(v.shape) for key, v in sorted(load_file(file).items())}
            drawn = reference_rule.transformer_weights(shapes)
            save_file(drawn, file, metadata={"format": "pt"})
            model = type(model).from_pretrained(directory).eval()
            if arguments.weight_files:
                os.replace(file, f"{path}.safetensors")
        with open(f"{path}.keys.json", "w") as file:
            json.dump(shapes, file)
        with torch.no_grad():
            arrays = {key: value.numpy() for key, value in compute(model).items()}
        np.savez_compressed(f"{path}.npz", **arrays)
        print(f"{path}.npz: {', '.join(f'{k} {v.shape}' for k, v in arrays.items())}")


if __name__ == "__main__":
    main()
