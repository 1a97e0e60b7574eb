"""The tables of `crosscale bench`."""

from collections.abc import Mapping, Sequence
from typing import Any

from crosscale.cli.output import print_table

Result = Mapping[str, Any]


def print_speed(result: Result) -> None:
    """The tables of --mode infer and --mode train: contenders, then ratios."""
    columns = ["model", "batch", "", "images/s", "best", "ms/step", "range", "cold s", "warm s", "MB", "of matmul peak"]
    print_table(columns, [speed_cells(row) for row in result["rows"]], right=columns[3:], title=_title(result))
    missing = [row for row in result["rows"] if row["error"]]
    for row in missing:
        print(f"{row['model']}, batch {row['batch_size']}: {row['who']} is missing ({row['error']})")
    if result["ratios"]:
        columns = ["model", "batch", "times as fast as", "ratio", "range", "of the best", "memory"]
        print_table(columns, [ratio_cells(row) for row in result["ratios"]], right=columns[3:])


def speed_cells(row: Result) -> list[str]:
    """One row of the contenders' table as text."""
    head = [row["model"], str(row["batch_size"]), row["who"]]
    if row["error"]:
        return [*head, *[""] * 8]
    return [
        *head,
        f"{row['images_per_second']:,.1f}",
        f"{row['images_per_second_best']:,.1f}",
        f"{row['ms']:,.1f}",
        f"{row['ms_low']:,.1f}..{row['ms_high']:,.1f}",
        f"{row['first_call_cold']:.1f}",
        "" if row["first_call_warm"] is None else f"{row['first_call_warm']:.1f}",
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}",
        "" if row["matmul_share"] is None else f"{100 * row['matmul_share']:.0f} %",
    ]


def ratio_cells(row: Result) -> list[str]:
    """One row of the ratios' table as text."""
    return [
        row["model"],
        str(row["batch_size"]),
        _against(row),
        f"{row['ratio']:.2f}",
        f"{row['low']:.2f}..{row['high']:.2f}",
        f"{row['best_ratio']:.2f}",
        "" if row["memory"] is None else f"{row['memory']:.2f}",
    ]


def _against(row: Result) -> str:
    if row["against"] != "best":
        return str(row["against"])
    return "the better of both" if row["peers"] <= 2 else f"the best of these {row['peers']}"


def print_growth(result: Result) -> None:
    """The table of --mode growth: what was doubled, and what that did to time and memory."""
    columns = ["series", "", "GMACs", "ms", "MB of activations", "MACs grow", "time grows", "activations grow"]
    print_table(
        columns, growth_cells(result["rows"]), right=columns[2:], title=f"batch 1 of {result['dtype']} pictures"
    )


def growth_cells(rows: Sequence[Result]) -> list[list[str]]:
    """The growth table as text; each factor compares with the row before in its series."""
    cells, before = [], None
    for row in rows:
        same = before is not None and before["series"] == row["series"]
        factors = [
            f"{row[key] / before[key]:.2f}" if same and before else "" for key in ("macs", "ms", "temporary_bytes")
        ]
        numbers = [f"{row['macs'] / 1e9:.2f}", f"{row['ms']:,.1f}", f"{row['temporary_bytes'] / 1e6:,.1f}"]
        cells.append([row["series"], row["at"], *numbers, *factors])
        before = row
    return cells


def print_start_up(result: Result) -> None:
    """The table of --mode start-up: seconds, with and without compiled programs in the cache."""
    columns = ["", "cold s", "warm s", "cache off s"]
    print_table(columns, start_up_cells(result), right=columns[1:], title=result["model"])


FIRST_CALL_PARTS = {
    "trace": "tracing the model in Python",
    "lower": "writing the program down for the compiler",
    "compile": "compiling, or loading what was compiled",
}


def start_up_cells(result: Result) -> list[list[str]]:
    """The start-up table as text."""
    predict, train = result["predict"], result["train"]
    return [
        ["`crosscale predict`, one picture", *(f"{predict[key]:.1f}" for key in ("cold", "warm", "off"))],
        [
            f"training step at batch {train['batch_size']}: trace, compile, first step",
            *(f"{train[key]:.1f}" for key in ("cold", "warm")),
            "",
        ],
        [
            "the same without the step itself",
            *(f"{max(train[key] - train['step'], 0):.1f}" for key in ("cold", "warm")),
            "",
        ],
        *(
            [
                f"of these, {said}",
                *(f"{parts[part]:.1f}" for parts in (train["parts"]["cold"], train["parts"]["warm"])),
                "",
            ]
            for part, said in FIRST_CALL_PARTS.items()
        ),
    ]


def print_data(result: Result) -> None:
    """The tables of --mode data: stages, ratios, and the training that is fed."""
    from crosscale.benchmark.data import STAGES

    rows = [
        [
            STAGES[row["stage"]],
            row["who"],
            f"{row['per_core']:,.0f}",
            f"{row['low']:,.0f}..{row['high']:,.0f}",
            "" if row["wall"] is None else f"{row['wall']:,.0f}",
        ]
        for stage in STAGES
        for row in result["rows"]
        if row["stage"] == stage
    ]
    columns = ["stage", "who", "images/s per core", "range", "images/s"]
    title = f"{result['images']} JPEGs, {result['mean_bytes'] / 1000:.0f} kB on average, to {result['size']} pixels"
    print_table(columns, rows, right=columns[2:], title=title)
    if result["ratios"]:
        print_table(["ratio", ""], [[key, f"{value:.2f}"] for key, value in result["ratios"].items()], right=[""])
    if result["fast_deviation"]:
        off = result["fast_deviation"]
        print(f"fast pixels differ from exact ones by {off['mean']:.2f} of 255 on average, {off['max']:.0f} at most")
    if fed := result["feeding"]:
        columns = ["training", "steps", "loader alone, images/s", "step alone, images/s", "waited for data"]
        row = [
            f"{fed['model']}, batches of {fed['batch_size']}",
            str(fed["steps"]),
            f"{fed['loader']:,.1f}",
            f"{fed['step']:,.1f}",
            f"{fed['data_wait']:.2%}",
        ]
        print_table(columns, [row], right=columns[1:])


def _title(result: Result) -> str:
    machine, settings = result["machine"], result["settings"]
    what = "inference" if result["mode"] == "infer" else "training step"
    return f"{what}, {settings['dtype']}: {machine['processor']}, {machine['cores']} cores; {settings['rounds']} rounds"
