"""Exports the CNNs of torchvision and the mobile nets of timm, and prints what becomes of each.

    pip install torch==2.14.1 torchvision==0.29.1 timm     # in a virtual environment of its own, beside edgemobile[all]
    python benchmarks/model_zoo.py --json zoo.json         # half an hour of CPU; a net in the file is not run again
    python benchmarks/model_zoo.py --only 'timm:mobilevit*'

Weights are random; batch norm has settled on noise, so that no layer's output vanishes or explodes. Each net is
exported in a process of its own, to float32 and int8 in both formats, as `edgemobile export` does it. Columns:

    float32      SQNR in dB of the TFLite and the ONNX file against PyTorch
    int8         the same of int8. The weights are noise, so it says little of the net; 0 dB or less means broken
    steps        the largest difference of an int8 output from the reference arithmetic, TFLite and ONNX. No op may
                 differ by more than a rounding tie; later layers amplify ties. "wrong" names an op that does, or a
                 bound that a file missed
    partitions   into which XNNPACK divides the int8 TFLite file; 1 is best
    islands      groups of float ops between integer kernels in onnxruntime; 0 is best

A refused net has the reason in place of its numbers.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# One net of each family: the others of a family have the same ops in other numbers.
TORCHVISION = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "vgg11",
    "vgg11_bn",
    "wide_resnet50_2",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
)
TIMM = (
    "edgenext_xx_small",
    "efficientnet_lite0",
    "efficientvit_b0",
    "efficientvit_m0",
    "fastvit_t8",
    "fbnetc_100",
    "fbnetv3_b",
    "ghostnet_050",
    "ghostnetv2_100",
    "ghostnetv3_050",
    "hardcorenas_a",
    "lcnet_050",
    "lcnetv2_small",
    "mixnet_s",
    "mnasnet_050",
    "mnasnet_small",
    "mobilenet_edgetpu_100",
    "mobilenet_edgetpu_v2_xs",
    "mobilenetv1_100",
    "mobilenetv2_050",
    "mobilenetv3_large_100",
    "mobilenetv3_rw",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_aa_medium",
    "mobilenetv4_conv_blur_medium",
    "mobilenetv4_conv_medium",
    "mobilenetv4_conv_small",
    "mobilenetv4_hybrid_medium",
    "mobileone_s0",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "repghostnet_050",
    "repvgg_a0",
    "repvit_m0_9",
    "rexnet_100",
    "semnasnet_050",
    "shvit_s1",
    "spnasnet_100",
    "starnet_s1",
    "tf_efficientnet_lite0",
    "tf_mixnet_s",
    "tf_mobilenetv3_large_minimal_100",
    "tf_mobilenetv3_small_100",
    "tinynet_e",
)
NETS = (*(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM))

# Inputs are small, so that a run takes minutes; these nets cannot have them so small.
_PX = 128
_PX_OF = {
    "torchvision:alexnet": 224,
    "torchvision:inception_v3": 299,
    "torchvision:vgg11": 224,
    "torchvision:vgg11_bn": 224,
    "timm:efficientvit_m0": 224,
}
_SETTLING_IMAGES = 32
_IMAGES = 4
# The environment variable with the net of this process.
_NET = "EDGEMOBILE_ZOO_NET"
_SECONDS = 900


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a pattern of library:name; may be repeated")
    parser.add_argument("--json", type=Path, help="results, which are added to; nets in it are not run again")
    options = parser.parse_args()
    if _NET in os.environ:
        print(json.dumps(exported(os.environ[_NET])))
        return 0
    nets = [net for net in NETS if any(fnmatch.fnmatch(net, pattern) for pattern in options.only or ["*"])]
    if not nets:
        parser.error(f"--only matches no net. They are {', '.join(NETS)}")
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for line in table(results(nets, known, options.json)):
        print(line, flush=True)
    return 0


def results(nets: Sequence[str], known: dict[str, Any], kept: Path | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(net, its result) in order; a result that is not in `known` is computed in a process of its own."""
    for net in nets:
        if net not in known:
            known[net] = _in_a_process(net)
            if kept is not None:
                kept.write_text(json.dumps(known, indent=1))
        yield net, known[net]


def _in_a_process(net: str) -> dict[str, Any]:
    command = [sys.executable, __file__]
    try:
        done = subprocess.run(
            command, env={**os.environ, _NET: net}, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"refused": f"took more than {_SECONDS} s"}
    last = (done.stdout.splitlines() or [""])[-1]
    return json.loads(last) if last.startswith("{") else {"refused": f"crashed: {done.stderr[-300:]}"}


def exported(net: str) -> dict[str, Any]:
    """The result of exporting `net`: {"refused": reason}, or the numbers of the table."""
    from edgemobile.errors import EdgemobileError
    from edgemobile.inspection.facts import inspect_file
    from edgemobile.pipeline.export import export
    from edgemobile.pipeline.request import ExportRequest

    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as folder:
        request = ExportRequest(
            "model_zoo:current",
            Path(folder) / "out",
            precisions=("float32", "int8"),
            weights="random",
            res=_px(net),
            preprocess="imagenet",
            calib_images=_IMAGES,
            check_images=_IMAGES,
        )
        try:
            result = export(request)
        except EdgemobileError as error:
            return {"refused": str(error)}
        row: dict[str, Any] = {"seconds": sum(resource.getrusage(resource.RUSAGE_SELF)[:2])}
        for file in result.files:
            facts = inspect_file(request.out / file.entry.file)
            islands = None if facts.islands is None else len(facts.islands)
            row[f"{file.entry.precision} {file.entry.format}"] = {
                "sqnr_db": file.verdict.metrics["sqnr_db"],
                "missed": list(file.verdict.missed),
                "steps": file.max_lsb,
                "partitions": facts.delegate_partitions,
                "islands": islands,
            }
        return row


def current() -> torch.nn.Module:
    """The net of this process, with settled batch norm: the factory that is exported."""
    import torch

    net = os.environ[_NET]
    library, _, name = net.partition(":")
    module = {"torchvision": _torchvision, "timm": _timm}[library](name)
    module.train()
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None
    with torch.no_grad():
        module(torch.randn(_SETTLING_IMAGES, 3, _px(net), _px(net)))
    module.eval()
    if library == "timm":
        # As edgemobile asks for: the branches of RepVGG, MobileOne and others become one convolution.
        from timm.utils.model import reparameterize_model

        module = reparameterize_model(module)
    return module


def _torchvision(name: str) -> torch.nn.Module:
    import torchvision

    own: Mapping[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        own = {**own, "init_weights": False, "aux_logits": False}
    elif name.startswith(("deeplab", "fcn", "lraspp")):
        own = {**own, "weights_backbone": None}
    return torchvision.models.get_model(name, **own)


def _timm(name: str) -> torch.nn.Module:
    import timm

    return timm.create_model(name, pretrained=False)


def _px(net: str) -> int:
    return _PX_OF.get(net, _PX)


def table(rows: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """The lines of the markdown table, and a last one with the counts."""
    yield "| net | float32, dB | int8, dB | steps | partitions | islands | CPU s |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    count = refused = 0
    for net, row in rows:
        count += 1
        refused += "refused" in row
        yield f"| {net} | {row['refused']} | | | | | |" if "refused" in row else f"| {net} | {_columns(row)} |"
    yield ""
    yield f"{count - refused} of {count} nets are exported."


def _columns(row: Mapping[str, Any]) -> str:
    def both(precision: str, shown: Callable[[Mapping[str, Any]], str]) -> str:
        return ", ".join(shown(row[f"{precision} {name}"]) for name in ("tflite", "onnx"))

    files = [row[f"{precision} {name}"] for precision in ("float32", "int8") for name in ("tflite", "onnx")]
    wrong = [reason for file in files for reason in file["missed"]]
    return " | ".join(
        (
            both("float32", lambda file: f"{file['sqnr_db']:.0f}"),
            both("int8", lambda file: f"{file['sqnr_db']:.1f}"),
            both("int8", lambda file: str(file["steps"])) + "".join(f", wrong: {reason}" for reason in wrong),
            str(row["int8 tflite"]["partitions"]),
            str(row["int8 onnx"]["islands"]),
            f"{row['seconds']:.0f}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
