"""The card of a bundle: what it was trained on, how, for how long, and what it can do, from the runs that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.weights import ENCODERS, JOINT, digest, read_facts
from pipeline.base.errors import DataError
from pipeline.evaluation.results import Proof
from pipeline.pages.proof_table import markdown
from pipeline.tables.label_space import load_labels

TRAININGS = ("annotation-vae", "image-vae", "image-decoder", "text", "joint")
OPTIONAL = "image-decoder"


def write_card(bundle: Path, name: str, runs: Path, proof: Path, about: str) -> Path:
    """Writes `<bundle>/README.md`.

    Args:
        bundle: folder of weights.
        name: what the card calls it.
        runs: folder of the runs annotation-vae (with `test.json`), image-vae, text and joint that trained them, and
            image-decoder where the image VAE's was trained on.
        proof: `proof.json` of an evaluate run.
        about: Markdown on the data, the licence and the recipe.

    Raises:
        DataError: a run has not finished.
    """
    labels = load_labels(str(bundle))
    trained = [name for name in TRAININGS if name != OPTIONAL or (runs / name).exists()]
    scores = {name: _read(runs / name / "scores.json") for name in trained}
    masks = _read(runs / "annotation-vae" / "test.json")
    unsure = "the ignore index" if labels.uncertain == "ignore" else "background"
    text = f"""# Bundle `{name}`

Weights of every network that turns a prompt into a pair: text encoder, image VAE, annotation VAE, joint diffusion
network. Digest `{digest(bundle, ENCODERS + JOINT)}`. Safetensors only.

Label space `{labels.name}`: {", ".join(labels.classes)}; ignore index {labels.ignore_index}; pixels that the model is
unsure of become {unsure}.

{about.strip()}

| network | examples seen | training time | held-out scores |
|---|--:|--:|---|
{_rows(scores)}

## Scores

Test masks survive the annotation VAE with mIoU {masks["miou"]:.4f}, {masks["worst_iou"]:.4f} in the worst class.

{markdown(Proof.model_validate(_read(proof)))}
"""
    path = bundle / "README.md"
    path.write_text(text)
    return path


def write_import_card(bundle: Path, name: str, *, base: str, joint: str, annotation_vae: str) -> Path:
    """Writes `README.md` into a bundle of published weights: where they are from, what is known of their licences."""
    labels = load_labels(str(bundle))
    net = f"`{joint}`" if joint else f"`{base}`; if that is UniDiffuser, it has not learnt masks yet"
    text = f"""# Bundle `{name}`

Published weights, rewritten as safetensors by `jobs.import_weights`. Digest `{digest(bundle, ENCODERS + JOINT)}`.

| part | from |
|---|---|
| text encoder, image encoder, image VAE | `{base}` |
| annotation VAE | `{annotation_vae}` |
| joint network | {net} |

Label space `{labels.name}`: {labels.num_classes} classes and `{labels.classes[0]}` (0); ignore index
{labels.ignore_index}.

## Licences

This project's licence does not cover these weights. Check the terms of each source before you use or pass on the bundle
or the pairs that it makes:

- The code of UniDiffuser, from which `thu-ml/unidiffuser-v1` comes, is AGPL-3.0; the terms of its weights are those of
  their page on the hub. They hold OpenAI's CLIP (MIT) and the image VAE of Stable Diffusion (CreativeML Open RAIL-M,
  whose limits on use pass on to what is derived from it).
- The code of JoDiffusion is MIT; its weights are fine-tuned from UniDiffuser's. Its annotation VAE resembles that of
  LDMSeg, whose code is CC BY-NC 4.0; no code of either is in this project.
- What was learnt from a data set (Pascal VOC, COCO, ADE20K) may be bound by that set's terms for its pictures.
"""
    path = bundle / "README.md"
    path.write_text(text)
    return path


def student_card(bundle: Path, name: str, scores: dict[str, float]) -> str:
    """The card of a bundle that `jobs.distill` left, with how near it comes to its teacher.

    Raises:
        WeightsError: no bundle.
        DataError: the bundle is no student.
    """
    student, labels = read_facts(bundle).student, load_labels(str(bundle))
    if student is None:
        raise DataError(f"{bundle}: its bundle.json names no teacher; make the card of a bundle that jobs.distill left")
    ways = {"": f"this student, {student.steps} evaluations", "undistilled/": "its teacher in as many steps"}
    rows = "\n".join(
        f"| {way} | {scores[f'{key}distance']:.4f} | {scores[f'{key}mask_agreement']:.1%} |"
        for key, way in ways.items()
    )
    return f"""# Bundle `{name}`

Distilled from the bundle `{student.teacher}` by `jobs.distill`: a student that takes {student.steps} evaluations of the
network for a pair, with guidance {student.guidance:g} built in. It is sampled in this way alone, which `jobs.generate`
does by itself. All other networks are the teacher's. Digest `{digest(bundle, ENCODERS + JOINT)}`. Safetensors only.

Label space `{labels.name}`: {", ".join(labels.classes)}; ignore index {labels.ignore_index}.

After {scores["examples"]:,} examples, averaged weights, against its teacher from the same noise on held-out prompts:

| way | distance of latents (RMSE) | pixels of one class |
|---|--:|--:|
{rows}

What holds for the teacher's licence and data holds for this bundle.
"""


def _rows(scores: dict[str, dict[str, float]]) -> str:
    lines = []
    for name, found in scores.items():
        seconds = found.get("training_s", 0.0)
        facts = ("examples", "training_s")
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items() if key not in facts)
        minutes = f"{seconds / 60:.{0 if seconds >= 600 else 1}f}"
        lines.append(f"| {name} | {found['examples']:,} | {minutes} min | {shown} |")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path}: missing; the run that writes it has not finished, run its job first")
    return json.loads(path.read_text())
