"""The weights in a GGUF file as safetensors, which train_cifar10.py's --init and `edgemobile export --weights` read.

    pip install gguf
    python examples/gguf_weights.py mobilenetv3_3class_v3_fp16.gguf v3-small-imagenet.safetensors

Float16 and quantized tensors become float32. Unlike a language model, a net keeps its keys in such a file, so nothing
is renamed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description="The weights in a GGUF file as safetensors.")
    parser.add_argument("source", type=Path, help="FILE.gguf")
    parser.add_argument("out", type=Path, help="FILE.safetensors")
    args = parser.parse_args()
    try:
        found = weights_of(args.source)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {args.source} cannot be read as GGUF: {error}")
    save_file(found, args.out)
    print(f"{args.out}: {len(found)} tensors")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """f32 tensors by name, in PyTorch's order of dimensions: GGUF counts them from the innermost."""
    return {
        tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1]).copy())
        for tensor in GGUFReader(path).tensors
        if not tensor.name.endswith("num_batches_tracked")
    }


if __name__ == "__main__":
    main()
