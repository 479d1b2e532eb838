"""Others' weights for DeepLabV3: backbones of OpenMMLab, torchvision and timm, whole networks of mmsegmentation."""

from __future__ import annotations

import logging

from models.deeplab import DeepLabSize, DeepLabV3
from models.pretrained import on_meta, read_pretrained
from models.published_files import Tensors
from models.weights import WeightsError, load_tensors

log = logging.getLogger("jodiffusion.models")
PARTS = ("backbone.", "decode_head.", "auxiliary_head.")
CLASSIFIERS = ("fc.", "head.")
"""What backbones carry from ImageNet, of no use here."""
TIMM_STEM = {"conv1.0.": "stem.0.", "conv1.1.": "stem.1.", "conv1.3.": "stem.3.", "conv1.4.": "stem.4."} | {
    "conv1.6.": "stem.6.",
    "bn1.": "stem.7.",
}


def deeplab(num_outputs: int, size: DeepLabSize, pretrained: str = "", *, deep_stem: bool = True) -> DeepLabV3:
    """A DeepLabV3, fresh or with others' weights.

    Args:
        num_outputs: K + 1.
        size: of the network.
        pretrained: file, folder or name on the hub: a backbone, all else fresh, or a whole network, whose classes are
            learned anew where their number is another. The stem is that of the weights.
        deep_stem: of a fresh network.

    Raises:
        WeightsError: nothing there, or tensors that are missing, surplus or of another shape; lists them.
    """
    if not pretrained:
        return DeepLabV3(num_outputs, size, deep_stem=deep_stem)
    tensors = named(read_pretrained(pretrained))
    if any(".downsample.2." in name for name in tensors):
        raise WeightsError(
            f"{pretrained} is a ResNet-D, whose shortcuts pool before their convolution; DeepLabV3 as published has a "
            "ResNet with plain ones. Give such a one, timm/resnet50c.gluon_in1k or timm/resnet101c.gluon_in1k on the "
            "hub, or resnet50_v1c or resnet101_v1c of OpenMMLab"
        )
    whole = any(name.startswith("decode_head.") for name in tensors)
    net = DeepLabV3(num_outputs, size, deep_stem=has_deep_stem(tensors))
    if not on_meta():
        target = net if whole else net.backbone
        own = target.state_dict()
        counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
        layers = [name for name in own if ".conv_seg." in name]
        fresh = {name: own[name] for name in layers if name in tensors and tensors[name].shape != own[name].shape}
        if fresh:
            log.info("%s is of another number of classes; their layers are learned anew", pretrained)
            fresh = {name: own[name] for name in layers}
        load_tensors(target, counters | tensors | fresh, pretrained)  # old files have no counters
    return net


def has_deep_stem(tensors: Tensors) -> bool:
    """Whether a checkpoint's network begins with three convolutions of 3x3, rather than one of 7x7."""
    return not any(name in tensors for name in ("conv1.weight", "backbone.conv1.weight"))


def named(tensors: Tensors) -> Tensors:
    """A checkpoint's tensors as our network names them: of the backbone alone, or with all three parts' prefixes."""
    if any(name.startswith("decode_head.") for name in tensors):
        return {name: value for name, value in tensors.items() if name.startswith(PARTS)}
    if any(name.startswith("backbone.") for name in tensors):
        tensors = {name[len("backbone.") :]: value for name, value in tensors.items() if name.startswith("backbone.")}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(CLASSIFIERS)}
    return _with_our_stem(tensors) if "conv1.0.weight" in tensors else tensors


def _with_our_stem(tensors: Tensors) -> Tensors:
    renamed: Tensors = {}
    for name, value in tensors.items():
        start = next((start for start in TIMM_STEM if name.startswith(start)), "")
        renamed[TIMM_STEM[start] + name[len(start) :] if start else name] = value
    return renamed
