"""`crosscale recipe`: lists, prints, explains and checks the recipes that `crosscale train` takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crosscale.cli.arguments import EXIT_STATUS, Parser, add_recipe_options, recipe_overrides
from crosscale.cli.output import print_json, print_table
from crosscale.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from crosscale.typed import Key

HELP = """\
Lists, prints, explains and checks recipes: the YAML files that decide a training run.

  crosscale recipe                lists the shipped recipes
  crosscale recipe show NAME      prints one resolved: every key with its value, as `train` would take it
  crosscale recipe explain KEY    says a key's meaning, type, range and default, and what shipped recipes set it to;
                                  for a section (optimizer), the same for all its keys
  crosscale recipe check FILE     checks a file without data: keys, types and ranges, the model's options against
                                  its constructor, the optimizer's patterns against its parameters, the schedule

NAME and FILE are a shipped recipe or a YAML file; both take --section.key VALUE as `train` does. Your own recipe names
only what differs from the defaults:

  model: {name: crossvit_9_240}
  optimizer: {lr: 3e-4}
  train: {epochs: 20, batch_size: 64}"""

EPILOG = f"""\
examples:
  crosscale recipe
  crosscale recipe show digits > mine.yaml
  crosscale recipe show crossvit_ibm --train.batch_size 256
  crosscale recipe explain optimizer.layer_decay
  crosscale recipe explain schedule
  crosscale recipe explain model.options.drop_path_rate
  crosscale recipe check mine.yaml

JSON: list {{"recipes": [{{"name", "summary", "header"}}]}}; show the recipe's sections; explain {{"keys": [{{"key",
"description", "type", "range", "default", "recipes", "family", "tasks"}}]}}; check {{"recipe", "model", "parameters",
"input", "task", "epochs", "steps", "batch_size"}}

{EXIT_STATUS}"""

ACTIONS = {"list": "", "show": "NAME, a shipped recipe or a file", "explain": "KEY, a key or a section",
           "check": "FILE, a recipe's"}  # fmt: skip


def run(argv: Sequence[str], *, as_json: bool) -> int:
    """Does what the first word says. Raises RequestError."""
    parser = Parser("recipe", description=HELP, epilog=EPILOG)
    parser.usage = "%(prog)s [list | show NAME | explain KEY | check FILE] [--section.key VALUE] ..."
    parser.add_argument("action", metavar="ACTION", nargs="?", default="list", help="list, show, explain or check")
    parser.add_argument("subject", metavar="NAME|KEY|FILE", nargs="?", help="what the action is about")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if any(word.startswith("--") and "." in word for word in argv):
        add_recipe_options(parser, argv, explained=False)
    options = parser.parse(argv)
    action, subject, overrides = options.action, options.subject, recipe_overrides(vars(options))
    if action not in ACTIONS:
        hint = did_you_mean(action, ACTIONS) or "; one of: " + ", ".join(ACTIONS)
        raise RequestError(f"unknown action '{action}'{hint}")
    if action == "list" and subject is not None:
        raise RequestError(f"list takes no name; `crosscale recipe show {subject}` prints that recipe")
    if action != "list" and subject is None:
        raise RequestError(f"{action} needs {ACTIONS[action]}")
    if overrides and action in ("list", "explain"):
        raise RequestError(f"--{next(iter(overrides))} goes with show and check")
    if action == "list":
        return _list(as_json)
    if action == "explain":
        return _explain(subject, as_json)
    return (_show if action == "show" else _check)(subject, overrides, as_json)


def _list(as_json: bool) -> int:
    from crosscale.recipe import header, shipped_recipes

    recipes = [(name, header(name)) for name in shipped_recipes()]
    if as_json:
        rows = [{"name": name, "summary": lines[0], "header": "\n".join(lines)} for name, lines in recipes]
        print_json({"recipes": rows})
    else:
        print_table(["recipe", "what it does"], [[name, lines[0]] for name, lines in recipes])
    return 0


def _show(name: str, overrides: dict[str, str], as_json: bool) -> int:
    from dataclasses import asdict

    from crosscale.recipe import dump, load

    recipe = load(name, overrides)
    if as_json:
        print_json(asdict(recipe))
    else:
        print(dump(recipe), end="")
    return 0


def _check(name: str, overrides: dict[str, str], as_json: bool) -> int:
    from crosscale.recipe import find, load
    from crosscale.runs.experiment import check_without_data
    from crosscale.runs.partners import check_given, check_partners

    path = find(name)
    recipe = load(name, overrides)
    try:
        check_partners(recipe)
        check_given(recipe, overrides)
        facts = check_without_data(recipe)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    if as_json:
        print_json({"recipe": str(path), **facts})
        return 0
    length = f"{facts['epochs']} epochs" if facts["steps"] is None else f"{facts['steps']} steps"
    print(
        f"{path}: {facts['model']} with {facts['parameters']:,} parameters, input {facts['input']}, {facts['task']}, "
        f"{length} in batches of {facts['batch_size']}: nothing wrong that shows without data"
    )
    return 0


def _explain(name: str, as_json: bool) -> int:
    from crosscale.typed import shown

    rows = _rows(name.replace("-", "_"))
    if as_json:
        print_json({"keys": rows})
    elif len({row["key"] for row in rows}) > 1:
        cells = [[row["key"], _allowed(row), shown(row["default"]), row["description"]] for row in rows]
        print_table(["key", "type", "default", "meaning"], cells)
    else:
        print("\n\n".join(map(_block, rows)))
    return 0


def _rows(asked: str) -> list[dict[str, Any]]:
    """What there is to say of a key, of all keys of a section, or of a model's option in every family."""
    from crosscale.recipe import RENAMED, model_options, recipe_keys, set_by
    from crosscale.tasks.registry import TASKS
    from crosscale.typed import describe

    asked = RENAMED.get(asked, asked)
    if asked.startswith("model.options."):
        families = model_options(asked.removeprefix("model.options."))
        return [_row(asked, key, set_by(asked), family=family) for family, key in families.items()]
    known = recipe_keys()
    rows = []
    for dotted, key in known.items():
        section, _, field = dotted.partition(".")
        if asked in (dotted, section):
            tasks = [task for task, kind in TASKS.items() if section == "task" and hasattr(kind.Options(), field)]
            rows.append(_row(dotted, key, set_by(dotted), type=describe(key.type), tasks=tasks or None))
    if not rows:
        sections = list(dict.fromkeys(dotted.partition(".")[0] for dotted in known))
        hint = did_you_mean(asked, [*sections, *known]) or "; the sections are " + ", ".join(sections)
        raise RequestError(f"unknown recipe key '{asked}'{hint}")
    return rows


def _row(dotted: str, key: "Key", recipes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "key": dotted,
        "description": key.doc,
        "type": None,
        "range": key.range or None,
        "default": getattr(key.default, "__name__", key.default),
        "recipes": recipes,
        "family": None,
        "tasks": None,
        **more,
    }


def _allowed(row: dict[str, Any]) -> str:
    return "; ".join(filter(None, (row["type"], row["range"])))


def _block(row: dict[str, Any]) -> str:
    """A key for people."""
    from crosscale.typed import shown

    *sections, last = row["key"].split(".")
    lines = [
        ("type", row["type"]),
        ("range", row["range"]),
        ("default", shown(row["default"])),
        ("task", row["tasks"] and ", ".join(row["tasks"])),
        (
            "set by",
            ", ".join(f"{name} {shown(value)}" for name, value in row["recipes"].items()) or "no shipped recipe",
        ),
        ("option", f"--{row['key']} V"),
        ("file", "".join(f"{section}: {{" for section in sections) + f"{last}: V" + "}" * len(sections)),
    ]
    facts = "\n".join(f"  {name:<9}{value}" for name, value in lines if value)
    title = f"{row['key']} of {row['family']}" if row["family"] else row["key"]
    return f"{title}\n  {row['description']}\n{facts}"
