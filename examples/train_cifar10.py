"""Train a reference MobileNet on CIFAR-10: a plain one-cycle recipe, readable from top to bottom.

    python examples/train_cifar10.py v3-small --data cifar10.zip --epochs 30 --out v3-small.safetensors

Writes float16 weights and a json beside them with what `edgemobile export --weights` wants to know: labels,
preprocessing, top-1. An interrupted run goes on with --resume. Data is an ImageFolder, as a directory or a zip, with
train/ and test/. --init starts from any checkpoint edgemobile reads, of any number of classes or of a narrower net, or
from the mean of several, which --epochs 0 writes untrained; --teacher trains on what better nets say of each image as
well as on its label: on the same few views of the images again and again, so that each teacher is asked about each only
once. --noise gives the net's activations the noise that int8 will: a net that has learned with it loses less to int8.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from edgemobile.errors import EdgemobileError
from edgemobile.images.dataset import Dataset, open_dataset
from edgemobile.loading.checkpoint import Checkpoint, build, load_weights
from edgemobile.models.arch import get_arch, scaled
from edgemobile.models.nets import build_net
from edgemobile.preprocess import CIFAR10, at_resolution

MEAN, STD = CIFAR10.mean, CIFAR10.std
HEAT = 2.0
NOISY_FIRST = 8
"""This many activations get twice the noise: an int8 error in the first ones affects all later ones."""


def main() -> None:
    args = parse()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.bf16 |= device.type == "cuda"
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    if args.threads:
        torch.set_num_threads(args.threads)
    train, test, labels = decode(args.data, args.out.with_suffix(".cache.npz"))
    if args.epochs and len(train[0]) < args.batch:
        raise EdgemobileError(
            f"{args.data} has {len(train[0])} training images, fewer than a --batch of {args.batch}. Lower it"
        )
    arch = scaled(get_arch(args.arch), classes=len(labels), input_px=args.res)
    net = build_net(arch, dropout=args.dropout)
    if args.init:
        some = train[0][:: max(1, len(train[0]) // 512)]
        start_from(net, mean_of([load_weights(path, get_arch(args.arch)) for path in args.init]), some, args.res)
    net = net.to(device, memory_format=torch.channels_last)
    train, test = [[torch.from_numpy(array).to(device) for array in split] for split in (train, test)]
    teacher = Teacher(args.teacher, device, bf16=args.bf16) if args.teacher else None
    average = copy.deepcopy(net).eval()
    steps = max(1, args.epochs * (len(train[0]) // args.batch))
    optimizer = make_optimizer(net, args)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        args.lr,
        total_steps=steps,
        pct_start=args.warmup,
        anneal_strategy="cos",
        div_factor=10,
        final_div_factor=1e3,
    )
    progress = args.out.with_suffix(".progress.pt")
    first = 0
    if args.resume and progress.exists():
        first = restore(progress, net, average, optimizer, schedule)
    if args.bf16 and device.type == "cpu":
        Depthwise.put_into(net)
    if args.noise:
        Noise.put_into(net, args.noise)
    steps_at = {res: make_step(net, args, optimizer, res) for res in (args.start_res, args.res)}
    for epoch in range(first, args.epochs):
        started = time.monotonic()
        number = epoch % args.views if teacher else epoch
        view = make_view(train, len(labels), args, number)
        if teacher:
            view = (*view, teacher.opinion(number, view[0]))
        step = steps_at[args.start_res if epoch < args.start_epochs else args.res]
        loss = train_epoch(net, average, step, view, args, optimizer, schedule, seed=args.seed + epoch)
        save_progress(progress, epoch + 1, net, average, optimizer, schedule)
        speed = len(train[0]) / (time.monotonic() - started)
        line = f"epoch {epoch + 1}/{args.epochs}  loss {loss:.3f}  {speed:.0f} images/s"
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 == args.epochs:
            top1 = evaluate(average, test, args.res)
            write(args, arch, average, labels, top1, epoch + 1)
            if args.keep_stages:
                keep_stage(args.out, epoch + 1)
            line += f"  top-1 {top1:.2%}"
        print(line, flush=True)
    if first == args.epochs:
        # No epochs, to write the weights of --init; or interrupted after the last, before its weights were written.
        write(args, arch, average, labels, evaluate(average, test, args.res), first)
    progress.unlink(missing_ok=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a reference MobileNet on CIFAR-10.")
    parser.add_argument("arch")
    parser.add_argument("--data", type=Path, required=True, help="ImageFolder, directory or zip, with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="FILE.safetensors; FILE.json is written next to it")
    parser.add_argument(
        "--init",
        type=Path,
        nargs="+",
        help="start from this checkpoint, of any number of classes or narrower; from the mean of several of one net",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        nargs="+",
        help="FILE.safetensors of better nets, trained by this script; their answers are averaged",
    )
    parser.add_argument("--teacher-share", type=float, default=0.7, help="weight of the teachers' answers in the loss")
    parser.add_argument("--views", type=int, default=20, help="different epochs of augmented images with a teacher")
    parser.add_argument("--resume", action="store_true", help="resume an interrupted run")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--res", type=int, default=CIFAR10.input_px)
    parser.add_argument("--start-res", type=int, default=64, help="resolution of the first --start-epochs")
    parser.add_argument(
        "--start-epochs", type=int, default=0, help="number of epochs at --start-res, where an epoch is fast"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--optimizer", choices=["sgd", "adamw"], default="sgd", help="optimizer; adamw for a net from --init"
    )
    parser.add_argument("--lr", type=float, default=0.1, help="peak of the one-cycle schedule; 0.001 for adamw")
    parser.add_argument("--warmup", type=float, default=0.2, help="share of the steps before the peak")
    parser.add_argument("--weight-decay", type=float, default=3e-4, help="0.05 for adamw")
    parser.add_argument("--smoothing", type=float, default=0.05, help="label smoothing")
    parser.add_argument("--cutmix", type=float, default=0.0, help="share of images given a box of another")
    parser.add_argument("--noise", type=float, default=0.0, help="on activations, in steps of int8; 1 is int8's own")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--ema", type=float, default=0.995, help="decay of the averaged weights, a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--bf16", action="store_true", help="as a GPU always does; faster on CPUs with AVX-512 BF16 or AMX"
    )
    parser.add_argument("--eval-every", type=int, default=5)
    parser.add_argument(
        "--keep-stages",
        action="store_true",
        help="also write each evaluated net as FILE-EPOCH, for a mean of stages",
    )
    return parser.parse_args()


# ---- data -----------------------------------------------------------------------------------------------------------


def decode(data: Path, cache: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], list[str]]:
    """((train images u8[N,H,W,3], classes i64[N]), (test images, classes), labels); decoded once for all runs.

    `cache` holds them for as long as the files of `data` stay what they are.
    """
    source = fingerprint(data)
    if cache.exists():
        held = np.load(cache)
        if str(held.get("source")) == source:
            return (held["train_x"], held["train_y"]), (held["test_x"], held["test_y"]), list(held["labels"])
    whole = open_dataset(data)
    train, test = (whole.in_split(split) for split in ("train", "test"))
    (train_x, train_y), (test_x, test_y) = pixels_of(train), pixels_of(test)
    labels = list(train.classes)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, labels=labels, source=source)
    return (train_x, train_y), (test_x, test_y), labels


def fingerprint(data: Path) -> str:
    """Where the files of `data` are, their sizes and when they changed, as a sha256."""
    files = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def pixels_of(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(images u8[N,H,W,3], classes i64[N])."""
    if dataset.labels is None:
        raise EdgemobileError(
            f"{dataset.split}/ of {dataset.path} has no class folders. It needs one per class: train/cat"
        )
    images = [dataset.load(index) for index in range(len(dataset))]
    for name, image in zip(dataset.names, images, strict=True):
        if image.size != images[0].size:
            first, other = (" x ".join(map(str, one.size)) for one in (images[0], image))
            raise EdgemobileError(
                f"the images of {dataset.path} must have one size: {dataset.names[0]} is {first} px, {name} {other}. "
                "Resize them first"
            )
    return np.stack([np.asarray(image) for image in images]), dataset.labels


def to_input(pixels: torch.Tensor, res: int) -> torch.Tensor:
    """u8[N,H,W,3] -> normalized f32[N,3,res,res], bilinear without antialias, channels last."""
    x = pixels.permute(0, 3, 1, 2).float().div(255)
    if x.shape[-1] != res:
        x = F.interpolate(x, size=(res, res), mode="bilinear", align_corners=False)
    mean, std = statistics(x.device)
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


@functools.cache
def statistics(device: torch.device) -> list[torch.Tensor]:
    """Mean and standard deviation of each colour, f32[1,3,1,1]; sent to the device once, as a copy waits for it."""
    return [torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD)]


def make_view(train, classes: int, args: argparse.Namespace, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The training images augmented in the `number`th way, u8[N,H,W,3], and what they show, f32[N,classes]."""
    torch.manual_seed(args.seed + number)
    images, labels = train
    wanted = (1 - args.smoothing) * F.one_hot(labels, classes).float() + args.smoothing / classes
    return cutmix(augment(images), wanted, args.cutmix)


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """A random crop of the image padded by 4 (reflected), and a flip half the time. u8[N,H,W,3]."""
    count, height, width, _ = pixels.shape
    with pixels.device:
        rows = torch.randint(-4, 5, (count, 1, 1)) + torch.arange(height).view(1, -1, 1)
        columns = torch.randint(-4, 5, (count, 1, 1)) + torch.arange(width).view(1, 1, -1)
        flip = torch.rand(count, 1, 1) < 0.5
        columns = torch.where(flip, columns.flip(-1), columns)
        return pixels[torch.arange(count).view(-1, 1, 1), reflect(rows, height), reflect(columns, width)]


def mirrored(pixels: torch.Tensor) -> torch.Tensor:
    """Half of [N,H,W,3] flipped: the class does not change, and a net that sees the image again gets another view."""
    flip = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < 0.5
    return torch.where(flip, pixels.flip(2), pixels)


def reflect(places: torch.Tensor, size: int) -> torch.Tensor:
    """Positions beyond 0 … size - 1, mirrored at the edge."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def cutmix(pixels: torch.Tensor, wanted: torch.Tensor, probability: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste a box of another image into some [N,H,W,3] and mix [N,classes] by area (Yun et al., arXiv:1905.04899)."""
    count, height, width, _ = pixels.shape
    with pixels.device:
        other = torch.randperm(count)
        side = (torch.rand(count, 1, 1) * (torch.rand(count, 1, 1) < probability)).sqrt()
        row, column = torch.rand(2, count, 1, 1)
        inside_rows = ((torch.arange(height).view(1, -1, 1) + 0.5) / height - row).abs() < side / 2
        inside_columns = ((torch.arange(width).view(1, 1, -1) + 0.5) / width - column).abs() < side / 2
    inside = inside_rows & inside_columns
    share = inside.float().mean((1, 2)).unsqueeze(-1)
    return torch.where(inside.unsqueeze(-1), pixels[other], pixels), torch.lerp(wanted, wanted[other], share)


# ---- training -------------------------------------------------------------------------------------------------------


def weight_groups(net: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Decay convolution and linear weights only: not batch norm, not biases."""
    matrices = [p for p in net.parameters() if p.dim() > 1]
    vectors = [p for p in net.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def make_optimizer(net: torch.nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """SGD from scratch. AdamW for existing weights: their scales differ too much for one rate."""
    groups = weight_groups(net, args.weight_decay)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=args.lr, fused=True)
    return torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True, fused=True)


def make_step(net, args, optimizer, res: int) -> Callable[..., torch.Tensor]:
    """A function of a batch of a view that sets the gradients and returns the loss."""
    device = next(net.parameters()).device

    def step(pixels: torch.Tensor, wanted: torch.Tensor, taught: torch.Tensor | None = None) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16, cache_enabled=False):
            logits = net(to_input(pixels, res))
        loss = F.cross_entropy(logits.float(), wanted)
        if taught is not None:
            distilled = HEAT**2 * F.cross_entropy(logits.float() / HEAT, taught)
            loss = torch.lerp(loss, distilled, args.teacher_share)
        loss.backward()
        return loss.detach()

    net.train()
    return recorded(step) if device.type == "cuda" else step


class Depthwise(torch.autograd.Function):
    """A depthwise convolution whose gradients a CPU computes in float32: in bfloat16 oneDNN is many times slower."""

    @staticmethod
    def put_into(net: torch.nn.Module) -> None:
        for conv in net.modules():
            depthwise = type(conv) is torch.nn.Conv2d and 1 < conv.groups == conv.in_channels == conv.out_channels
            if depthwise and conv.bias is None:
                conv.forward = functools.partial(Depthwise.of, conv)

    @staticmethod
    def of(conv: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        return Depthwise.apply(x, conv.weight, conv.stride, conv.padding)

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, stride, padding) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), len(weight),
            (True, True, False),
        )  # fmt: skip
        return x_gradient.to(x.dtype), weight_gradient, None, None


class Noise:
    """Uniform noise `steps` int8 steps wide on an activation in training; a step is 1/255 of its recent range."""

    ACTIVATIONS = (torch.nn.ReLU, torch.nn.ReLU6, torch.nn.Hardswish)

    @classmethod
    def put_into(cls, net: torch.nn.Module, steps: float) -> None:
        """Noise on the output of every batch norm, after its activation if it has one: those are int8's tensors."""
        leaves = [module for module in net.modules() if not list(module.children())]
        after_norm = [
            after if isinstance(after, cls.ACTIVATIONS) else norm
            for norm, after in zip(leaves, [*leaves[1:], None], strict=True)
            if isinstance(norm, torch.nn.BatchNorm2d)
        ]
        for index, module in enumerate(after_norm):
            module.register_forward_hook(cls(2 * steps if index < NOISY_FIRST else steps))

    def __init__(self, steps: float) -> None:
        self.steps = steps
        self.range: torch.Tensor | None = None

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        low, high = output.detach().aminmax()
        now = high.clamp(min=0) - low.clamp(max=0)
        self.range = now.clone() if self.range is None else self.range.lerp_(now, 0.1)
        return output + self.steps / 255 * self.range * (torch.rand_like(output) - 0.5)


def recorded(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`step` as one CUDA graph: launched one by one, the thousand small kernels of a MobileNet leave the GPU idle."""
    graph, inputs, loss = torch.cuda.CUDAGraph(), (), None

    def replay(*batch: torch.Tensor) -> torch.Tensor:
        nonlocal inputs, loss
        if not inputs:
            inputs = tuple(value.clone() for value in batch)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step(*inputs)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                loss = step(*inputs)
        for held, new in zip(inputs, batch, strict=True):
            held.copy_(new)
        graph.replay()
        return loss

    return replay


def train_epoch(net, average, step, view: tuple[torch.Tensor, ...], args, optimizer, schedule, seed: int) -> float:
    """One pass over a view; returns the mean loss."""
    torch.manual_seed(seed)
    pairs = floats(average, net)
    images = len(view[0])
    order = torch.randperm(images).to(view[0].device)
    total, count = 0.0, 0
    for index in order.split(args.batch)[: images // args.batch]:
        pixels, *wanted = (value[index] for value in view)
        total = total + step(mirrored(pixels), *wanted)
        optimizer.step()
        schedule.step()
        torch._foreach_lerp_(*pairs, 1 - args.ema)
        count += 1
        if count % 100 == 0:
            print(f"  step {count}  loss {float(total) / count:.3f}", flush=True)
    return float(total) / count


class Teacher:
    """Better nets: the mean of their probabilities, softened by HEAT, for a view (Hinton et al., arXiv:1503.02531)."""

    def __init__(self, paths: list[Path], device: torch.device, bf16: bool = False) -> None:
        self.bf16 = bf16
        self.nets: list[tuple[torch.nn.Module, int]] = []
        for path in paths:
            reference = get_arch(json.loads(path.with_suffix(".json").read_text())["arch"])
            arch, net = build(reference, load_weights(path, reference))
            self.nets.append((net.to(device, memory_format=torch.channels_last).eval(), arch.input_px))
        self.opinions: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def opinion(self, number: int, pixels: torch.Tensor) -> torch.Tensor:
        """f32[N,classes] of view `number`, whose images are u8[N,H,W,3]."""
        if number not in self.opinions:
            said = [self._answers(net, res, pixels) for net, res in self.nets]
            self.opinions[number] = torch.stack(said).mean(0)
        return self.opinions[number]

    def _answers(self, net: torch.nn.Module, res: int, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            logits = torch.cat([net(to_input(batch, res)) for batch in pixels.split(500)])
        return F.softmax(logits.float() / HEAT, dim=1)


def floats(*nets: torch.nn.Module) -> list[list[torch.Tensor]]:
    """The tensors of each net that are averaged: its weights and batch norm's statistics."""
    return [[value for value in net.state_dict().values() if value.dtype.is_floating_point] for net in nets]


@torch.no_grad()
def evaluate(net: torch.nn.Module, test: tuple[torch.Tensor, torch.Tensor], res: int) -> float:
    """Top-1 on the test images."""
    right = sum(
        int((net(to_input(images, res)).argmax(1) == classes).sum())
        for images, classes in zip(*(array.split(500) for array in test), strict=True)
    )
    return right / len(test[0])


# ---- files ----------------------------------------------------------------------------------------------------------


def mean_of(checkpoints: list[Checkpoint]) -> Checkpoint:
    """The first checkpoint with the mean of all weights: stages of one run (Wortsman et al., arXiv:2203.05482)."""
    states = [checkpoint.state_dict for checkpoint in checkpoints]
    shapes = [{key: value.shape for key, value in state.items()} for state in states]
    for checkpoint, other in zip(checkpoints, shapes, strict=True):
        if other != shapes[0]:
            raise EdgemobileError(
                f"{checkpoint.source} differs in shape from {checkpoints[0].source}: only stages of one net have a mean"
            )
    mean = {
        key: torch.stack([state[key] for state in states]).mean(0) if value.is_floating_point() else value
        for key, value in states[0].items()
    }
    return dataclasses.replace(checkpoints[0], state_dict=mean)


@torch.no_grad()
def start_from(net: torch.nn.Module, checkpoint: Checkpoint, pixels: np.ndarray, res: int) -> None:
    """Load `checkpoint` into `net`, except a classifier of other classes; u8[N,32,32,3] set batch norm's statistics.

    A checkpoint whose batch norm is folded, or that saw other images, has statistics that are not those of this data.
    Every batch norm gets this data's, and the scale and shift that leave its function what it was.
    """
    state = net.state_dict()
    given = {key: widened(value, state[key].shape) for key, value in checkpoint.state_dict.items()}
    net.load_state_dict({**state, **{key: value for key, value in given.items() if value.shape == state[key].shape}})
    if checkpoint.preprocess:
        # The checkpoint has (px - mean') / std', we have (px - mean) / std: x' = x std / std' + (mean - mean') / std'.
        theirs_mean, theirs_std = (
            torch.tensor(value) for value in (checkpoint.preprocess.mean, checkpoint.preprocess.std)
        )
        shift = (torch.tensor(MEAN) - theirs_mean) / theirs_std
        stem = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d))
        norm = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
        norm.running_mean -= (stem.weight * shift.view(1, 3, 1, 1)).sum((1, 2, 3))
        stem.weight *= (torch.tensor(STD) / theirs_std).view(1, 3, 1, 1)

    def settle(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        was = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += was * (mean - norm.running_mean)
        norm.weight.copy_(was * (var + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)

    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    hooks = [module.register_forward_pre_hook(settle) for module in norms]
    net.eval()(to_input(torch.from_numpy(pixels), res))
    for hook in hooks:
        hook.remove()


def widened(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A narrower net's weight or statistic with its channels repeated until it has `shape`; itself where it cannot.

    Copies are read with their mean, so the function is unchanged (Net2Net, arXiv:1511.05641), except for a little
    noise, without which copies would always learn the same.
    """
    if value.shape == shape or value.dim() != len(shape) or any(b % a for a, b in zip(value.shape, shape, strict=True)):
        return value
    times = [b // a for a, b in zip(value.shape, shape, strict=True)]
    wide = value.repeat(times)
    if value.dim() == 1:
        return wide
    return (wide + 0.2 * value.std() * torch.randn(shape)) / times[1]


def save_progress(path: Path, epoch: int, net, average, optimizer, schedule) -> None:
    state = {"epoch": epoch, "net": net.state_dict(), "average": average.state_dict()}
    state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def restore(path: Path, net, average, optimizer, schedule) -> int:
    """Restore a run saved by `save_progress`; returns the next epoch."""
    state = torch.load(path, weights_only=True)
    net.load_state_dict(state["net"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["epoch"]


def write(args: argparse.Namespace, arch, net: torch.nn.Module, labels: list[str], top1: float, epochs: int) -> None:
    """Write the averaged weights as float16 safetensors, and their facts as JSON."""
    state = {
        key: value.cpu().half().contiguous() if value.dtype.is_floating_point else value.cpu()
        for key, value in net.state_dict().items()
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out)
    facts = {
        "arch": arch.name,
        "width": arch.width,
        "classes": arch.classes,
        "labels": [str(label) for label in labels],
        "input_px": arch.input_px,
        "preprocess": at_resolution(CIFAR10, arch.input_px).to_json(),
        "dataset": "CIFAR-10",
        "top1_float_percent": round(100 * top1, 2),
        "top1_on": "10,000 test images",
        "epochs": epochs,
        "command": shlex.join(["python", *sys.argv]),
        "sha256": hashlib.sha256(args.out.read_bytes()).hexdigest(),
    }
    args.out.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")


def keep_stage(out: Path, epoch: int) -> None:
    """A copy of FILE.safetensors and FILE.json as FILE-`epoch`."""
    for written in (out, out.with_suffix(".json")):
        shutil.copyfile(written, written.with_stem(f"{out.stem}-{epoch}"))


if __name__ == "__main__":
    try:
        main()
    except EdgemobileError as error:
        sys.exit(f"error: {error}")
