"""How the demo looks: a live screen on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from streamer.demo.reader import Said
from streamer.demo.scrape import Figures, total
from streamer.demo.summary import Places, Summary, lines, next_steps, number, reasons, share
from streamer.demo.tally import Counts

PLAIN_EVERY_S = 2.0
WORDS_SHOWN = 10
LINES_BESIDE_WORDS = 14
"""Lines that are neither predictions nor the workers' rows; predictions fill the rest of the screen."""
BARS = "▁▂▃▄▅▆▇█"


class Row(msgspec.Struct, frozen=True):
    """One worker now; `rate` is its outcomes a second."""

    name: str
    rate: float
    figures: Figures


class Picture(msgspec.Struct, frozen=True):
    """Everything that is shown at one moment. `stage` names what the demo waits for; it is empty while events flow.
    `history` holds past rates, the newest last."""

    stage: str
    elapsed_s: float
    places: Places
    rows: Sequence[Row] = ()
    counts: Counts | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    history: Sequence[float] = ()
    said: Sequence[Said] = ()

    @property
    def rate(self) -> float:
        """Outcomes a second, of all workers."""
        return sum(row.rate for row in self.rows)


class View(Protocol):
    """Where the demo shows itself."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, picture: Picture) -> None:
        """Show what is now."""

    def close_with(self, summary: Summary, workers: Sequence[str]) -> None:
        """Show the account."""


class PlainView:
    """A line for every stage, then one every other second."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._stage = ""
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, picture: Picture) -> None:
        if picture.stage and picture.stage != self._stage:
            self._print(f"{picture.elapsed_s:5.1f} s  {picture.stage}")
        elif not picture.stage and time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_EVERY_S
            self._print(f"{picture.elapsed_s:5.1f} s  {_status(picture)}")
        self._stage = picture.stage

    def close_with(self, summary: Summary, workers: Sequence[str]) -> None:
        self._print("")
        for name, text in lines(summary):
            self._print(f"{name:<18}{text}")
        self._print("\nnext:")
        for command, purpose in next_steps(workers):
            self._print(f"  {command:<66}{purpose}")

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class LiveView:
    """The screen of a terminal, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots")
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, picture: Picture) -> None:
        parts: list[RenderableType] = [_header(picture)]
        if picture.stage:
            self._spinner.update(text=Text(picture.stage, style="cyan"))
            parts.append(self._spinner)
        if picture.counts:
            room = self._console.height - LINES_BESIDE_WORDS - len(picture.rows)
            parts += [_figures(picture, picture.counts), _workers(picture.rows)]
            parts.append(_said(list(picture.said)[-max(1, min(WORDS_SHOWN, room)) :]))
            parts.append(Text("Ctrl-C stops and sums up", style="dim"))
        self._live.update(Padding(_spaced(parts), (1, 2, 0, 2)), refresh=True)

    def close_with(self, summary: Summary, workers: Sequence[str]) -> None:
        self._live.stop()
        account = _grid("bold", "")
        for at, (name, text) in enumerate(lines(summary)):
            style = ("green" if summary.accounted else "bold red") if at == 0 else ""
            account.add_row(Text(name, style=style), Text(text, style=style))
        steps = _grid("cyan", "dim")
        for command, purpose in next_steps(workers):
            steps.add_row(command, purpose)
        shown = _spaced([Text("streamer demo", style="bold cyan"), account, Text("What to try next"), steps])
        self._console.print(Padding(shown, (1, 2)))


def _status(picture: Picture) -> str:
    figures, counts = total(row.figures for row in picture.rows), picture.counts
    assert counts is not None
    return (
        f"{number(picture.rate)} events/s  p50 {_ms(picture.p50_s)}  p99 {_ms(picture.p99_s)}  "
        f"batch {number(figures.batch_mean())}  hits {share(figures.hit_rate())}  lag {figures.lag}  "
        f"predicted {counts.predicted:,}  dead letters {counts.dead_lettered:,}  skipped {figures.skipped:,}"
    )


def _header(picture: Picture) -> RenderableType:
    places = picture.places
    where = [place for place in (places.broker, places.cache and f"cache {places.cache}") if place]
    now = [known for known in (places.device, f"{picture.elapsed_s:.0f} s") if known]
    return Group(
        _line(("streamer demo", "bold cyan"), ("   " + " · ".join(now), "dim")), _line((" · ".join(where), "dim"))
    )


def _figures(picture: Picture, counts: Counts) -> RenderableType:
    skipped = total(row.figures for row in picture.rows).skipped
    speed = _line(
        (f"{picture.rate:,.0f}", "bold"), (" events/s  ", "dim"), (_spark(picture.history), "cyan"),
        ("   latency p50 ", "dim"), (_ms(picture.p50_s), "bold"), ("   p99 ", "dim"), (_ms(picture.p99_s), "bold"),
    )  # fmt: skip
    account = _line(
        (f"{counts.produced:,}", "bold"), (" produced → ", "dim"),
        (f"{counts.predicted:,}", "bold green"), (" predicted + ", "dim"),
        (f"{counts.dead_lettered:,}", "bold yellow"), (" dead letters + ", "dim"),
        (f"{skipped:,}", "bold"), (" skipped + ", "dim"),
        (f"{counts.in_flight:,}", "bold"), (" open", "dim"),
    )  # fmt: skip
    return Group(speed, Text(), account)


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _workers(rows: Sequence[Row]) -> RenderableType:
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0), pad_edge=False)
    table.add_column("worker", no_wrap=True)
    table.add_column("events/s", justify="right")
    table.add_column("batch", justify="right")
    table.add_column("released", no_wrap=True, overflow="ellipsis")
    for name in ("hits", "lag", "dead", "skipped"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = row.figures
        table.add_row(
            Text(row.name, style="bold"),
            f"{row.rate:,.0f}",
            number(figures.batch_mean()),
            reasons(figures.batches),
            share(figures.hit_rate()),
            f"{figures.lag:,}",
            f"{figures.dead_lettered:,}",
            f"{figures.skipped:,}",
        )
    return table


def _said(said: Sequence[Said]) -> RenderableType:
    return Group(
        *(
            _line(
                (f"{one.at:%H:%M:%S} {_ms(one.latency_s):>8}   ", "dim"),
                (one.key, "bold"),
                (f" {one.words}", ""),
                ("  cached" if one.cached else "", "dim"),
            )
            for one in said
        )
    )


def _spaced(parts: Sequence[RenderableType]) -> RenderableType:
    return Group(*(piece for part in parts for piece in (part, Text())))


def _grid(*styles: str) -> Table:
    table = Table.grid(padding=(0, 3))
    for style in styles:
        table.add_column(style=style)
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{number(seconds * 1000)} ms"


def _spark(history: Sequence[float]) -> str:
    most = max(history, default=0.0) or 1.0
    return "".join(BARS[round(rate / most * (len(BARS) - 1))] for rate in history)
