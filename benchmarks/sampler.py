"""The sampler against the reference way, in one run: pairs a second, share of the chip's peak, memory.

`python -m benchmarks.sampler` takes the mid-size network on a CPU, the paper's on a GPU; it needs neither Ray nor
published weights. The reference way is one prompt at a time, two network passes a step, 50 steps, half precision.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.bundles import PROMPTS, random_bundle
from models.compiled import Compiled
from models.diffusion import NUM_TIMES
from models.frozen import latent_to_image
from models.jodiffusion import JoDiffusionConfig, Joint
from models.reverse import SamplerSettings, Student, with_preset
from models.sampler import NoiseStreams, PairSampler, classes_and_confidence, converted
from models.step_cache import COMPUTED, REUSED, Schedule, layers_of
from models.weights import Bundle


@dataclass(frozen=True)
class Measured:
    """One row of the table."""

    way: str
    batch_size: int
    evaluations: int
    seconds_per_pair: float
    memory_gib: float


clock = time.perf_counter
"""What is measured on the host: time, or that of this process's threads alone."""


@dataclass(frozen=True)
class Pass:
    """Seconds of a pass of the network, and what was compiled for it."""

    seconds: float
    graphs: int
    compiling_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    parser.add_argument("--size", choices=("full", "mid"), default="full" if default == "cuda" else "mid")
    parser.add_argument("--batch-size", type=int, default=16 if default == "cuda" else 4)
    parser.add_argument("--pairs", type=int, default=0, help="pairs to time each way with; 0: one batch")
    parser.add_argument("--compile", action="store_true", help="each way also with compiled layers")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--busy", action="store_true", help="count processor seconds, on a machine that others use too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.busy:
        global clock
        clock = time.process_time

    device, batch_size = torch.device(options.device), options.batch_size
    num_pairs = options.pairs or batch_size
    bundle = random_bundle(options.size)
    config = bundle.net.config
    peak = matrix_peak(device)
    print(f"{datetime.date.today()}  {chip(device)}  torch {torch.__version__}  {torch.get_num_threads()} threads")
    print(f"bfloat16 matrix peak, measured: {peak / 1e12:.3g} TFLOP/s")
    parameters = sum(parameter.numel() for parameter in bundle.net.parameters())
    flops = evaluation_flops(config)
    print(f"network: {parameters:,} parameters, {bundle.image_size_px} px, {flops / 1e12:.3g} TFLOP an evaluation")

    rows = [reference(bundle, device, max(1, num_pairs // batch_size))]
    student = replace(bundle, student=Student(steps=4, guidance=bundle.guidance, teacher=""))
    for compile_ in (False, True) if options.compile else (False,):
        settings, how = SamplerSettings(batch_size=batch_size, compile=compile_), ", compiled" * compile_
        for preset in ("faithful", "fast"):
            way = with_preset(settings, preset)
            rows.append(ours(bundle, device, way, preset + how, num_pairs))
            rows.append(ours(*half_reused(bundle, way, device), f"{preset}, half{how}", num_pairs))
        rows.append(ours(student, device, settings, "distilled" + how, num_pairs))

    print(f"{'way':40} {'batch':>5} {'evaluations':>11} {'pairs/s':>9} {'x reference':>11} {'of peak':>8} {'GiB':>6}")
    for row in rows:
        ratio = rows[0].seconds_per_pair / row.seconds_per_pair
        share = row.evaluations * flops / row.seconds_per_pair / peak
        print(
            f"{row.way:40} {row.batch_size:5} {row.evaluations:11} {1 / row.seconds_per_pair:9.3g} {ratio:11.2f} "
            f"{share:8.1%} {row.memory_gib:6.1f}"
        )
    for compile_ in (False, True) if options.compile else (False,):
        took = network_seconds(bundle, device, 2 * batch_size, compile_)
        share = 2 * batch_size * flops / took.seconds / peak
        made = f"; {took.graphs} graphs compiled in {took.compiling_s:.3g} s" if compile_ else ""
        print(f"inside the network, {2 * batch_size} rows: {took.seconds:.3g} s a step, {share:.1%} of the peak{made}")


def reference(bundle: Bundle, device: torch.device, num_pairs: int) -> Measured:
    """As the reference implementation samples: a batch of one, each branch of guidance in a pass of its own."""
    settings = SamplerSettings()
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    net = converted(bundle.net, device, dtype)
    encoders, config = bundle.encoders.to(device), bundle.net.config
    scheduler = bundle.diffusion.scheduler(settings.solver)

    @torch.inference_mode()
    def one(prompt: str, seed: int, steps: int) -> Tensor:
        stream = NoiseStreams([seed])
        shapes = [
            (config.image_channels, config.latent_size, config.latent_size),
            (1, config.clip_image_width),
            (config.mask_channels, config.latent_size, config.latent_size),
        ]
        state = torch.cat([stream.normal(*shape).flatten(1) for shape in shapes], dim=1).to(device, dtype)
        sizes = [torch.Size(shape).numel() for shape in shapes]
        scheduler.set_timesteps(steps, device=device)
        with torch.autocast(device.type, dtype):
            text = encoders.text([prompt])
            for time_ in scheduler.timesteps:
                parts = state.split(sizes, dim=1)
                noisy = Joint(*(part.reshape(1, *shape) for part, shape in zip(parts, shapes, strict=True)))
                passes = []
                for given, at in ((text, 0), (torch.randn(text.shape, device=device), NUM_TIMES)):
                    answer, _ = net(noisy, given, time_.expand(1), torch.full((1,), float(at), device=device))
                    passes.append(torch.cat([value.flatten(1) for value in answer], dim=1))
                output = bundle.guidance * passes[0] + (1 - bundle.guidance) * passes[1]
                state = scheduler.step(output, time_, state, return_dict=False)[0]
            image, _, mask = (
                part.reshape(1, *shape) for part, shape in zip(state.split(sizes, 1), shapes, strict=True)
            )
            pixels = latent_to_image(encoders.image_vae, image)
            logits = encoders.annotation_vae.decode(encoders.annotation_vae.denormalize(mask))
        classes_and_confidence(logits, encoders.labels, settings.confidence_threshold)[0].cpu()
        return pixels.cpu()

    one(PROMPTS[0], 0, 2)
    seconds, memory = timed(
        device, lambda: [one(PROMPTS[i % len(PROMPTS)], i, settings.steps) for i in range(num_pairs)]
    )
    return Measured("reference, 50 steps", 1, 2 * settings.steps, seconds / num_pairs, memory)


def ours(bundle: Bundle, device: torch.device, settings: SamplerSettings, name: str, num_pairs: int) -> Measured:
    """`PairSampler`, batch after batch."""
    sampler = PairSampler(bundle, settings, device)
    settings = sampler.settings
    prompts = [PROMPTS[index % len(PROMPTS)] for index in range(settings.batch_size)]

    def batch(number: int) -> object:
        return sampler(prompts, range(number * settings.batch_size, (number + 1) * settings.batch_size))

    first = replace(bundle, student=None)
    PairSampler(first, SamplerSettings(steps=2, batch_size=settings.batch_size), device)(prompts[:1], [0])
    batches = max(1, num_pairs // settings.batch_size)
    seconds, memory = timed(device, lambda: [batch(number) for number in range(batches)])
    evaluations = sum(2 if settings.guided(step) else 1 for step in range(settings.steps))
    label = f"ours, {name}, {settings.steps} steps"  # evaluations count with those that reuse layers
    return Measured(label, settings.batch_size, evaluations, seconds / batches / settings.batch_size, memory)


def half_reused(
    bundle: Bundle, settings: SamplerSettings, device: torch.device
) -> tuple[Bundle, torch.device, SamplerSettings]:
    """What `ours` takes for a step cache that reuses every layer in every second step; what it makes says nothing."""
    layers = len(layers_of(bundle.net.transformer))
    reuse = tuple((REUSED if step % 2 else COMPUTED) * layers for step in range(settings.steps))
    way = (settings.steps, settings.solver, settings.guided_from, settings.guided_to, bundle.guidance)
    return replace(bundle, schedule=Schedule(*way, reuse)), device, replace(settings, step_cache="on")


def evaluation_flops(config: JoDiffusionConfig) -> float:
    """Floating-point operations of the network for one row: matrix products of blocks and skips, and attention."""
    tokens = 4 + config.num_text_tokens + 2 * config.num_patches
    width, blocks = config.width, config.num_layers + 1
    linear = 2 * tokens * width**2 * (12 * blocks + 2 * config.num_layers // 2)
    return linear + 4 * tokens**2 * width * blocks


def matrix_peak(device: torch.device) -> float:
    """The best of some large bfloat16 matrix products, FLOP/s."""
    best = 0.0
    for side in (8192,) if device.type == "cuda" else (1024, 2048, 4096):
        a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(4):
            seconds, _ = timed(device, partial(torch.matmul, a, b))
            best = max(best, 2 * side**3 / seconds)
    return best


@torch.inference_mode()
def network_seconds(bundle: Bundle, device: torch.device, rows: int, compiled: bool = False) -> Pass:
    """One pass of the network alone, the best of three."""
    config = bundle.net.config
    net = converted(bundle.net, device, torch.bfloat16)
    latent = (rows, config.image_channels, config.latent_size, config.latent_size)
    noisy = Joint(torch.randn(latent), torch.randn(rows, 1, config.clip_image_width), torch.randn(latent))
    noisy = Joint(*(value.to(device) for value in noisy))
    text = torch.randn(rows, config.num_text_tokens, config.text_width, device=device)
    times = torch.full((rows,), 500.0, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        torch._dynamo.reset()  # what earlier ways had compiled
        made = Compiled(net, [rows]) if compiled else None
        seconds = min(timed(device, lambda: net(noisy, text, times, times))[0] for _ in range(4))
    return Pass(seconds, made.graphs if made else 0, made.seconds if made else 0.0)


def timed(device: torch.device, function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call, and the most memory in GiB: of the device in this call, or of this process so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    began = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return clock() - began, torch.cuda.max_memory_allocated(device) / 2**30
    seconds = clock() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def chip(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names: Sequence[str] = ()
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
