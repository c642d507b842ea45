"""Invented messages of a bank's customers, for demos and benchmarks: composed here, taken from no data set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from schemas import TicketEvent

START = datetime(2024, 5, 1, 9, 0, tzinfo=UTC)
EVENTS_PER_TICKET = 2
"""On average: when its state changes, a ticket comes again with the same text, and a cache answers it."""
FIRST = 1_000
"""Tickets below this number exist from the start: the first events then repeat as often as later ones."""
RECENT = 40.0
"""The mean distance, in tickets, to a ticket that comes again."""
CUSTOMERS = 300
NOT_ENGLISH = 0.03

PROBLEMS = (
    "My card was due {days} days ago and it is still not in the post box.",
    "How many days does a card take to {country}?",
    "The machine at {place} kept my card.",
    "I was charged twice for one purchase at {place}.",
    "There is a payment of {amount} to {place} on my statement that I never made.",
    "Someone else is using my card, please block it now!",
    "I left my wallet on a train in {country} and my card is gone.",
    "My phone was stolen, what should I do about the app?",
    "I typed the wrong PIN three times and now it is blocked.",
    "Where can I change my PIN?",
    "I forgot the passcode of the app.",
    "My transfer of {amount} has been pending for {days} days.",
    "A friend in {country} says that the money I sent never came.",
    "I sent {amount} to the wrong person, can I stop it?",
    "Why was a fee of {amount} taken from my transfer?",
    "The exchange rate for my payment in {country} looks wrong.",
    "Which rate do you use when I change money in the app?",
    "The cash machine gave me {amount} less than I asked for.",
    "My withdrawal at {place} was declined, though there is enough money.",
    "Card declined at {place}.",
    "My top-up of {amount} failed.",
    "I topped up {amount} by bank transfer and do not see it.",
    "Is there a limit for topping up?",
    "I sent the goods back to {place} and the refund does not show.",
    "Can I have a second card for my daughter?",
    "How do I get a virtual card?",
    "Contactless does not work at {place}.",
    "Does it work with the wallet on my phone?",
    "I have moved to {country}, how do I change my address?",
    "Why do you need to verify who I am?",
    "The app does not accept the photo of my passport.",
    "How old must my son be to have an account?",
    "Please close my account.",
    "Do you support customers in {country}?",
)
OPENINGS = ("", "", "", "Hello, ", "Hi there! ", "Good morning. ")
DETAILS = (
    "",
    "",
    "",
    " It has never happened before.",
    " I have tried it {days} times, with the same result, and restarted the phone in between.",
    " I was about to leave for {country} and depend on it, so I would be glad of an answer today.",
    " First I thought that it was my mistake, so I waited for {days} days as your help page says, looked through "
    "every menu, asked a colleague who is your customer too, and found nothing that explains it.",
)
CLOSINGS = ("", "", "", " Thanks!", " Please help.", " Kind regards")
OTHER_LANGUAGES = {
    "de": "Meine Karte ist noch nicht da.",
    "fr": "Ma carte n'est pas encore arrivée.",
    "es": "¿Cómo cambio mi PIN?",
}
COUNTRIES = ("Portugal", "Norway", "Japan", "Poland", "Canada", "Ghana")
PLACES = ("the station", "a supermarket", "the airport", "an online shop", "a petrol station", "a hotel")


def ticket(random: Random, number: int) -> TicketEvent:
    """Event `number`: a new ticket, or a recent one again."""
    ticket_number = FIRST + number // EVENTS_PER_TICKET - min(FIRST, int(random.expovariate(1 / RECENT)))
    case = Random(f"ticket {ticket_number}")  # noqa: S311  the same ticket says the same every time
    language, text = "en", _text(case)
    if case.random() < NOT_ENGLISH:
        language, text = case.choice(list(OTHER_LANGUAGES.items()))
    return TicketEvent(
        event_id=f"ticket-event-{number}",
        occurred_at=START + timedelta(seconds=number),
        ticket_id=f"T-{ticket_number:06}",
        customer_id=f"C-{case.randrange(CUSTOMERS):04}",
        channel=case.choice(["mail", "chat", "web", "phone"]),
        language=language,
        text=text,
    )


def _text(random: Random) -> str:
    parts = (OPENINGS, PROBLEMS, DETAILS, CLOSINGS)
    return "".join(random.choice(part) for part in parts).format(
        days=random.randint(2, 9),
        amount=f"£{random.randint(5, 900)}",
        country=random.choice(COUNTRIES),
        place=random.choice(PLACES),
    )
