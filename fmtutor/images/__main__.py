"""Train, draw from and judge a model of images on the command line: `python -m fmtutor.images --help`.

Several GPUs: `accelerate launch -m fmtutor.images train ...`. Started again, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from fmtutor.images.classifier import train_classifier
from fmtutor.images.evaluate import Inception
from fmtutor.images.judge import judge, watch
from fmtutor.images.logbook import save_grid
from fmtutor.images.model import SCHEDULES, ImageModel
from fmtutor.images.pretrained import CLASSIFIERS, pretrained_classifier
from fmtutor.images.run import COLLECTIONS, TIMES, load, train

NUMBERS: tuple[tuple[str, Callable[[str], float], float, str], ...] = (
    ("steps", int, 2000, "updates"),
    ("batch", int, 128, "images a step, over all processes"),
    ("lr", float, 2e-3, "peak learning rate"),
    ("warmup", float, 0.05, "part of the steps in which it rises"),
    ("ema", float, 0.999, "decay of the averaged weights"),
    ("clip", float, 1.0, "largest norm of a gradient"),
    ("width", int, 32, "unit of channels of the network"),
    ("drop", float, 0.1, "how often a label is left out"),
    ("size", int, 64, "side of the images made of a folder's pictures"),
    ("seed", int, 0, "of weights and draws"),
    ("look-every", int, 500, "steps between two grids of samples"),
    ("look-samples", int, 1000, "images drawn at each look for a Frechet distance; 0 for none"),
    ("checkpoint-every", int, 500, "steps between two checkpoints"),
)
SWITCHES = {
    "attention": "let the coarsest view attend to itself",
    "flip": "mirror images at random",
    "dequantize": "spread pixels over their grey levels",
    "compiled": "use torch.compile",
    "unlabelled": "leave all labels out",
}


def parser() -> argparse.ArgumentParser:
    """The three commands and what each of them takes."""
    top = argparse.ArgumentParser(prog="python -m fmtutor.images", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    told: dict[str, Any] = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    _for_training(commands.add_parser("train", help="train a model, or go on with a training", **told))
    sample = commands.add_parser("sample", help="draw images into one picture", **told)
    judged = commands.add_parser("evaluate", help="measure a model, and write the numbers with their protocol", **told)
    for command in (sample, judged):
        command.add_argument("model", help="model.safetensors, or the folder of a finished run")
        command.add_argument("--steps", type=int, default=20, help="of the solver")
        command.add_argument("--method", default="midpoint", help="the solver")
        command.add_argument("--scale", type=float, default=1.0, help="of guidance; 1 for none")
        command.add_argument("--seed", type=int, default=0, help="of all draws")
    sample.add_argument("--n", type=int, default=64, help="how many images")
    sample.add_argument("--label", type=int, help="a class; all in turn unless given")
    sample.add_argument("--out", default="samples.png", help="the picture")
    judged.add_argument("--data", help="what it was trained on, if the model does not say")
    judged.add_argument("--root", help="where collections lie")
    judged.add_argument("--samples", type=int, help="images to draw; 2000, or half of those held out, unless given")
    judged.add_argument("--likelihood", type=int, default=200, help="images whose bits are computed; 0 for none")
    judged.add_argument("--likelihood-steps", type=int, default=50, help="midpoint steps of that")
    judged.add_argument("--inception", action="store_true", help="the FID too; pip install 'fmtutor[fid]' first")
    judged.add_argument("--out", help="a JSON file; printed unless given")
    return top


def _for_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="where the run lives")
    command.add_argument("--data", default="digits", help=f"{', '.join(COLLECTIONS)}, or a folder of pictures")
    command.add_argument("--root", help="where collections lie, or are downloaded to")
    for name, kind, default, text in NUMBERS:
        command.add_argument(f"--{name}", type=kind, default=default, help=text)
    command.add_argument("--multipliers", type=int, nargs="+", default=(1, 2, 2), help="channels of each level")
    command.add_argument("--schedule", choices=SCHEDULES, default="linear", help="the path")
    command.add_argument("--times", choices=TIMES, default="uniform", help="how times are drawn")
    command.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no", help="of the arithmetic")
    for name, text in SWITCHES.items():
        command.add_argument(f"--{name}", action="store_true", help=text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; what is wrong with it is said in a line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = vars(parser().parse_args(words))
    told = shlex.join(["python", "-m", "fmtutor.images", *words])
    known: dict[str, Callable[..., None]] = {"train": _train, "sample": _sample, "evaluate": partial(_evaluate, told)}
    command = known[given.pop("command")]
    try:
        command(**given)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from the last checkpoint")


def _train(unlabelled: bool, multipliers: Sequence[int], look_samples: int, **settings: Any) -> None:
    data, look = settings["data"], None
    if look_samples and data in CLASSIFIERS:
        held_out, _ = load(data, "test", root=settings["root"])
        look = watch(pretrained_classifier(data).to(_device()), held_out, samples=look_samples)
    _, history = train(labelled=not unlabelled, multipliers=tuple(multipliers), look=look, tell=tqdm.write, **settings)
    print(history)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _model(path: str) -> ImageModel:
    file = Path(path).expanduser()
    if file.is_dir() and not (file / "model.safetensors").exists():
        raise FileNotFoundError(
            f"{file} holds no model.safetensors yet: its training is not at its end. Go on with it (Ctrl-C leaves a "
            "model too), or name another folder"
        )
    model = ImageModel.load(file / "model.safetensors" if file.is_dir() else file)
    model.network.to(_device())
    return model


def _sample(model: str, n: int, label: int | None, out: str, scale: float, seed: int, **solver: Any) -> None:
    drawn_from = _model(model)
    classes = drawn_from.network.classes
    wanted = torch.arange(n) % classes if label is None and classes else label
    generator = torch.Generator(next(drawn_from.network.parameters()).device).manual_seed(seed)
    save_grid(drawn_from.sample(n, wanted, scale, generator=generator, **solver), Path(out))
    print(out)


def _evaluate(
    command: str, model: str, data: str | None, root: str | None, out: str | None, inception: bool, **how: Any
) -> None:
    judged, network = _model(model), Inception() if inception else None
    name = data or judged.notes.get("settings", {}).get("data")
    if name not in COLLECTIONS:
        raise ValueError(f"data must be one of {', '.join(COLLECTIONS)}, which have held-out images, got {name!r}")
    (known, _), (held_out, _) = load(name, root=root), load(name, "test", root=root)
    classifier = pretrained_classifier(name) if name in CLASSIFIERS else train_classifier(*known, steps=1000)
    found = judge(judged, classifier.to(_device()), known, held_out, inception=network, **how)
    found["protocol"] |= {"data": name, "command": command}
    text = json.dumps(found, indent=1)
    if out:
        Path(out).expanduser().write_text(text + "\n")
    print(out or text)


if __name__ == "__main__":
    main()
