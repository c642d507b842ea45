"""The public data sets that the workers are trained and tested on, as their publishers wrote them."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

PUBLISHERS = {
    "bank_marketing": "S. Moro, P. Rita, P. Cortez, Bank Marketing, UCI Machine Learning Repository, "
    "DOI 10.24432/C5K306: the file bank-full.csv",
    "banking77": "PolyAI, Banking77, arXiv 2003.04807: the files train.csv and test.csv of the folder "
    "banking_data in the GitHub repository PolyAI-LDN/task-specific-datasets",
    "online_retail": "D. Chen, Online Retail, UCI Machine Learning Repository, DOI 10.24432/C5BW33: the file "
    "Online Retail.xlsx, saved as CSV",
}
"""The publisher of each data set, and the files to get there."""


def read(path: Path, name: str, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file of the data set `name`, plain or gzipped, in order.

    Raises:
        FileNotFoundError: there is no such file; the message says where its publisher keeps it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. Get it from its publisher: {PUBLISHERS[name]}")
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    # Some texts have line breaks inside quotes: newline="" leaves them to the CSV parser.
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
