"""What is forecast, from what, and how plain forecasts do: on the real file."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from random import Random

import pytest
import torch
from pydantic import ValidationError

from schemas import ArticleForecast
from schemas.sales import HISTORY_DAYS, ArticleDayEvent
from streamer.models import find
from tests.data import shared
from workers.sales_forecast import training
from workers.sales_forecast.history import SOLD_DAYS_MIN, History, load
from workers.sales_forecast.measures import plain, wape
from workers.sales_forecast.model import Network, Parameters, encode
from workers.sales_forecast.worker import SalesForecast

KINDS = ("gru", "cnn")
MODELS = Path(__file__).resolve().parents[3] / "workers" / "models"


@pytest.fixture(scope="module")
def history() -> History:
    return load(shared("online_retail") / "online_retail.csv.gz")


def event(pieces: tuple[int, ...], day: date = date(2011, 10, 2)) -> ArticleDayEvent:
    return ArticleDayEvent(
        event_id="a", occurred_at=datetime(2011, 10, 3, tzinfo=UTC), article="85123A", day=day, pieces=pieces
    )


def test_only_what_was_sold_counts(tmp_path: Path) -> None:
    lines = [
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
        "1,85123a,sold,6,2010-12-01 08:26:00,2.5,1.0,UK",
        "2,85123A,sold again under another spelling,4,2010-12-01 09:00:00,2.5,,UK",
        "C3,85123A,given back,-6,2010-12-02 09:00:00,2.5,1.0,UK",
        "4,85123A,written off,-1,2010-12-02 09:00:00,0.0,,UK",
        "5,85123A,given away,9,2010-12-02 09:00:00,0.0,1.0,UK",
        "A6,B,bad debt,1,2010-12-02 09:00:00,5.0,1.0,UK",
        "7,POST,no article,1,2010-12-02 09:00:00,5.0,1.0,UK",
        "8,10002,sold,1,2010-12-03 09:00:00,5.0,1.0,UK",
    ]
    path = tmp_path / "online_retail.csv"
    path.write_text("\n".join(lines))
    history = load(path)
    assert history.articles == ["10002", "85123A"]
    assert history.pieces.tolist() == [[0, 0, 1], [10, 0, 0]]
    assert history.day(2) == date(2010, 12, 3)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="UCI Machine Learning Repository"):
        load(tmp_path / "online_retail.csv.gz")


def test_the_origins_are_the_last_six_weeks_and_a_window_ends_where_its_answer_begins(history: History) -> None:
    origins = history.origins()
    assert [history.day(origin).isoformat() for origin in (origins[0], origins[-1])] == ["2011-10-01", "2011-11-05"]
    assert origins[-1] + 7 == history.pieces.shape[1], "the last forecast ends with the file"
    before, after, weekday = history.window(origins[0])
    assert before.shape == (len(after), HISTORY_DAYS)
    chosen = history.forecast(origins[0])
    assert torch.equal(torch.cat((before, after), 1), history.pieces[chosen, origins[0] - 56 : origins[0] + 7])
    assert weekday == date(2011, 10, 1).weekday()
    assert int((history.pieces[chosen, : origins[0]] > 0).sum(1).min()) == SOLD_DAYS_MIN


def test_plain_forecasts_are_as_wrong_as_their_command_says(history: History) -> None:
    found = plain(history)
    assert found == pytest.approx({"last week": 0.7779, "mean of 28 days": 0.6775}, abs=5e-5)


def test_a_forecast_of_nothing_is_wholly_wrong_and_the_truth_not_at_all(history: History) -> None:
    assert wape(history, lambda origin: history.window(origin)[1].sum(1) * 0) == pytest.approx(1.0)
    assert wape(history, lambda origin: history.window(origin)[1].sum(1)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_do_not_cross_and_are_pieces_of_the_articles_own_size(kind: str) -> None:
    torch.manual_seed(0)
    network = Network(Parameters(kind=kind, width=8, hidden=8)).eval()  # type: ignore[arg-type]
    pieces = torch.poisson(torch.full((5, HISTORY_DAYS), 3.0))
    pieces[0] = 0
    said = network(pieces, torch.tensor([0, 1, 2, 3, 6]))
    assert said.shape == (5, 8, 3)
    assert (said >= 0).all()
    assert (said[..., 1:] >= said[..., :-1]).all()
    assert said[1, 7].sum() > said[1, :7].sum(1).max(), "seven days are more than one"
    assert said[0].max() < said[1].max(), "what does not sell is not forecast to"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_hang_on_what_else_is_in_the_batch(kind: str) -> None:
    torch.manual_seed(0)
    network = Network(Parameters(kind=kind, width=8, hidden=8)).eval()  # type: ignore[arg-type]
    pieces, weekday = torch.poisson(torch.full((4, HISTORY_DAYS), 3.0)), torch.tensor([0, 1, 2, 3])
    together = network(pieces, weekday)
    alone = torch.cat([network(pieces[n : n + 1], weekday[n : n + 1]) for n in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_56_days_and_the_weekday_matter(kind: str) -> None:
    torch.manual_seed(0)
    network = Network(Parameters(kind=kind, width=8, hidden=8)).eval()  # type: ignore[arg-type]
    pieces, monday = torch.full((1, HISTORY_DAYS), 3.0), torch.tensor([0])
    first = pieces.clone()
    first[0, 0] = 30
    assert not torch.equal(network(pieces, monday), network(first, monday))
    assert not torch.equal(network(pieces, monday), network(pieces, monday + 1))


def test_training_sees_nothing_of_the_six_weeks_that_measure_it(history: History) -> None:
    first, last = training.origins(history)[0], training.origins(history)[-1]
    assert first == training.FIRST_ORIGIN
    assert last + 7 <= history.origins()[0]


def test_an_example_is_what_came_after_its_days(history: History) -> None:
    origin = training.origins(history)[5]
    before, after, weekday = history.window(origin)
    known = training.examples(history, [origin])
    assert torch.equal(known["pieces"], before)
    assert torch.equal(known["ahead"], torch.cat((after, after.sum(1, keepdim=True)), 1))
    assert set(known["weekday"].tolist()) == {weekday}


def test_the_loss_of_a_quantile_is_its_level_below_and_the_rest_above() -> None:
    lost = training.pinball(torch.tensor([[10.0, 10.0, 10.0]]), torch.tensor([20.0]))
    assert lost[0].tolist() == pytest.approx([1, 5, 9])
    lost = training.pinball(torch.tensor([[10.0, 10.0, 10.0]]), torch.tensor([0.0]))
    assert lost[0].tolist() == pytest.approx([9, 5, 1])


def test_a_network_learns_what_repeats_every_week() -> None:
    torch.manual_seed(0)
    week = torch.tensor([0.0, 0, 9, 0, 0, 3, 0])
    history = History(["a", "b"], date(2011, 1, 3), torch.stack((week.repeat(26), 2 * week.repeat(26))))
    network = training.fit(history, Parameters(kind="cnn", width=8, hidden=16), epochs=60, seed=0)
    assert training.measure(history, network)["wape"] < 0.2


def test_an_event_is_56_whole_days_and_its_forecast_begins_the_day_after() -> None:
    sunday = event(tuple(range(HISTORY_DAYS)))
    tensors = encode([sunday])
    assert tensors["pieces"].tolist() == [[float(number) for number in range(HISTORY_DAYS)]]
    assert tensors["weekday"].tolist() == [0]
    assert sunday.key == "85123A"
    for pieces in ((1,) * 55, (-1,) * 56):
        with pytest.raises(ValidationError):
            event(pieces)


def test_the_worker_answers_with_seven_days_and_their_sum() -> None:
    torch.manual_seed(0)
    worker = SalesForecast()
    worker._network = Network(Parameters(kind="cnn", width=8, hidden=8)).eval()
    events = [worker.sample(Random(number), number) for number in range(5)]
    with torch.inference_mode():
        outputs = worker.predict(worker.encode(events, [{}] * 5))
    answers = [ArticleForecast.model_validate(answer) for answer in worker.decode(events, outputs)]
    for answer, pieces in zip(answers, outputs["pieces"].tolist(), strict=True):
        assert [(day.low, day.middle, day.high) for day in (*answer.days, answer.total)] == [(*row,) for row in pieces]
        assert worker.words(answer) == f"{pieces[7][1]:.0f} pieces in a week ({pieces[7][0]:.0f} to {pieces[7][2]:.0f})"


def test_what_decides_a_forecast_is_in_its_cache_key_and_nothing_else() -> None:
    worker, one = SalesForecast(), event((1,) * HISTORY_DAYS)
    key = worker.cache_key(one, {})
    assert worker.cache_key(one.model_copy(update={"event_id": "b", "article": "other"}), {}) == key
    assert worker.cache_key(event((1,) * HISTORY_DAYS, date(2011, 10, 9)), {}) == key, "another Sunday"
    assert worker.cache_key(event((1,) * HISTORY_DAYS, date(2011, 10, 3)), {}) != key
    assert worker.cache_key(event((2,) + (1,) * 55), {}) != key


def test_invented_articles_are_the_same_each_time_and_close_their_days_one_after_the_other() -> None:
    worker = SalesForecast()
    assert worker.sample(Random(1), 7) == worker.sample(Random(1), 7)
    today, tomorrow = worker.sample(Random(1), 7), worker.sample(Random(1), 3_007)
    assert (today.article, (tomorrow.day - today.day).days) == (tomorrow.article, 1)


def test_the_shipped_weights_are_as_good_as_their_manifest_says(history: History) -> None:
    model = find(MODELS, "sales-forecast")
    network = Network(model.parameters(Parameters))
    model.fill(network)
    found = training.measure(history, network.eval())
    assert model.manifest is not None
    assert found == pytest.approx(model.manifest.metrics, abs=0.002)
    assert found["wape"] <= 0.61
