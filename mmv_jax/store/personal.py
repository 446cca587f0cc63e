"""Values that may name someone: dates in any usual order, people, places, numbers of records.

A column of a manifest is judged by what it holds, because a name can be anywhere.
"""

import re
import unicodedata
from collections.abc import Collection
from datetime import datetime

from mmv_jax.store.known_words import is_common

DATE_FORMATS = (
    ("%Y%m%d", "%d%m%Y", "%Y%m", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y")
    + ("%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%m-%y")
    + ("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y")
    + ("%m.%Y", "%Y.%m%d", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%S", "%Y%m%d%H%M")
)
# What a text must look like to be of a form: `strptime` takes 20 times as long to say no.
FIELDS = {"Y": r"\d{4}", "y": r"\d\d", "b": r"\D+", "B": r"\D+"}
LIKE_FORMS = tuple(
    re.compile(
        re.sub(r"%(.)", lambda field: FIELDS.get(field[1], r"[ \d]?\d"), re.escape(form)).replace(
            r"\ ", r"\s+"
        ),
        re.IGNORECASE,
    )
    for form in DATE_FORMATS
)
YEARS = range(1900, 2101)
TIME = re.compile(
    r"[T :]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2}|[AaPp][Mm])?$"
    r"|(?<=^\d{14})(\.\d+)?([+-]\d{4})?$"  # DICOM's DT
)
TIME_ALONE = re.compile(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?\s*([AaPp]\.?[Mm]\.?)?")
CLOCK = re.compile(r"([01]\d|2[0-3])[0-5]\d[0-5]\d\.\d+")  # DICOM's TM
BIRTH = re.compile(r"(\*|born|geb\w*|dob|nee|naiss\w*|jg|jahrgang)\W*(19|20)\d{2}")
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
    r"(\D*)(19|20)\d{2}(\D*)(q[1-4]|h[12]|w\d{1,2}(-?\d)?|kw ?\d{1,2})|[qh][1-4]\D*(19|20)\d{2}"
    r"|(spring|summer|autumn|fall|winter|fruhjahr|sommer|herbst)\W*(19|20)\d{2}"
)
# Days of the week and months, alone: in English and German, but for `may`.
CALENDAR_WORDS = """
    monday tuesday wednesday thursday friday saturday sunday montag dienstag mittwoch donnerstag
    freitag samstag sonntag january february march april june july august september october november
    december januar februar marz juni juli oktober dezember
"""
CALENDAR = frozenset(CALENDAR_WORDS.split())
ERA = re.compile(r"(明治|大正|昭和|平成|令和)(\d{1,2}|元)年.*")
DAY_AND_MONTH = re.compile(r"\d{1,2}\.\d{1,2}\.")
WITHIN_TEXT = r"\b\d{1,2}[./-]\d{1,2}[./-]((19|20)\d{2}|\d{2})\b|\b(19|20)\d{2}-\d{2}-\d{2}\b"
# A title, "SURNAME^FORENAME" as in DICOM, or an initial and a surname.
PERSON = re.compile(
    r"(?i:\b(dr|prof|mr|mrs|ms|frau|herr|mme|dott|med)\b\.?\s+\w)"
    r"|(?i:\b(fr|hr|sr|sra|dra|mlle|mag|ing)\.\s*[^\W\d])"
    r"|\w\^\w|^([A-ZÄÖÜ]\.\s*)+[A-ZÄÖÜ][a-zäöüß]+$"
)
SURNAME_FIRST = re.compile(r"([^\W\d_][^\W\d_'-]+),\s*([^\W\d_][^\W\d_'-]*)\.?")
PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        r"[/\\@]|\.(?=\w*[A-Za-z])\w{2,4}$",  # paths, web and mail addresses
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
        r"(?i)^(?=.*\d)(.* )?(rue|via|viale|piazza|calle|plaza|avenida|laan|ulica|gata|gasse)\b",
        r"^((Am|Im|Zum|Zur|An der|In der|Auf de[rm]) [A-ZÄÖÜ]\w+ \d+ ?[a-z]?)$",
        r"(?i)^(p\.? ?o\.? ?box|postfach|room|zimmer|bett|bed|ward|station)\W*\w?\d",
        r"^\d{4}[A-Z]{2}$|^(?!T\dN\dM)[ABCEGHJ-NPR-TVXY]\d[A-Z]\d[A-Z]\d$",  # Dutch, Canadian
        r"^(\d{2}-\d{3}|\d{3} \d{2})$",  # Polish; Swedish, Czech, Greek
        r"\d+ ?°.*[NSEWO]\b",
    )
)
NUMBERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?=(?:\D*\d){7})[+(]?\d[\d\s()./-]*\d$",  # telephone and insurance numbers
        r"^[A-Za-z]{0,4}[-_ ]?\d{6,}$",  # records, accounts
        r"^\d+(\.\d+){3,}$",  # unique ids of DICOM, addresses of networks
        r"(?i)^([0-9a-f]{2}[:-]){5}[0-9a-f]{2}$",  # addresses of devices
        r"(?i)^[0-9a-f]{0,4}(:[0-9a-f]{0,4}){4,7}$",
        r"(?i)\b(tel|phone|fax|mobil|ext|pager|durchwahl|dw)\w*\b\W*\d{2,}",
        r"(?i)^(mrn|pid|sn|acc|rec|case|fall|pat|num)?\W*[a-z]{0,3}[-_ ]?\d{5,}[a-z]?$",
        r"(?i)^(id|no|nr|#)\W*\d{5,}$",
        r"^\d[A-Z]{3}\d{3}$",  # plates of California
        r"^-?\d{1,3}\.\d{3,}[,; ]+-?\d{1,3}\.\d{3,}$",  # coordinates
        WITHIN_TEXT,  # a date in a text
        r"^[xX*•#]{2,}.*\d{3,}$",  # numbers of which a part is hidden
        r"^\d{2}-\d{2}-\d{2,}$",
        r"(?i)^[a-z]{1,3}-?(19|20)\d{2}-\d{3,}$|^\d{2}-[a-z]{2,3}-\d{3,}$",  # accessions
        r"^[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} ?\d{1,4}[EH]?$",  # plates
        r"^(?=(?:.*\d){2})(?=.*[a-f])[0-9a-f]{6,64}$",  # hexadecimal
        r"^[A-Z]{2}\d{2}( ?\w{4}){3,}",  # accounts of banks
        # Ids of states and passports, serial numbers: letters and five digits or more.
        r"^(?=(?:.*\d){5})(?=.*[A-Z])[A-Z0-9]{7,}(-[A-Z0-9]{1,4})?$|^\d{6}[-+A]\d{3}[0-9A-Z]$",
    )
)
# An age in years or months under any header; ages above 89 name someone.
OLD = re.compile(r"(?i)0*(\d{2,4})\s*(y(?:o|rs?|ears?)?|j(?:ahre)?|m(?:o|onths?|onate)?)\.?")
OLDEST_TOLD = 89  # years; HIPAA 164.514(b)(2)(i)(C): all higher ages form one category
# Days since 1900 (Excel), since the year 0 (MATLAB), seconds and milliseconds since 1970: of 1968
# to 2064. A column of such numbers alone is one of dates.
# The last two are Julian days, and seconds since 1582 (SPSS), of the same years.
DAY_COUNTS = (
    (25e3, 60e3),
    (719e3, 754e3),
    (6e8, 3e9),
    (6e11, 3e12),
    (2.44e6, 2.476e6),
    (12.18e9, 15.21e9),
)
LEAST_DAYS = 2  # different values: one alone may be any number
CODE_DIGITS, SHORT_DIGITS = (5, 6), (4,)  # of postcodes and record numbers
NEARLY_ALL = 0.9
GENERATION = 30  # years between the first and the last birth of a column
HOUSE = r"(Hospital|Clinics?|Klinik(um)?|Medical Cent(er|re)|Infirmary|Universit\w+|Krankenhaus)"
# A name before the word (Mayo Clinic, not "outpatient clinic"), or behind it (Hospital Clinic).
HOSPITAL = re.compile(
    rf"[A-ZÄÖÜ][\w.'’-]*( [\w.'’-]+)* {HOUSE}\b"
    rf"|\b({HOUSE}|Hôpital|Ospedale|Charit[eé]) (\w+ )?[A-Z]\w+"
)
LEAST_SHORT = 5  # different numbers of four digits that make a column of postcodes


def is_date(value: str) -> bool:
    """Whether a text is a date, or a part of a year that is shorter than it.

    >>> [is_date(x) for x in ("12. März 2019", "2019-Q1", "Mar-2019", "stage 3", "3+4", "2019")]
    [True, True, True, False, False, False]
    """
    value = _typed(value)
    if TIME_ALONE.fullmatch(value) or CLOCK.fullmatch(value) or ERA.fullmatch(value):
        return True
    # A time of day after the date is dropped, so that DATE_FORMATS need no times.
    value = LEADING_DAY.sub("", TIME.sub("", value))
    for form, like in zip(DATE_FORMATS, LIKE_FORMS):
        if not like.fullmatch(value):
            continue
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
    parts = (PART_OF_YEAR, DAY_AND_MONTH, BIRTH)
    return text in CALENDAR or any(p.fullmatch(text) for p in parts) or _is_written(text)


def _typed(value: str) -> str:
    """Text as it was typed, without what spreadsheets put around it: ="…", dashes, wide blanks."""
    text = unicodedata.normalize("NFKC", value)
    text = "".join("-" if unicodedata.category(letter) == "Pd" else letter for letter in text)
    return text.strip().removeprefix("=").strip("\"'")


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
    # A day, a year and one more word: a month in any language.
    if len(years) == len(days) == len(others) == 1 and len(numbers) == 2:
        return True
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
    if any(pattern.search(text) for pattern in (PERSON, *PLACES, *NUMBERS)):
        return True
    old = OLD.fullmatch(text)
    return old is not None and int(old[1]) > (
        OLDEST_TOLD if old[2][0].casefold() in "yj" else 12 * OLDEST_TOLD
    )


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


def may_be_births(values: Collection[str]) -> bool:
    """Whether whole numbers are years as far apart as those in which patients were born.

    Years of examinations lie closer together.

    >>> may_be_births(["1931", "1950", "1961", "1944", "1972.0"])
    True
    >>> may_be_births(["2011", "2012", "2013", "2014", "2015"]), may_be_births(["1500", "2000"])
    (False, False)
    """
    if len(values) < LEAST_SHORT or not _have_digits(values, SHORT_DIGITS):
        return False
    years = [int(float(value)) for value in values]
    return min(years) in YEARS and max(years) in YEARS and max(years) - min(years) >= GENERATION


def names_places(values: Collection[str]) -> bool:
    """Whether half of the texts of a column name hospitals or universities, or more.

    >>> names_places(["Mayo Clinic", "UCSF"]), names_places(["outpatient clinic", "ward"])
    (True, False)
    """
    return 2 * sum(bool(HOSPITAL.search(value)) for value in values) >= max(1, len(values))


def _have_digits(values: Collection[str], digits: tuple[int, ...]) -> bool:
    """Whether numbers are whole, and nearly all of them have so many digits."""
    whole = [re.fullmatch(r"(\d+)(\.0*)?", value) for value in values]
    if not all(whole):
        return False
    return sum(len(match[1]) in digits for match in whole if match) >= NEARLY_ALL * len(values)
