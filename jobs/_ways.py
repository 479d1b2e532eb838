"""The whole way from labelled pictures to generated pairs, with sizes that fit a machine: what `jobs.start` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from jobs import _takes
from jobs._machine import GIB, OWN, Here, Step, Way, fit_joint, joint_needs, joint_task
from pipeline.base.config import Config
from pipeline.base.errors import ConfigError
from pipeline.base.places import is_seen_by_all
from pipeline.base.strict_yaml import load_yaml
from pipeline.caption import RULES, CaptionConfig
from pipeline.cluster.sink import SHARD_BYTES
from pipeline.encode import EncodeConfig
from pipeline.evaluate import EvaluateConfig
from pipeline.generate import GenerateConfig
from pipeline.ingest import IngestConfig
from pipeline.label import LabelConfig
from pipeline.training.tasks.clip import ClipConfig
from pipeline.training.tasks.joint import JointConfig
from pipeline.training.tasks.latents import VAEConfig

DEMO = OWN.parent / "demo"
NUM_TOKENS = 48
"""Of sentences, where their encoder learns from nothing: people's are longer than the demo's."""
LEAST_SHARE = 0.7
"""Of pictures that are trained on, with chance in how they fall."""


def steps_of(
    name: str,
    runs: str,
    ingests: Mapping[str, Mapping[str, Any]],
    machine: Here,
    *,
    labels: str,
    num_pictures: int,
    num_labelled: int,
    has_captions: bool,
    row_bytes: float = 0.0,
    way: Literal["auto", "weights", "small"] = "auto",
) -> Way:
    """All commands from pictures to a page about generated pairs.

    Args:
        name: of the set; runs are called after it.
        runs: their folder.
        ingests: values of `ingest`, by split.
        machine: that is planned for.
        labels: name or file of the label space.
        num_pictures, num_labelled: of all splits.
        has_captions: pictures come with them.
        row_bytes: of a pair as it is read.
        way: "auto" takes what fits.

    Raises:
        ConfigError: the way that was asked for does not fit.
    """
    fitted = fit_joint(machine) if machine.gpus and way != "small" else None
    if way == "weights" and not fitted:
        raise ConfigError(
            f"way: UniDiffuser's network does not fit {machine}: plan for larger ones (--gpus 1 --gpu-gib 80) "
            "or say --way small"
        )
    plan = _Plan(name, runs, machine, fitted, num_pictures, num_labelled, has_captions, labels, row_bytes)
    # Fewer than there will be: a batch must not be larger than its set.
    return plan.way(ingests, max(2, int(LEAST_SHARE * num_pictures)), max(1, int(LEAST_SHARE * num_labelled)))


@dataclass(frozen=True)
class _Plan:
    """What the steps have in common."""

    name: str
    runs: str
    machine: Here
    fitted: Mapping[str, Any] | None
    num_pictures: int
    num_labelled: int
    has_captions: bool
    labels: str
    row_bytes: float

    @property
    def some(self) -> bool:
        """Whether some pictures have no masks."""
        return self.num_pictures > self.num_labelled

    def run(self, ending: str = "") -> str:
        """The folder of a run."""
        return f"{self.runs}/{self.name}{ending}"

    def typed(self, ending: str, inner: str = "") -> str:
        """The folder of a run, or what is in it, as a command line takes it."""
        return quote(f"{self.run(ending)}{inner}")

    @property
    def captioned(self) -> str:
        return "" if self.has_captions else "-captioned"

    @property
    def size_px(self) -> int:
        """Side of all that is trained and generated; pictures of several sizes are brought to it."""
        return 512 if self.fitted else 64

    @property
    def bundle(self) -> str:
        """Where the imported weights go: to the runs, where other machines see these."""
        return self.run("-bundle") if is_seen_by_all(self.runs) else f"bundles/{self.name}"

    @property
    def workers(self) -> dict[str, Any]:
        """Of one training."""
        return {"cpus": 4, "gpus": 1} if self.machine.gpus else {"threads": self.machine.cpus}

    @property
    def at_once(self) -> dict[str, Any]:
        """Of jobs with many trainings: one on each GPU."""
        return {"at_once": self.machine.gpus} if self.machine.gpus > 1 else {}

    def each(self, cpu: Mapping[str, Any]) -> dict[str, Any]:
        """Processes of a job without a training: one on each GPU, or those for CPUs."""
        return {"num": self.machine.gpus, "cpus": 2, "gpus": 1} if self.machine.gpus else dict(cpu)

    def _sharded(self, values: Mapping[str, Any], **workers: int) -> dict[str, Any]:
        """The values of a job that writes whole pictures: where these are large, fewer of them wait for a shard."""
        most = int(SHARD_BYTES / max(self.row_bytes, 1))
        few = {"rows_per_shard": max(1, most)} if most < IngestConfig.model_fields["rows_per_shard"].default else {}
        return {**values, **few, "workers": workers}

    def way(self, ingests: Mapping[str, Mapping[str, Any]], num_train: int, num_labelled: int) -> Way:
        steps = [
            Step("ingest", f"ingest-{split}.yaml", f"Read the {kind}", IngestConfig, self._sharded(values, num=2))
            for (split, values), kind in zip(
                ingests.items(), ("pictures to train on", "pairs to choose on", "pairs to test on"), strict=True
            )
        ]
        if not self.has_captions:
            steps += [self._captions("caption.yaml", "", "Write a sentence for each picture")]
            steps += [self._captions("caption-validation.yaml", "-validation", "And for those to choose on")]
        steps += [self._baseline()]
        if self.some:
            steps += [self._label()]
        steps += self._networks(num_train)
        joint = next(step for step in steps if step.job == "train_joint")
        config = JointConfig.model_validate({**joint.values, "initial": ""})
        steps += self._pairs(min(10_000, max(1_000, 10 * num_labelled)), config)
        latent = 2.0 * sum(math.prod(one.shape[1:]) for one in joint_task(config)[1].values())
        side = self.size_px
        disk = 3 * joint_needs(config).checkpoint + 2 * num_train * latent
        disk += 10 * num_labelled * _takes.PIXEL_BYTES * side**2
        disk += _takes.pairs_bytes(
            self.num_pictures, self.row_bytes, copies=1 if self.has_captions else 2,
            to_label=self.num_pictures - self.num_labelled,
            label=next((step.values for step in steps if step.job == "label"), None),
        )  # fmt: skip
        if self.fitted:
            why = (
                f"At 512 px, from UniDiffuser's weights: they fit {self.machine} with "
                f"{self.fitted['optimisation']['accumulation']} parts a batch, {self.fitted['strategy']}"
                f"{', activations computed again' if self.fitted['recompute_activations'] else ''}."
            )
            return Way(tuple(steps), why, disk / GIB, ", beside the downloads of UniDiffuser and BLIP-2")
        why = "At 64 px, from nothing, as the built-in data are learned (docs/proof.md)"
        why += (
            ": a network of UniDiffuser's size does not fit here." if self.machine.gpus else ": there is no large GPU."
        )
        return Way(tuple(steps), why, disk / GIB, "")

    def _captions(self, file: str, ending: str, why: str) -> Step:
        values = load_yaml((OWN / "caption.yaml").read_text())
        values |= {"run": f"{self.name}{ending}-captioned", "runs": self.runs, "pairs": [self.run(ending)]}
        values = self._sharded(values, **self.each({"num": 1, "cpus": 1}))
        if not self.machine.gpus and not self.some:
            values |= {"model": RULES, "workers": {"num": 1}}
            why += ", by rules, from its mask"
        elif not self.machine.gpus:
            why += " (a network of 15 GB, slow without a GPU; give --captions where you have sentences)"
        return Step("caption", file, why, CaptionConfig, values)

    def _segmenter(self) -> dict[str, Any]:
        network = {} if self.fitted else {"segmenter": "unet_small", "pretrained": ""}
        return {**network, "size_px": self.size_px, "workers": self.workers, **self.at_once}

    def _tried(self) -> dict[str, Any]:
        if not self.fitted:
            return {"try_steps": [768, 1_536, 3_072], "try_augmentations": ["usual", "copy_paste"]}
        values = load_yaml((OWN / "baseline.yaml").read_text())
        return {key: values[key] for key in ("try_steps", "try_augmentations")}

    def _baseline(self) -> Step:
        values = load_yaml((OWN / "baseline.yaml").read_text()) | self._segmenter() | self._tried()
        values |= {
            "run": f"{self.name}-baseline", "runs": self.runs, "sets": {"real": [self.run(self.captioned)]},
            "test": self.run("-test"), "validation": self.run("-validation"),
        }  # fmt: skip
        return Step(
            "evaluate", "baseline.yaml", "What the masks that you have reach alone", EvaluateConfig, values,
            hours=self._evaluating(values),
        )  # fmt: skip

    def _evaluating(self, values: Mapping[str, Any]) -> float | None:
        return _takes.segmenter_hours(
            self.machine, EvaluateConfig.model_validate(values), _takes.evaluate_groups(values)
        )

    def _label(self) -> Step:
        values = load_yaml((OWN / "label.yaml").read_text()) | self._segmenter()
        values |= {
            "run": f"{self.name}-labels", "runs": self.runs, "pairs": self.run(self.captioned),
            "validation": self.run("-validation"),
        }  # fmt: skip
        config = LabelConfig.model_validate(values)
        return Step(
            "label", "label.yaml",
            "Masks for the other pictures, where that is shown to help (stop here if it is not). Give the `steps` that "
            f"{self.run('-baseline')}/proof.md found best (--steps N)",
            LabelConfig, values, hours=_takes.segmenter_hours(self.machine, config, _takes.label_groups(config)),
        )  # fmt: skip

    def _training(self, folder: Path, file: str, ending: str, **changes: Any) -> dict[str, Any]:
        values = load_yaml((folder / file).read_text())
        return values | {"run": f"{self.name}{ending}", "runs": self.runs, "workers": self.workers} | changes

    def _networks(self, num_train: int) -> list[Step]:
        real, labelled = self.run(self.captioned), self.run("-labels")
        held_out, shares = self.run("-validation"), {"shares": [1, 1]} if self.some else {}
        masks = {"train": [real, *([labelled] if self.some else [])], "validation": held_out, **shares}
        steps: list[Step] = []
        if self.fitted:
            values = self._training(OWN, "annotation_vae.yaml", "-annotation-vae", **masks)
            num = self.fitted["workers"]["num"]
            values["workers"] = self.fitted["workers"]
            values["optimisation"] |= {"accumulation": max(1, 8 // num)}
            values |= {} if self.some else {"shares": []}
            hours = _takes.vae_hours(self.machine, VAEConfig.model_validate(values))
            steps.append(
                Step("train_vae", "annotation_vae.yaml", "A network for masks", VAEConfig, values, hours=hours)
            )
            steps.append(
                Step(
                    "import_weights", "", "A bundle with UniDiffuser's weights", Config, {},
                    f" --base thu-ml/unidiffuser-v1 --annotation-vae {self.typed('-annotation-vae', '/weights')} "
                    f"--label-space {quote(self.labels)} --bundle {quote(self.bundle)}",
                )
            )  # fmt: skip
            vaes = {name: f"{self.bundle}/{name}" for name in ("image_vae", "annotation_vae")}
            encoders = {"text": self.bundle, **vaes}
            joint = self._training(OWN, "joint.yaml", "-joint", initial=self.bundle, **self.fitted)
        else:
            pictures = {"train": [real], "validation": self.run(f"-validation{self.captioned}"), "size_px": 64}
            for job, file, ending, why, kind, changes in (
                ("train_vae", "image_vae.yaml", "-image-vae", "A network for pictures", VAEConfig, pictures),
                ("train_clip", "clip.yaml", "-text", "A network for sentences", ClipConfig, pictures),
                ("train_vae", "annotation_vae.yaml", "-annotation-vae", "A network for masks", VAEConfig, masks),
            ):
                values = self._training(DEMO, file, ending, **{**changes, "slices": [], "size_px": 64})
                values |= {} if "shares" in changes or "shares" not in values else {"shares": []}
                values |= {"num_tokens": NUM_TOKENS} if job == "train_clip" else {}
                _takes.in_batches_of(values, num_train)
                reckoned = job == "train_vae"
                hours = _takes.vae_hours(self.machine, VAEConfig.model_validate(values)) if reckoned else None
                steps.append(Step(job, file, why, kind, values, hours=hours))
            names = {"text": "-text", "image_vae": "-image-vae", "annotation_vae": "-annotation-vae"}
            encoders = {key: f"{self.run(ending)}/weights" for key, ending in names.items()}
            joint = self._training(DEMO, "joint.yaml", "-joint", preview_prompts=[""])
            joint["net"] |= {"num_text_tokens": NUM_TOKENS}
            _takes.in_batches_of(joint, num_train)
        steps += self._latents(encoders)
        sets = {"-latents-labelled": 1, **({"-latents-labels": 3} if self.some else {})}
        joint |= {
            "train": [self.run(ending) for ending in sets], "shares": list(sets.values()) if self.some else [],
            "validation": self.run("-latents-validation"),
        }  # fmt: skip
        hours = _takes.joint_hours(self.machine, JointConfig.model_validate({**joint, "initial": ""}))
        why = "The joint network: stop it (Ctrl-C saves) when the held-out loss of masks rises"
        return [*steps, Step("train_joint", "joint.yaml", why, JointConfig, joint, hours=hours)]

    def _latents(self, encoders: Mapping[str, str]) -> list[Step]:
        common = load_yaml((OWN / "encode.yaml").read_text())
        common |= {"runs": self.runs, "encoders": dict(encoders), "size_px": self.size_px}
        common["workers"] = self.each({"num": 1})
        wanted: list[tuple[str, dict[str, Any]]] = [
            ("labelled", {"pairs": [self.run(self.captioned)], "pictures": "labelled"}),
            *([("labels", {"pairs": [self.run("-labels")]})] if self.some else []),
            (
                "validation",
                {"pairs": [self.run(f"-validation{self.captioned}")], "flip": False, "pictures": "labelled"},
            ),
        ]
        return [
            Step(
                "encode", f"encode-{kind}.yaml", f"Latents: {kind}", EncodeConfig,
                {**common, "run": f"{self.name}-latents-{kind}", **values},
            )
            for kind, values in wanted
        ]  # fmt: skip

    def _pairs(self, num_pairs: int, joint: JointConfig) -> list[Step]:
        real, made = self.run(self.captioned), self.run("-synthetic")
        generate = load_yaml((OWN / "generate.yaml").read_text())
        generate |= {
            "run": f"{self.name}-synthetic", "runs": self.runs, "bundle": f"{self.run('-joint')}/weights",
            "prompts": real, "pairs": num_pairs, "workers": self.each({"threads": 1}),
        }  # fmt: skip
        sets: dict[str, Any] = {"real": [real]}
        labels = [real, self.run("-labels")] if self.some else [real]
        sets |= {"labels": labels} if self.some else {}
        sets["real + synthetic"] = {"train": [real, made], "shares": [1, 1]}
        sets |= {"labels + synthetic": [*labels, made]} if self.some else {"synthetic": [made]}
        evaluate = load_yaml((OWN / "evaluate.yaml").read_text()) | self._segmenter() | self._tried()
        del evaluate["steps"]  # chosen, with the augmentation, for the first set as for the baseline
        evaluate |= {
            "run": f"{self.name}-proof", "runs": self.runs, "sets": sets, "test": self.run("-test"),
            "validation": self.run("-validation"), "generator_train": labels, "judged": made,
        }  # fmt: skip
        num = max(1, self.machine.gpus)
        hours = _takes.generating_hours(self.machine, joint, generate["preset"], num_pairs, num)
        runs, pairs = quote(self.runs), self.typed("-synthetic")
        score = (
            f" --run {quote(f'{self.name}-scores')} --runs {runs} --pairs {pairs} "
            f"--real {' '.join(map(quote, labels))} --kinds plain nearest"
        )
        page = (
            f" --run {quote(f'{self.name}-page')} --runs {runs} --pairs {pairs} --real {self.typed(self.captioned)} "
            f"--scores {self.typed('-scores')} --proof {self.typed('-proof')}"
        )
        scored = f"--runs {runs} --pairs {pairs} --scores {self.typed('-scores')}"
        look, keep = (f" --run {quote(f'{self.name}{ending}')} {scored}" for ending in ("-look", "-chosen"))
        return [
            Step("generate", "generate.yaml", f"{num_pairs:,} pairs", GenerateConfig, generate, hours=hours),
            Step("score", "", "What each is worth, and whether it is a copy", Config, {}, score),
            Step(
                "evaluate", "evaluate.yaml", "What they are worth to a segmenter", EvaluateConfig, evaluate,
                hours=self._evaluating(evaluate),
            ),
            Step("report", "", "The page", Config, {}, page),
            Step("gallery", "", f"All pairs, to look at in {self.run('-look')}/gallery/index.html", Config, {}, look),
            Step("curate", "", "A selection: no copies, one of what looks alike (docs/curation.md)", Config, {}, keep),
        ]  # fmt: skip
