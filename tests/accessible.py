"""What axe-core, Deque's checker of accessibility, finds on a page in a browser."""

from importlib.resources import files
from typing import Any

RUN = """async () => (await axe.run()).violations.flatMap((found) => found.nodes.map(
  (node) => found.id + ": " + node.target.join(" ") + ": " + node.failureSummary.replace(/\\s+/g, " ")))"""
SMALLEST = """() => Math.min(100, ...[...document.querySelectorAll("svg text")]
  .filter((text) => text.checkVisibility())
  .map((text) => {
    const { a, b } = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
  }))"""


def violations(page: Any) -> list[str]:
    """One line for each element that breaks a rule, with all that is folded open."""
    page.evaluate("() => document.querySelectorAll('details').forEach((folded) => { folded.open = true; })")
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found: list[str] = page.evaluate(RUN)
    return found


def smallest_text(page: Any) -> float:
    """Of the drawings, in pixels of the screen; 100 where there is none."""
    return float(page.evaluate(SMALLEST))
