"""Values that may name someone: dates in any usual order, people, places, numbers of records.

A column of a manifest is judged by what it holds, because a name can be anywhere.
"""

import re
import unicodedata
from collections.abc import Collection
from datetime import datetime

from mmv_jax.store.person_names import is_common

DATE_FORMATS = (
    ("%Y%m%d", "%d%m%Y", "%Y%m", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y")
    + ("%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y")
    + ("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y")
    + ("%m.%Y", "%Y.%m%d", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%S", "%Y%m%d%H%M")
)
YEARS = range(1900, 2101)
TIME = re.compile(r"[T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2}|[AaPp][Mm])?$")
# The first three or four letters tell months apart, in English, German, French, Spanish, Italian.
MONTH = re.compile(
    r"(jan|ene|gen|feb|fev|mar|mrz|apr|avr|abr|mai|may|mag|jun|juin|giu|jul|juil|lug|aug|aou|ago"
    r"|sep|set|oct|okt|ott|nov|dec|dez|dic)[a-z]*"
)
ROMAN = re.compile(r"i{1,3}|iv|vi{0,3}|i?x|xi{1,2}")
DAY_NAME = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)[a-z]*|(mo|di|mi|do|fr|sa|so)")
LEADING_DAY = re.compile(r"^(mon|tue|wed|thu|fri|sat|sun|mo|di|mi|do|sa|so)[a-z]*[.,]? +", re.I)
# Words and letters that stand within a date, in several languages.
WITHIN_DATES = frozenset(("de", "of", "the", "den", "le", "st", "nd", "rd", "th", "del", "year"))
PART_OF_YEAR = re.compile(
    r"(\D*)(19|20)\d{2}(\D*)(q[1-4]|w\d{1,2}|kw ?\d{1,2})|q[1-4]\D*(19|20)\d{2}"
)
DAY_AND_MONTH = re.compile(r"\d{1,2}\.\d{1,2}\.")
# A title, "SURNAME^FORENAME" as in DICOM, or an initial and a surname.
PERSON = re.compile(
    r"(?i:\b(dr|prof|mr|mrs|ms|frau|herr|mme|dott|med)\b\.?\s+\w)"
    r"|(?i:\b(fr|hr|sr|sra|dra|mlle|mag|ing)\.\s*[^\W\d])"
    r"|\w\^\w|^[A-ZÄÖÜ]\.\s*[A-ZÄÖÜ][a-zäöüß]+$"
)
SURNAME_FIRST = re.compile(r"([^\W\d_][^\W\d_'-]+),\s*([^\W\d_][^\W\d_'-]*)\.?")
PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        r"[/\\@]|\.\w{2,4}$",  # paths, web and mail addresses
        r"^[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}$",  # postcodes: British, Canadian, Dutch
        r"^[A-Z]\d[A-Z] \d[A-Z]\d$",  # with its blank: T1N0M0 is a stage
        r"^\d{4} [A-Z]{2}$",
        # with its country or state, or a town: D-80331, MA 02139, 75001 Paris
        r"^(D|DE|A|AT|CH|F|FR|I|IT|B|BE|L|LU|DK|NL|E|ES|PL|CZ|SE|NO|PT|US)[- ]\d{4,5}$",
        r"^[A-Z]{2} \d{5}(-\d{4})?$",
        r"^\d{4,5} [A-ZÄÖÜÉ][a-zäöüßé]{2,}",
        r"^(\d{5}-\d{3,4}|〒?\d{3}-\d{4})$",  # the USA, Brazil, Japan
        r"(?i)(str\.|stra(ss|ß)e|street|avenue|road|platz|allee|\brue |calle ).*\d",
        r"(?i)\d+\s+\S+\s+(street|st\.|avenue|ave\.?|road|rd\.|lane|drive)$",
    )
)
NUMBERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?=(?:\D*\d){7})[+(]?\d[\d\s()./-]*\d$",  # telephone and insurance numbers
        r"^[A-Za-z]{0,4}[-_ ]?\d{6,}$",  # records, accounts
        r"^\d+(\.\d+){3,}$",  # unique ids of DICOM, addresses of networks
        r"(?i)^([0-9a-f]{2}[:-]){5}[0-9a-f]{2}$",  # addresses of devices
    )
)
# Days since 1900 (Excel), since the year 0 (MATLAB), seconds and milliseconds since 1970: of 1968
# to 2064. A column of such numbers alone is one of dates.
DAY_COUNTS = ((25_000, 60_000), (719_000, 754_000), (6e8, 3e9), (6e11, 3e12))
LEAST_DAYS = 2  # different values: one alone may be any number
CODE_DIGITS, SHORT_DIGITS = (5, 6), (4,)  # of postcodes and record numbers
NEARLY_ALL = 0.9
LEAST_SHORT = 5  # different numbers of four digits that make a column of postcodes


def is_date(value: str) -> bool:
    """Whether a text is a date, or a part of a year that is shorter than it.

    >>> [is_date(x) for x in ("12. März 2019", "2019-Q1", "Mar-2019", "stage 3", "3+4", "2019")]
    [True, True, True, False, False, False]
    """
    # A time of day after the date is dropped, so that DATE_FORMATS need no times.
    value = LEADING_DAY.sub("", TIME.sub("", value))
    for form in DATE_FORMATS:
        try:
            year = datetime.strptime(value, form).year
        except ValueError:
            continue
        # A measurement such as 120499 may parse; outside these years it is not a date.
        if year in YEARS:
            return True
    # Without accents: März, février.
    text = unicodedata.normalize("NFKD", value).casefold()
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return bool(PART_OF_YEAR.fullmatch(text) or DAY_AND_MONTH.fullmatch(text)) or _is_written(text)


def _is_written(text: str) -> bool:
    """Whether a text has a year or a month by name, with a number, and no other words."""
    if re.search(r"[^\w\s.,/'|年月日-]", text):
        return False
    tokens = re.findall(r"\d+|[^\W\d_]+", text)
    numbers = [int(token) for token in tokens if token.isdigit()]
    years = [number for number in numbers if number in YEARS]
    days = [number for number in numbers if 1 <= number <= 31]
    if len(years) > 1 or len(years) + len(days) < len(numbers) or not numbers:
        return False
    words = [token for token in tokens if not token.isdigit() and token not in "年月日"]
    # A Roman number counts beside a year only: "stage II" is none of months.
    months = [w for w in words if MONTH.fullmatch(w) or (years and ROMAN.fullmatch(w))]
    others = [w for w in words if w not in months and w not in WITHIN_DATES]
    if any(not DAY_NAME.fullmatch(word) for word in others):
        return False
    return bool(months) or (bool(years) and bool(days))


def names_someone(value: str) -> bool:
    """Whether a text holds a person's name, a place, or the number of a record or a telephone.

    >>> [names_someone(x) for x in ("DOE^J", "+49 89 123456", "SW1A 1AA", "left lung", "T1N0M0")]
    [True, True, True, False, False]
    """
    text = unicodedata.normalize("NFKC", value)
    surname_first = SURNAME_FIRST.fullmatch(text)
    # COVID-19, ARDS and Effusion, left are none.
    if surname_first and text[0].isupper() and not any(map(is_common, surname_first.groups())):
        return True
    return any(pattern.search(text) for pattern in (PERSON, *PLACES, *NUMBERS))


def are_days(values: Collection[str]) -> bool:
    """Whether numbers are days or seconds of a calendar, all in the years 1968 to 2064.

    >>> are_days(["43536", "43537.25"]), are_days(["43536", "120"]), are_days(["43536"])
    (True, False, False)
    """
    numbers = {float(value) for value in values}
    if len(numbers) < LEAST_DAYS:
        return False
    return any(low <= min(numbers) and max(numbers) <= high for low, high in DAY_COUNTS)


def are_codes(values: Collection[str]) -> bool:
    """Whether nearly all numbers are whole ones of five or six digits: postcodes, record numbers.

    >>> are_codes(["80331", "80333.0"]), are_codes(["12.5", "80331"]), are_codes(["80", "80331"])
    (True, False, False)
    """
    return len(values) >= LEAST_DAYS and _have_digits(values, CODE_DIGITS)


def may_be_postcodes(values: Collection[str]) -> bool:
    """Whether numbers of four digits look like postcodes of Austria, Switzerland or Denmark.

    Settings of a scanner are mostly multiples of 5, and years lie close together.

    >>> may_be_postcodes(["8001", "8002", "3011", "1213", "6003"])
    True
    >>> may_be_postcodes(["2018", "2019", "2020", "2021", "2022"])
    False
    """
    if len(values) < LEAST_SHORT or not _have_digits(values, SHORT_DIGITS):
        return False
    numbers = [int(float(value)) for value in values]
    odd = sum(number % 5 > 0 for number in numbers)
    return 2 * odd > len(numbers) and not all(number in YEARS for number in numbers)


def _have_digits(values: Collection[str], digits: tuple[int, ...]) -> bool:
    """Whether numbers are whole, and nearly all of them have so many digits."""
    whole = [re.fullmatch(r"(\d+)(\.0*)?", value) for value in values]
    if not all(whole):
        return False
    return sum(len(match[1]) in digits for match in whole if match) >= NEARLY_ALL * len(values)
