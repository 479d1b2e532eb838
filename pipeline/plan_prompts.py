"""Prompt plan: captions, templates and prompts of the user's -> the file that generate reads, balanced over classes."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from models.labels import NAMES, LabelSpace
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import log
from pipeline.base.places import FileOrFolder, Folder, LabelsOrPlace
from pipeline.prompts.balance import balance, shares
from pipeline.prompts.hardness import by_hardness, failing
from pipeline.prompts.read import prompts_digest
from pipeline.prompts.sources import (
    PLAN,
    add_up,
    from_captions,
    from_file,
    from_templates,
    of_few_objects,
    without_empty,
)
from pipeline.runs.config import RunConfig
from pipeline.runs.run import Run
from pipeline.storage.labels import named_labels
from pipeline.storage.publish import write_bytes
from pipeline.tables.label_space import common_labels, is_same, load_labels
from pipeline.tables.rows import has_classes, read_shards


class PromptsConfig(RunConfig):
    """Plans prompts: writes <runs>/<run>/prompts.parquet, which jobs.generate reads."""

    pairs: tuple[Folder, ...] = ()
    """Folders of pair sets whose captions become prompts, paths or URLs; the classes in a pair's mask are what its
    caption asks for."""
    captions: Literal["first", "all"] = "first"
    """Take the first caption of each pair, or all of them."""
    append_classes: bool = False
    """Append the names of the classes in the mask to each caption: "a street; person, bus" (Dataset Diffusion)."""
    templates: tuple[str, ...] = ()
    """Texts such as "a photo of a {a}", filled with every class, or "a {a} and a {b}", with every two classes; "a"
    becomes "an" where it has to."""
    template_classes: tuple[str, ...] = ()
    """Names of the classes for templates; empty: all but the background."""
    file: FileOrFolder = ""
    """Further prompts, whatever jobs.generate reads: one a line, .jsonl or .parquet; a path or a URL."""
    labels: LabelsOrPlace = ""
    """Label space: voc, coco, ade20k, cityscapes, a YAML file or the folder of a run; empty: that of the pairs."""
    most_objects: int = Field(0, ge=0)
    """Leave out prompts that ask for more objects than this: generators mix up what stands side by side. Each that a
    prompt names is counted, or the classes of its mask where these are more; numbers are not read, "three dogs" are
    one. 0 takes all."""
    balance: Folder = ""
    """Folder of a pair set whose rare classes should be asked for more often; empty: nothing is balanced."""
    target_share: float = Field(0.05, gt=0, lt=1)
    """A class is rare that fewer of the labelled images show; this share of the weighted prompts will ask for it."""
    max_weight: float = Field(20.0, ge=1)
    """Balancing uses no prompt more often than another by more than this factor."""
    hardness: Folder = ""
    """Folder of an evaluate run: prompts for classes that a segmenter fails at come more often. Its test must be
    validation pairs: what is chosen on test pairs is no longer tested on them. Empty: all prompts alike."""
    hardness_set: str = ""
    """Which row of it; empty: the first."""
    hardest: float = Field(4.0, ge=1)
    """How often the hardest prompt comes, in multiples of the easiest; the others lie between, by rank."""


def plan_prompts(config: PromptsConfig) -> pa.Table:
    """Writes the plan, with what to expect of it in prompts.json; returns it (PLAN).

    Raises:
        ConfigError, DataError, ShardError: nothing to plan from or to balance with, an unknown class or template,
            pairs without captions, or a run that was begun with another config or other prompts.
    """
    labels = find_labels(config)
    rows, num_empty = without_empty(
        [
            *from_captions(
                list(config.pairs),
                labels,
                all_of_them=config.captions == "all",
                append_classes=config.append_classes,
            ),
            *from_templates(config.templates, config.template_classes, labels),
            *from_file(config.file, labels),
        ]
    )
    if not rows:
        raise ConfigError("no prompts to plan with: give `pairs`, `templates` or a `file`")
    num_all, rows = len(rows), of_few_objects(rows, config.most_objects, labels)
    plan = add_up(rows)
    report: dict[str, Any] = {
        "prompts": plan.num_rows,
        "prompts_by_kind": dict(Counter(plan["kind"].to_pylist())),
        "prompts_without_known_classes": plan["class_ids"].null_count,
        "empty_captions_dropped": num_empty,
        "of_more_objects_dropped": num_all - len(rows),
    }
    if config.hardness:
        plan, report["hardness"] = harder(plan, labels, config)
    if config.balance:
        assert labels is not None, "a pair set has a label space"
        plan, report["balance"] = balanced(plan, labels, config)
    with Run.open(config, "plan_prompts", facts={"prompts_digest": prompts_digest(plan)}, on_store=True) as run:
        buffer = io.BytesIO()
        pq.write_table(plan, buffer, compression="zstd")
        write_bytes(f"{run.folder}/prompts.parquet", buffer.getvalue())
        text = json.dumps(report, indent=1)
        write_bytes(f"{run.folder}/prompts.json", text.encode())
        run.tracker.text("prompts.json", text)
        run.tracker.metrics(numbers(report))
        tell(report, config)
        log.info("prompts: %s in %s/prompts.parquet", f"{plan.num_rows:,}", run.folder)
    return plan


def find_labels(config: PromptsConfig) -> LabelSpace | None:
    """The label space of all that the config names; None where it names nothing that has one.

    Raises:
        ConfigError, DataError: none where there should be one, or two that differ.
    """
    folders = [folder for folder in (*config.pairs, config.balance) if folder]
    found = common_labels(folders) if folders else None
    if not config.labels:
        return found
    try:
        is_name = config.labels in NAMES or config.labels.endswith((".yaml", ".yml"))
        named = named_labels(config.labels) if is_name else load_labels(config.labels)
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from error
    if found and not is_same(found, named):
        raise ConfigError(
            f"labels: {config.labels} has other classes than {folders[0]}, or another ignore index or meaning of 0; "
            "leave `labels` empty"
        )
    return named


def harder(plan: pa.Table, labels: LabelSpace | None, config: PromptsConfig) -> tuple[pa.Table, dict[str, Any]]:
    """The plan with weights by what a segmenter fails at, and how hard each class is.

    Raises:
        ConfigError, DataError: no label space, or no such figures.
    """
    if labels is None:
        raise ConfigError("hardness: name the `labels` of the prompts, so that their classes can be looked up")
    fails = failing(config.hardness, config.hardness_set, labels)
    factors = by_hardness(plan["class_ids"].to_pylist(), fails, config.hardest)
    told = {labels.classes[one]: round(value, 4) for one, value in sorted(fails.items(), key=lambda one: -one[1])}
    return weighted(plan, plan["weight"].to_numpy() * factors.round(6)), {"run": config.hardness, "fails": told}


def weighted(plan: pa.Table, weights: np.ndarray) -> pa.Table:
    """The plan with other weights."""
    return plan.set_column(plan.schema.get_field_index("weight"), PLAN.field("weight"), pa.array(weights))


def balanced(plan: pa.Table, labels: LabelSpace, config: PromptsConfig) -> tuple[pa.Table, dict[str, Any]]:
    """The plan with balanced weights, and what to expect of each rare class.

    Raises:
        DataError, ShardError: no pairs with masks to compare with.
    """
    folder = config.balance
    rows = read_shards([folder], ["pair_id", "class_ids"])
    labelled = rows.filter(pa.array(has_classes(rows)))  # of the others nobody knows what they show
    if not labelled.num_rows:
        raise DataError(f"{folder}: none of its {rows.num_rows:,} pairs has a mask to balance with; give labelled ones")
    shown = {
        one: images / labelled.num_rows
        for one, images in Counter(pc.list_flatten(labelled["class_ids"]).to_pylist()).items()
    }
    rare = [one for one in range(1, labels.num_classes + 1) if shown.get(one, 0.0) < config.target_share]
    asks = np.zeros((plan.num_rows, len(rare)), bool)
    column_of = {one: column for column, one in enumerate(rare)}
    for row, class_ids in enumerate(plan["class_ids"].to_pylist()):
        asks[row, [column_of[one] for one in class_ids or () if one in column_of]] = True
    weights = plan["weight"].to_numpy()
    factors = balance(asks, weights, np.full(len(rare), config.target_share), config.max_weight)
    used = weights * factors.round(6)  # the last digits differ between machines
    before, after = shares(asks, weights), shares(asks, used)
    classes = [
        {
            "id": one,
            "name": labels.classes[one],
            "share_in_set": shown.get(one, 0.0),
            "share_before": float(before[column]),
            "share_after": float(after[column]),
            "prompts": int(asks[:, column].sum()),
            "is_reached": bool(after[column] > config.target_share * 0.999),
        }
        for one, column in column_of.items()
    ]
    return weighted(plan, used), {"set": folder, "rare_classes": classes}


def numbers(report: dict[str, Any]) -> dict[str, float]:
    """A report's numbers, for MLflow."""
    classes = report.get("balance", {}).get("rare_classes", [])
    return {
        "prompts": report["prompts"],
        "empty_captions_dropped": report["empty_captions_dropped"],
        "rare_classes": len(classes),
        "rare_classes_reached": sum(one["is_reached"] for one in classes),
        **{f"share/{one['name']}": one["share_after"] for one in classes},
    }


def tell(report: dict[str, Any], config: PromptsConfig) -> None:
    """Logs what the plan holds, and what to do about classes that it does not ask for often enough."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["prompts_by_kind"].items())
    log.info("prompts: %s; %d empty ones dropped", kinds, report["empty_captions_dropped"])
    if config.most_objects:
        dropped = report["of_more_objects_dropped"]
        log.info("prompts: %d that ask for more than %d objects dropped", dropped, config.most_objects)
    if "hardness" in report:
        fails = ", ".join(f"{name} {value:.2f}" for name, value in report["hardness"]["fails"].items())
        log.info("prompts: 1 - IoU by class, the hardest first: %s", fails)
    if "balance" not in report:
        return
    classes = report["balance"]["rare_classes"]
    log.info("prompts: %d classes are in less than %g of the images", len(classes), config.target_share)
    if classes:
        log.info("prompts: %-20s %8s %8s %8s %8s", "rare class", "in set", "before", "after", "prompts")
    for one in classes:
        values = [f"{one[f'share_{kind}']:8.2%}" for kind in ("in_set", "before", "after")]
        log.info("prompts: %-20s %s %8d", one["name"], " ".join(values), one["prompts"])
    if absent := [one["name"] for one in classes if not one["prompts"]]:
        log.warning(
            "prompts: no prompt asks for %s; add some, such as --templates 'a photo of a {a}' --template-classes %s",
            ", ".join(absent), " ".join(f"'{name}'" if " " in name else name for name in absent),
        )  # fmt: skip
    if short := [one["name"] for one in classes if one["prompts"] and not one["is_reached"]]:
        log.warning(
            "prompts: %d classes stay below %g: add prompts for them (best for several at once), raise max_weight or "
            "lower target_share: %s",
            len(short), config.target_share, ", ".join(short[:10]) + (", ..." if len(short) > 10 else ""),
        )  # fmt: skip
