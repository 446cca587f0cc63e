"""Spellings of patient ids: what spreadsheets, exports and keyboards make of one id."""

import re
import unicodedata

INVISIBLE = "Cf"  # Unicode's category of marks of order, joiners and zero-width spaces
DASH = "Pd"
QUOTES = "'\"=\u2018\u2019\u201c\u201d\u201e\u201a\u00ab\u00bb"
# An id with more digits than a spreadsheet shows. Several ids become one.
ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+?\d+")
ZERO_SCRIPTS = "\u0660\u06f0\u0966\uff10"  # zeros of Arabic, Persian, Hindi, and of full width
SEPARATORS = ("", "-", "_", " ", ".", "/")  # between letters and numbers of an id
BETWEEN = f"[{re.escape(''.join(SEPARATORS))}]+"
LONGEST_ID = 10  # digits up to which leading zeros are tried


def one_spelling(patient: str) -> str:
    """Patient id in the form that splits compare.

    One Unicode form, one case, Latin digits, one separator, none between letters and the number
    behind them, no invisible marks, no zeros in front of a number, no `.0` behind one. Spreadsheets
    drop zeros, and add `.0`, quotes and `=`.

    >>> one_spelling("0042") == one_spelling("42.0") == one_spelling("\\u0664\\u0662")
    True
    >>> one_spelling("P\\u20110042\\u200b") == one_spelling("p-42"), one_spelling("\u00c41")
    (True, '\u00e41')
    """
    text = unicodedata.normalize("NFKC", patient)
    text = "".join(
        "-" if unicodedata.category(letter) == DASH else _latin_digit(letter)
        for letter in text
        if unicodedata.category(letter) != INVISIBLE
    )
    # casefold, not lower: it also joins ß and ss.
    text = " ".join(text.casefold().split()).strip(QUOTES)
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    text = re.sub(rf"(?<=\w){BETWEEN}(?=\w)", "-", text)
    # PAT-7 is PAT7. A number in front of letters or of another number may count something else.
    text = re.sub(r"^([^\W\d_]+)-(?=\d)", r"\1", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _latin_digit(letter: str) -> str:
    value = unicodedata.decimal(letter, None)
    return letter if value is None else str(value)


def spellings(patient: str) -> set[str]:
    """Other spellings of a patient's id that another manifest may have.

    They differ in Unicode form, in case, in leading zeros up to ten digits, in a `.0` behind a
    number, in the separator, and in the script of digits.

    >>> "P-1" in spellings("p1"), "0042" in spellings("42"), "P7" in spellings("P007")
    (True, True, True)
    """
    plain = one_spelling(patient)
    found = {unicodedata.normalize(form, patient) for form in ("NFC", "NFD", "NFKC")} | {plain}
    found |= {change(text) for text in set(found) for change in (str.upper, str.lower)}
    separated = {_separated(text, mark) for text in found for mark in SEPARATORS}
    # Keyed hashes match only exactly, so each likely spelling is hashed and looked up: about a
    # hundred, which is why not every number of zeros is tried behind every separator.
    found |= {padded for text in set(found) for padded in _padded(text)} | separated
    if plain.isdecimal():
        found |= {f"{plain}.0"}
        found |= {"".join(chr(ord(zero) + int(digit)) for digit in plain) for zero in ZERO_SCRIPTS}
    return found - {patient}


def _separated(text: str, mark: str) -> str:
    """The text with another separator; of one letter part and one number also without any."""
    found = re.fullmatch(rf"([^\W\d_]+)({BETWEEN})?(\d+)", text)
    if found:
        return f"{found[1]}{mark}{found[3]}"
    return re.sub(rf"(?<=\w){BETWEEN}(?=\w)", mark, text) if mark else text


def _padded(text: str) -> set[str]:
    """The text with its only number written with up to LONGEST_ID digits."""
    found = re.fullmatch(r"(\D*)0*(\d+)(\D*)", text, re.ASCII)
    if found is None:
        return set()
    number = found[2].lstrip("0") or "0"
    return {
        f"{found[1]}{number.rjust(length, '0')}{found[3]}" for length in range(1, LONGEST_ID + 1)
    }
