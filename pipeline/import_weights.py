"""Import weights: published checkpoints -> a bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from safetensors import SafetensorError

from models.published import import_bundle
from models.published_files import Published, locate
from models.weights import Bundle
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.log import log
from pipeline.base.places import LabelsOrPlace, NameOrPlace, Place
from pipeline.pages.bundle_card import write_import_card
from pipeline.storage.copies import local_copy
from pipeline.storage.files import is_folder, is_local
from pipeline.storage.labels import named_labels
from pipeline.storage.publish import upload


class ImportConfig(Config):
    """Makes a bundle of published checkpoints. Each is a folder, a URL on a store, or owner/name[@revision][/folder] on
    the Hugging Face hub."""

    base: NameOrPlace = "thu-ml/unidiffuser-v1"
    """UniDiffuser's folder, or a pipeline that the reference implementation saved: text encoder, tokenizer, image
    encoder, image VAE, and a joint network to begin with."""
    joint: NameOrPlace = ""
    """A fine-tuned joint checkpoint; empty: the one of `base`, which has to be trained before it knows masks."""
    annotation_vae: NameOrPlace = Field(min_length=1)
    """An annotation VAE as the reference implementation saves it, or the `weights` of a run of train_vae."""
    label_space: LabelsOrPlace = Field(min_length=1)
    """What the class ids mean: voc, coco, ade20k, or a YAML file."""
    bundle: Place = Field(min_length=1)
    """Folder or URL to write; it must not be there yet."""


def import_weights(config: ImportConfig) -> str:
    """Writes the bundle, on a disk whole or not at all; returns its folder.

    Raises:
        ConfigError, WeightsError: each says what is wrong, where, and how to correct it.
    """
    target = config.bundle.rstrip("/")
    if is_folder(target):
        raise ConfigError(f"{target} is there already; name another folder with the key `bundle`, or remove it")
    try:
        labels = named_labels(config.label_space)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"label_space: {error}") from error
    log.info(
        "import-weights: looks for %s", ", ".join(filter(None, (config.base, config.joint, config.annotation_vae)))
    )
    joint = located(config.joint) if config.joint else None
    base = located(config.base, without=("unet", "text_decoder") if joint else ())
    annotation_vae = located(config.annotation_vae)
    bundle = import_bundle(base.folder, joint.folder if joint else None, annotation_vae.folder, labels)
    num_parameters = sum(parameter.numel() for parameter in bundle.net.parameters())
    log.info("import-weights: a joint network of %s parameters, %d px", f"{num_parameters:,}", bundle.image_size_px)
    names = {"base": base.name, "joint": joint.name if joint else "", "annotation_vae": annotation_vae.name}
    if is_local(target):
        save_whole(bundle, Path(target), **names)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / target.rpartition("/")[2]
            save_whole(bundle, made, **names)
            upload(str(made), target)
    log.info("import-weights: %s", target)
    if not config.joint:
        log.info(
            "import-weights: if %s is UniDiffuser, its network has not learnt masks: jobs.train_joint --initial %s",
            config.base,
            target,
        )
    return target


def located(source: str, without: Sequence[str] = ()) -> Published:
    """What `locate` finds, also on a store."""
    if "://" not in source:
        return locate(source, without)
    return Published(local_copy(source), source.rstrip("/").rpartition("/")[2])


def save_whole(bundle: Bundle, target: Path, **names: str) -> None:
    """Writes beside `target` and renames, so that a full disk never leaves half a bundle. The card tells the `names` of
    its parts."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        bundle.save(draft)
        write_import_card(draft, target.name, **names)
        os.replace(draft, target)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{target}: cannot write the bundle ({error}); free the disk or name another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
