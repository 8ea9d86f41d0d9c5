"""edgemobile: MobileNets from PyTorch to ONNX and TFLite, small, fast, int8, and proven equal."""

__version__ = "0.1.0"
__all__ = ["__version__"]
