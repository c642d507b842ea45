"""Leads of a sales campaign, and the score that a worker gives them.

The fields are the inputs of the Bank Marketing data set (S. Moro, P. Rita, P. Cortez, UCI Machine Learning
Repository, DOI 10.24432/C5K306) without `duration`, which is known only after the call and gives the answer away.
The publisher's `unknown`, and -1 in `pdays`, mean a missing value: None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import Event, Identifier
from schemas.pii import Pii

Job = Literal[
    "admin.",
    "blue-collar",
    "entrepreneur",
    "housemaid",
    "management",
    "retired",
    "self-employed",
    "services",
    "student",
    "technician",
    "unemployed",
]
Marital = Literal["divorced", "married", "single"]
Education = Literal["primary", "secondary", "tertiary"]
Contact = Literal["cellular", "telephone"]
Month = Literal["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
PreviousOutcome = Literal["failure", "other", "success"]

Count = Annotated[int, Field(ge=0, le=100_000)]


class LeadEvent(Event):
    """A lead as the CRM knows it before it is called; keyed by the lead.

    `balance` is the average yearly balance in euro, `day` and `month` when the lead was last contacted,
    `campaign` the contacts of this campaign (this one included), `pdays` the days since an earlier campaign's
    last contact, `previous` the contacts before this campaign, `poutcome` how that one ended.
    Without `consent` a lead must not be scored. Tagged is who the lead is and how they live; what the sales team did
    (contacts, campaigns, and how those ended) is not.
    """

    topic: ClassVar[str] = "crm.leads.events.v1"

    lead_id: Annotated[Identifier, Pii()]
    consent: bool = True
    age: Annotated[int, Field(ge=16, le=120), Pii()]
    job: Annotated[Job | None, Pii()] = None
    marital: Annotated[Marital, Pii()]
    education: Annotated[Education | None, Pii()] = None
    default: Annotated[bool, Pii()]
    balance: Annotated[int, Field(ge=-(10**9), le=10**9), Pii()]
    housing: Annotated[bool, Pii()]
    loan: Annotated[bool, Pii()]
    contact: Contact | None = None
    day: Annotated[int, Field(ge=1, le=31)]
    month: Month
    campaign: Annotated[int, Field(ge=1, le=100_000)]
    pdays: Count | None = None
    previous: Count = 0
    poutcome: PreviousOutcome | None = None

    @property
    def key(self) -> str:
        return self.lead_id

    @classmethod
    def from_row(cls, row: Mapping[str, str], *, event_id: str, occurred_at: str) -> Self:
        known = {name: text for name, text in row.items() if text != "unknown"}
        if known.get("pdays") == "-1":
            del known["pdays"]
        return super().from_row({"lead_id": event_id, **known}, event_id=event_id, occurred_at=occurred_at)


class LeadScore(BaseModel):
    """How likely the lead is to say yes: `probability` in 0..1, and the band that sales acts on."""

    model_config = ConfigDict(frozen=True)

    probability: Annotated[float, Field(ge=0, le=1)]
    band: Literal["cold", "warm", "hot"]
