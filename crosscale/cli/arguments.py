"""The option parser that all verbs share, and the options with which several of them choose a model."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from crosscale.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from crosscale.cluster.hosts import Start
    from crosscale.predictor import Predictor
    from crosscale.tasks.task import Task

EXIT_STATUS = """\
exit status:
  0  done
  1  the work failed (a bad file, a full disc, not enough memory)
  2  the request was wrong (unknown option, missing file, value that cannot work)"""


ENGINES = ("jax", "onnxruntime", "openvino", "auto")  # as in `crosscale.export.engines`, whose import takes JAX
_LITERAL = "\0"  # no command-line word contains it


class Parser(argparse.ArgumentParser):
    """Argparse with one-line errors that name the nearest option, and no abbreviations of options."""

    def __init__(self, verb: str, *, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"crosscale {verb}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses options and positional words in any order; after a bare "--" only words. Raises RequestError."""
        words = list(argv)
        end = words.index("--") if "--" in words else len(words)
        if not {"-h", "--help"}.isdisjoint(words[:end]):
            self.print_help()
            self.exit(0)
        # argparse drops the words after "--" here, so it gets them with a mark that no option has.
        marked = [*words[:end], *(f"{_LITERAL}{word}" for word in words[end + 1 :])]
        options, rest = self.parse_known_intermixed_args(marked)
        for name, value in vars(options).items():
            if isinstance(value, list):
                setattr(options, name, [_unmarked(word) for word in value])
            else:
                setattr(options, name, _unmarked(value))
        rest = [_unmarked(word) for word in rest]
        if rest:
            word = rest[0]
            name = word.split("=", 1)[0]
            kind = "option" if word.startswith("-") else "argument"
            hint = did_you_mean(name, self.known_options())
            raise RequestError(f"unknown {kind} '{name}'{hint or f'; see {self.prog} --help'}")
        return options

    def known_options(self) -> list[str]:
        """Every spelling that the parser takes, those of its groups included; argparse has no public name for this."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see {self.prog} --help")


def _unmarked(word: Any) -> Any:
    return word.removeprefix(_LITERAL) if isinstance(word, str) else word


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return int(text)


def count(text: str) -> int:
    """An argparse type: a whole number, 0 included."""
    return 0 if text == "0" else positive_int(text)


def fraction(text: str) -> float:
    """An argparse type: a number between 0 and 1, neither included."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got '{text}'")
    return value


def held_out_share(text: str) -> float:
    """An argparse type: a number from 0, which holds nothing out, to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, got '{text}'")
    return value


def share(text: str) -> float:
    """An argparse type: a number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and up to 1, got '{text}'")
    return value


def refuse_given(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raises RequestError, "--NAME WHY", for the first of some options that is given where it would do nothing.

    Args:
      names: options whose defaults are None, False or an empty list.
    """
    for name in names:
        value = getattr(options, name)
        if not (value is None or value is False or value == []):
            raise RequestError(f"--{name.replace('_', '-')} {why}")


def add_recipe_options(parser: Parser, argv: Sequence[str], *, explained: bool = True) -> None:
    """Adds `--section.key V` for every key of a recipe, older names too, and for the model's fields that `argv` names.

    Args:
      explained: the help lists the keys.
    """
    from crosscale.recipe import RENAMED, recipe_keys
    from crosscale.typed import describe, shown

    groups: dict[str, Any] = {}
    for dotted, key in recipe_keys().items():
        section = dotted.split(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(f"recipe: {section}") if explained else parser
        names = list(dict.fromkeys([f"--{dotted}", f"--{dotted.replace('_', '-')}"]))
        limits = f"; {key.range}" if key.range else ""
        help_text = f"{key.doc} ({describe(key.type)}{limits}; default {shown(key.default)})".replace("%", "%%")
        hidden = help_text if explained else argparse.SUPPRESS
        groups[section].add_argument(*names, dest=dotted, metavar="V", default=argparse.SUPPRESS, help=hidden)
    for old, new in RENAMED.items():
        help_text = f"older name of --{new}" if explained else argparse.SUPPRESS
        parser.add_argument(f"--{old}", dest=old, default=argparse.SUPPRESS, help=help_text)
    for word in argv:  # only the model knows its fields
        option = word.split("=", 1)[0]
        if option.startswith("--model.options.") and option not in parser.known_options():
            dest = option[2:].replace("-", "_")
            parser.add_argument(option, dest=dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def recipe_overrides(options: Mapping[str, Any]) -> dict[str, str]:
    """What the options of `add_recipe_options` say: dotted key -> its text."""
    return {key: value for key, value in options.items() if "." in key}


def add_host_options(parser: Parser) -> None:
    """Adds the ways to be one of several processes: `--distributed`, or three options that say the same."""
    group = parser.add_argument_group("several processes (docs/clusters.md)")
    group.add_argument(
        "--distributed", action="store_true", help="find the others by Slurm, Open MPI, Kubernetes or Cloud TPU"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0; with the next two, on any machines")
    group.add_argument("--num-processes", metavar="N", type=positive_int, help="how many there are")
    group.add_argument("--process-id", metavar="I", type=count, help="which of them this is, from 0")


def host_options(options: argparse.Namespace) -> "Start | None":
    """What the options of `add_host_options` say; None for a single process. Raises RequestError."""
    three = {
        "--coordinator": options.coordinator,
        "--num-processes": options.num_processes,
        "--process-id": options.process_id,
    }
    missing = [name for name, value in three.items() if value is None]
    if len(missing) == len(three) and not options.distributed:
        return None
    if options.distributed and len(missing) < len(three):
        raise RequestError("--distributed finds all three itself; give it alone, or --coordinator and the other two")
    if missing and not options.distributed:
        raise RequestError(f"{missing[0]} is missing: {', '.join(three)} go together")
    from crosscale.cluster.hosts import Start

    if options.distributed:
        return Start()
    return Start(options.coordinator, options.num_processes, options.process_id)


def add_model_options(parser: Parser, *, class_names: bool, several: bool = False) -> None:
    """Adds `--run RUN`, or `--model M --weights F`, and `--classes FILE` if `class_names`.

    Args:
      several: `--run` may be given several times, and is a list.
    """
    group = parser.add_argument_group("the model")
    choice = group.add_mutually_exclusive_group(required=True)
    run = "a run folder of `crosscale train`, or its best/ folder"
    more = "; given several times: the mean of their probabilities"
    action = "append" if several else "store"
    choice.add_argument("--run", metavar="RUN", action=action, help=f"{run}{more if several else ''}")
    choice.add_argument("--model", metavar="M", help="a preset (see `crosscale models`), with --weights")
    group.add_argument("--weights", metavar="F", help="a weight file for --model")
    add_weights_key(group)
    if class_names:
        group.add_argument("--classes", metavar="FILE", help="class names for --model, one a line in label order")


def add_weights_key(parser: "argparse._ActionsContainer") -> None:
    """Adds `--weights-key KEY`."""
    parser.add_argument(
        "--weights-key",
        metavar="KEY",
        default="",
        help="which of several sets of weights in the file to take, such as model or state_dict_ema",
    )


def add_result_options(parser: Parser, defaults: Mapping[str, int] | None = None) -> None:
    """Adds every task's options for how much a result says: `--top-k K` and the like, None where not given.

    Args:
      defaults: the verb's own, in place of the task's, for the help.
    """
    from crosscale.tasks.registry import TASKS

    options = {name: option for kind in TASKS.values() for name, option in kind.result_options.items()}
    for name, option in options.items():
        tasks = ", ".join(task for task, kind in TASKS.items() if name in kind.result_options)
        default = (defaults or {}).get(name, option.default)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=option.metavar,
            type=positive_int if option.minimum == 1 else count,
            help=f"{tasks}: {option.help} (default {default})",
        )


def result_options(
    options: argparse.Namespace, task: "Task", defaults: Mapping[str, int] | None = None
) -> dict[str, int]:
    """What the options of `add_result_options` say to this task. Raises RequestError for another task's."""
    from crosscale.tasks.checks import check_result_options
    from crosscale.tasks.registry import TASKS

    names = dict.fromkeys(name for kind in TASKS.values() for name in kind.result_options)
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    check_result_options(task, given)
    own = {name: value for name, value in (defaults or {}).items() if name in task.result_options}
    return {**own, **given}


def add_test_options(parser: Parser) -> None:
    """Adds the recipe's keys `task.NAME` that can be changed after training, as `--task.NAME V`."""
    from crosscale.recipe import recipe_keys
    from crosscale.tasks.registry import TASKS

    for name in dict.fromkeys(name for kind in TASKS.values() for name in kind.test_options):
        tasks = ", ".join(task for task, kind in TASKS.items() if name in kind.test_options)
        names = list(dict.fromkeys([f"--task.{name}", f"--task.{name.replace('_', '-')}"]))
        help_text = f"{tasks}: {recipe_keys()[f'task.{name}'].doc} (default: the run's)".replace("%", "%%")
        parser.add_argument(*names, dest=f"task.{name}", metavar="V", default=argparse.SUPPRESS, help=help_text)


def test_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_test_options` say, by name. Raises RequestError, also where there is no run."""
    from crosscale.recipe import recipe_keys
    from crosscale.typed import convert, parse_scalar

    given = recipe_overrides(vars(options))
    if given and options.run is None:
        raise RequestError(f"--{next(iter(given))} goes with --run")
    kinds = {key: recipe_keys()[key].type for key in given}
    return {
        key.removeprefix("task."): convert(kind, parse_scalar(kind, given[key]), key) for key, kind in kinds.items()
    }


def check_model_options(options: argparse.Namespace) -> None:
    """Refuses half of either way to choose a model, before anything heavy is imported."""
    if options.model is not None and Path(options.model).is_dir():
        raise RequestError(f"--model {options.model}: is a folder; give a run as --run RUN")
    if options.model is not None and options.weights is None:
        raise RequestError("--model needs --weights FILE; an untrained model has nothing to say")
    if options.run is not None:
        for name in ("weights", "classes"):
            if getattr(options, name, None) is not None:
                raise RequestError(f"--{name} goes with --model; a run brings its own {name}")
        if options.weights_key:
            raise RequestError("--weights-key goes with --model; a run has one set of weights")


def read_classes(options: argparse.Namespace) -> list[str] | None:
    """The names in the `--classes` file; None without one. Raises RequestError."""
    if options.classes is None:
        return None
    file = Path(options.classes).expanduser()
    if not file.exists():
        raise RequestError(f"--classes {file}: no such file; give a text file of one class name a line")
    from crosscale.data.text_lists import read_names

    try:
        names = read_names(file)
    except RequestError as error:
        raise RequestError(f"--classes {error}") from None
    if not names:
        raise RequestError(f"--classes {file}: holds no names; write one class name a line")
    return names


def add_engine_option(parser: "argparse._ActionsContainer") -> None:
    """Adds `--engine E`."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="what runs the model, on a processor: jax, or its exported program under onnxruntime or openvino; auto "
        "tries those that are installed and takes the fastest (default jax)",
    )


def with_engine(options: argparse.Namespace, predictor: "Predictor", batch_size: int, verb: str) -> "Predictor":
    """The predictor with the engine that `--engine` asks for, which a line names. Raises RequestError, WorkError."""
    if options.engine == "jax":
        return predictor
    from crosscale.cli.output import note, progress_bar
    from crosscale.export.engines import choose_engine

    with progress_bar("choosing an engine", verb=verb) as report:
        chosen = choose_engine(
            predictor,
            options.engine,
            batch_size=batch_size,
            on_phase=lambda what, done, total: report(done, total, what),
        )
    note(f"crosscale {verb}: {chosen.told()}")
    return chosen.predictor


def open_predictor(options: argparse.Namespace) -> "Predictor":
    """The model that the options of `add_model_options` choose. Raises RequestError."""
    from crosscale.predictor import Predictor

    changed = test_options(options)  # which refuses them beside --model
    if options.run is not None:
        return Predictor.from_run(options.run, task_options=changed)
    return Predictor.from_weights(
        options.model, options.weights, classes=read_classes(options), key=options.weights_key
    )
