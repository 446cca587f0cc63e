"""Cells of tables under a header that says nothing: what identifies a person stays behind or is
told, what is a label is carried without a word; codes and words for "not known".
"""

import pytest
from made import manifest, png
from planted import run_here
from test_variant_lines import lines_of
from test_variant_tables import chosen
from test_variant_tables import told as told_of_column

from mmv_jax.missing import is_missing, missing_codes
from mmv_jax.store.ingest import ingest
from mmv_jax.store.known_words import is_known
from mmv_jax.store.labels import carry, choose_columns
from mmv_jax.store.person_names import names_a_person
from mmv_jax.store.third_values import third_values
from mmv_jax.store.workers import ENGINES

# Dates, people, numbers of records and telephones, places, ages above 89.
IDENTIFYING = (
    ("2019-W12-3", "2019-W13-4"), ("2019-071", "2019-072"), ("2019071", "2019072"),
    ("19/03/12", "19/03/13"), ("190312", "190313"), ("120319", "130319"), ("1.3.19", "2.3.19"),
    ("3/12/19", "3/13/19"), ("3/2019", "4/2019"), ("2019/03", "2019/04"), ("2019-03", "2019-04"),
    ("03-2019", "04-2019"), ("201903", "201904"), ("032019", "042019"),
    ("March 2019", "April 2019"), ("Mar-19", "Apr-19"), ("Mar '19", "Apr '19"),
    ("2019-03-12T10:11:12Z", "2019-03-13T10:11:12+01:00"),
    ("2019-03-12 10:11:12.123456", "2019-03-13 10:11:12.5"),
    ("20190312101112.000000+0100", "20190313101112.000000+0100"),
    ("1552384000123", "1552470400456"), ("1552384000.12", "1552470400.5"),
    ("43536.4243", "43537.9"), ("737495.5", "737496.25"), ("1.8674e12", "1.8675e12"),
    ("21620", "21621"), ("1868000000", "1868100000"), ("13771000000", "13772000000"),
    ("2458555", "2458556"), ("58554", "58555"), ("12 maart 2019", "13 april 2019"),
    ("12 de março de 2019", "13 de abril de 2019"), ("12 marzo 2019", "13 giugno 2019"),
    ("12 mars 2019", "13 maj 2019"), ("12 marca 2019", "13 kwietnia 2019"),
    ("12 марта 2019", "13 апреля 2019"), ("12. maaliskuuta 2019", "13. huhtikuuta 2019"),
    ("12 Mart 2019", "13 Nisan 2019"), ("Γιώργος Παπαδόπουλος", "Μαρία Νικολάου"),
    ("12. března 2019", "13. dubna 2019"), ("12. marts 2019", "13. oktober 2019"),
    ("平成31年3月12日", "令和1年5月2日"), ("2019年03月", "2019年04月"), ("김철수", "이영희"),
    ("٢٠١٩-٠٣-١٢", "٢٠١٩-٠٣-١٣"), ("12 مارس 2019", "13 أبريل 2019"), ("משה כהן", "רחל לוי"),
    ("12/03/2562", "13/03/2562"), ("1397/12/21", "1397/12/22"), ("Spring 2019", "Autumn 2019"),
    ("FY2019 Q3", "FY2019 Q4"), ("2019-H1", "2019-H2"), ("2019/20", "2020/21"),
    ("Monday", "Tuesday"), ("10:11", "10:12"), ("10:11:12", "10:12:13"), ("10:11 AM", "10:12 PM"),
    ("101112.123", "101213.5"), ("scan of 12.03.2019", "scan of 13.03.2019"),
    ("12.03.2019-14.03.2019", "15.03.2019-16.03.2019"), ("2019,03,12", "2019,03,13"),
    ("12 03 2019", "13 03 2019"), ("Tue Mar 12 2019", "Wed Mar 13 2019"),
    ("Tue Mar 12 2019 10:11:12 GMT+0100", "Wed Mar 13 2019 10:11:12 GMT+0100"),
    ("Tue, 12 Mar 2019 10:11:12 +0000", "Wed, 13 Mar 2019 10:11:12 +0000"),
    ("２０１９－０３－１２", "２０１９－０３－１３"), ("'2019-03-12", "'2019-03-13"),
    ("=\"2019-03-12\"", "=\"2019-03-13\""), ("12/Mar/2019", "13/Mar/2019"), ("12-Mar", "13-Mar"),
    ("Mar-12", "Mar-13"), ("2019 Mar 12", "2019 Mar 13"), ("2019-Mar-12", "2019-Mar-13"),
    ("12Mar2019", "13Mar2019"), ("12MAR2019", "13MAR2019"),
    ("12MAR2019:10:11:12", "13MAR2019:10:11:12"),
    ("12.\u00a003.\u00a02019", "13.\u00a003.\u00a02019"), ("2019–03–12", "2019–03–13"),
    ("*1931", "*1945"), ("born 1931", "born 1945"), ("geb. 12.03.1931", "geb. 13.04.1945"),
    ("DOB 3/12/31", "DOB 4/13/45"), ("Quandtmeyer", "Zwirnlein"), ("QUANDTMEYER", "ZWIRNLEIN"),
    ("quandtmeyer", "zwirnlein"), ("Dr Quandt", "Dr Zwirn"), ("A.B.", "C.D."),
    ("A.B.C.", "D.E.F."), ("Quandt, A", "Zwirn, B"), ("Quandt A", "Zwirn B"),
    ("A Quandt", "B Zwirn"), ("A. Quandt-Meyer", "B. Zwirn-Becker"),
    ("P. O'Quandt", "M. McZwirn"), ("A.B. Quandt", "C.D. Zwirn"), ("aquandt", "bzwirn"),
    ("anna.quandt", "bob.zwirn"), ("anna_quandt", "bob_zwirn"),
    ("anna@hospital.org", "bob@hospital.org"), ("AnnaQuandt", "BobZwirn"),
    ("Anna-Quandt", "Bob-Zwirn"), ("Quandt/Anna", "Zwirn/Bob"), ("Quandt|Anna", "Zwirn|Bob"),
    ("Quandt; Anna", "Zwirn; Bob"), ("Quandt^Anna^^Dr", "Zwirn^Bob"),
    ("read by Quandt", "read by Zwirn"), ("signed: Quandt", "signed: Zwirn"),
    ("Quandt & Zwirn", "Zwirn & Meyer"), ("Quandt/Zwirn", "Zwirn/Meyer"),
    ("PD Dr. Quandt", "OA Zwirn"), ("OA Quandt", "OÄ Zwirn"),
    ("Univ.-Prof. Quandt", "Prof. Zwirn"), ("Fr Quandt", "Hr Zwirn"), ("Mme Quandt", "M. Zwirn"),
    ("Sig.ra Rossi", "Sig. Bianchi"), ("Don Quijano", "Dña Lopez"), ("田中太郎", "佐藤花子"),
    ("สมชาย ใจดี", "สมหญิง รักไทย"), ("محمد علي", "فاطمة حسن"), ("Иванов", "Петрова"),
    ("राम शर्मा", "सीता वर्मा"), ("Nguyễn Văn An", "Trần Thị Bình"), ("张伟", "李娜"),
    ("Zhang Wei", "Li Na"), ("Kovács János", "Szabó Anna"), ("normal", "Quandtmeyer"),
    ("Xaveria", "Thiemo"), ("Bobby", "Susi"), ("Anna Quandt geb. Zwirn", "Bea Zwirn née Quandt"),
    ("555-123-4567", "555-123-4568"), ("123-4567", "123-4568"), ("089.123.456", "089.123.457"),
    ("0049 89 123456", "0049 89 123457"), ("ext. 4567", "ext. 4568"), ("Tel 12345", "Tel 12346"),
    ("pager 1234", "pager 1235"), ("123-45-6789", "123-45-6780"), ("xxx-xx-6789", "xxx-xx-6780"),
    ("943 476 5919", "943 476 5920"), ("12 345 678 901", "12 345 678 902"),
    ("19811218-9876", "19811218-9877"), ("010190-1234", "020290-1234"),
    ("131052-308T", "131052-309U"), ("RSSMRA85T10A562S", "VRDLGI85T10A562X"),
    ("12345678Z", "87654321X"), ("1 85 05 78 006 084", "2 85 05 78 006 085"),
    ("2345 6789 0123", "2345 6789 0124"), ("123.456.789-09", "123.456.789-10"),
    ("A123456789", "B123456780"), ("3f2a9c", "7be01d"),
    ("550e8400-e29b-41d4-a716-446655440000", "550e8400-e29b-41d4-a716-446655440001"),
    ("9e107d9d372bb6826bd81d3542a419d6", "e4d909c290d0fb1ca068ffaddf22cbd0"),
    ("MRN12345", "MRN12346"), ("12-34-56", "12-34-57"), ("#12345", "#12346"),
    ("No. 12345", "No. 12346"), ("CT-2019-00123", "CT-2019-00124"), ("19-CT-123", "19-CT-124"),
    ("E1234567", "E1234568"), ("A12345", "A12346"), ("Room 12", "Room 13"), ("B12/3", "B12/4"),
    ("1.2.840.113619.2", "1.2.840.113619.3"),
    ("fe80::1ff:fe23:4567:890a", "fe80::1ff:fe23:4567:890b"),
    ("ct01.hospital.org", "ct02.hospital.org"), ("http://pacs/1", "http://pacs/2"),
    ("SN12345", "SN12346"), ("WVWZZZ1JZXW000001", "WVWZZZ1JZXW000002"), ("M-AB 123", "B-CD 456"),
    ("7ABC123", "7ABC124"), ("DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 01"),
    ("4111 1111 1111 1111", "4111 1111 1111 1112"), ("C01X00T47", "C01X00T48"),
    ("48.1372, 11.5756", "48.1400, 11.5800"), ("48°08′N 11°34′E", "48°09′N 11°35′E"),
    ("94305-1234", "94306-1234"), ("02139", "02140"), ("1012AB", "1013CD"), ("K1A0B1", "K1A0B2"),
    ("80331 München", "80333 München"), ("München", "Hamburg"), ("Boston", "Chicago"),
    ("Boston, MA", "Chicago, IL"), ("Massachusetts", "Illinois"), ("Germany", "France"),
    ("Main St 12", "Main St 13"), ("12 rue de Rivoli", "13 rue de Rivoli"),
    ("Via Roma 12", "Via Roma 13"), ("Calle Mayor 3", "Calle Mayor 4"),
    ("Am Hang 3", "Am Hang 4"), ("PO Box 123", "PO Box 124"), ("St. Mary's Hospital", "Charité"),
    ("Station 4B", "Station 5A"), ("Landkreis Dachau", "Landkreis Freising"),
    ("100-0001", "100-0002"), ("01310-100", "01310-200"), ("110001", "110002"),
    ("00-950", "00-951"), ("114 55", "114 56"), ("1000-001", "1000-002"), ("018956", "018957"),
    ("95 y", "96 y"), ("1100 months", "1200 months"),
)  # fmt: skip
LABELS = (
    ("Pneumothorax", "Effusion", "Nodule", "Normal"),
    ("COVID-19", "Pneumocystis", "SARS", "Streptococcus", "COVID-19, ARDS", "ARDS", "Legionella",
     "No Finding", "Klebsiella"), ("CC BY-NC-SA", "CC BY", "CC BY-SA"), ("links", "rechts"),
    ("männlich", "weiblich"), ("hombre", "mujer"), ("ja", "nein"), ("oui", "non"),
    ("gauche", "droite"), ("unauffällig", "pathologisch"), ("A", "B", "C", "D"),
    ("0", "1", "2", "4A", "4B"), ("BI-RADS 1", "BI-RADS 4a"), ("T1N0M0", "T2N1M0"),
    ("T1a", "T1b", "T2"), ("IA", "IB", "IIIA"),
    ("adenocarcinoma", "squamous", "large cell", "small cell"),
    ("Adenocarcinoma", "Squamous cell carcinoma", "NOS"),
    ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "TOSHIBA"),
    ("Sensation 64", "LightSpeed VCT", "Definition AS+", "Optima CT660"),
    ("Aquilion", "Brilliance", "Discovery", "Ingenuity"),
    ("B30f", "B70f", "STANDARD", "BONE", "LUNG"), ("80", "100", "120", "140"),
    ("512x512", "256x256"), ("0.7x0.7x1.25", "0.8x0.8x2.5"),
    ("CHEST ROUTINE", "LOW DOSE CHEST", "CTPA"), ("axial", "coronal", "sagittal"),
    ("T1w", "T2w", "FLAIR", "DWI"), ("with", "without"), ("never", "former", "current"),
    ("White", "Black or African American", "Asian", "Unknown"),
    ("Hispanic or Latino", "Not Hispanic or Latino"), ("Medicare", "Medicaid"),
    ("English", "Spanish"), ("single", "married", "widowed", "divorced"),
    ("supine", "prone", "erect"), ("blurry", "sharp", "ok"), ("adequate", "inadequate"),
    ("solid", "part-solid", "ground-glass"), ("smooth", "spiculated", "lobulated", "ill-defined"),
    ("RUL", "RML", "LLL"), ("left upper lobe", "right lower lobe"),
    ("hilar", "peripheral", "subpleural"), ("fold_0", "fold_1"), ("1", "2", "3", "4", "5"),
    ("True", "False"), ("mild", "moderate", "severe"), ("pacemaker", "port", "NG tube"),
    ("0-17", "18-64", "65+"), ("40-49", "50-59", "60-69"), ("100-200", "200-300"),
    ("2015", "2016", "2017"), ("-100.5", "23.25"), ("23.4", "31.2"), ("3+4", "4+3"),
    ("pleomorphic", "amorphous", "fine linear branching", "punctate"),
    ("fatty", "scattered", "heterogeneously dense", "extremely dense"),
    ("benign", "malignant", "benign without callback"), ("NIH", "MIMIC", "CheXpert", "PadChest"),
    ("PneumoniaMNIST",), ("LIDC-IDRI", "LUNA16"), ("liver", "spleen", "kidney", "pancreas"),
    ("arterial", "portal", "venous", "non-contrast"), ("PA", "AP", "LATERAL"),
    ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Hernia",
     "Infiltration", "Mass"),
    ("Staphylococcus", "Pseudomonas", "Haemophilus", "Influenza", "Varicella"),
    ("Active", "Latent", "Healthy"), ("Rheumatoid", "Psoriatic"),
    ("derrame", "neumonía", "normal"), ("destro", "sinistro"), ("正常", "异常"), ("男", "女"),
    ("陽性", "陰性"), ("норма", "патология"), ("✓", "✗"), ("low grade", "high grade"), ("mm", "cm"),
    ("LR-3", "LR-4", "LR-5"), ("J18.9", "C34.1"), ("RID1301", "RID1302"), ("NSCLC", "SCLC"),
    ("Hodgkin lymphoma", "Wilson disease", "Paget disease"), ("Kaposi", "Burkitt"),
    ("Crohn disease", "Graves disease"), ("Marfan", "Ehlers-Danlos"), ("37.5", "38.9"),
    ("1:2", "1:4"), ("120 kV", "100 kV"), ("0.6", "1.2"), ("v1.2.3", "v2.0.0"),
    ("syngo CT 2012B", "VA44A"), ("1", "2", "3"), ("A", "B", "C"), ("reader1", "reader2"),
    ("R1", "R2"), ("site A", "site B"), ("1", "2"), ("center_1", "center_2"),
    ("cohort 2019", "cohort 2020"), ("RSNA 2018", "RSNA 2019"), ("dev", "holdout"),
    ("public", "private"), ("LCC", "RCC", "LMLO", "RMLO"), ("L CC", "R MLO"),
    ("red", "green", "blue"), ("round", "oval", "irregular"),
    ("surgery", "chemotherapy", "radiotherapy"), ("pembrolizumab", "nivolumab"),
    ("Cisplatin", "Carboplatin"), ("EGFR", "KRAS", "ALK"), ("L858R", "exon 19 del"),
    ("HER2+", "HER2-"), ("present", "absent"), ("Delta", "Omicron"), ("A+", "0-", "AB+"),
    ("high school", "college"), ("portable", "fixed"),
)  # fmt: skip


def outcome(values: tuple[str, ...]) -> str:
    """ "left", "carried", or the codes of what is told of a column that is carried."""
    columns, left = chosen(list(values))
    if left:
        return "left"
    codes = {code for _, code in told_of_column("c1", list(values) * 9, columns["c1"])}
    return " ".join(sorted(codes)) or "carried"


def test_what_identifies_a_person_stays_behind_or_is_told():
    silent = [values for values in IDENTIFYING if "may_name" not in outcome(values) != "left"]
    assert silent == []


def test_labels_are_carried_without_a_word():
    assert [values for values in LABELS if outcome(values) != "carried"] == []


@pytest.mark.parametrize(
    "name, left",
    [
        ("reader_schmidt", True), ("Dr_Meyer", True), ("score_anna_schmidt", True),
        ("score by Smith", True), ("max_diameter", False), ("wolf_score", False),
        ("reader_1", False), ("park_view", False), ("reader_agreement", False),
    ],
)  # fmt: skip
def test_a_column_that_is_named_after_a_person_stays_behind(name, left):
    assert names_a_person(name) is left
    assert chosen(["0", "1"], name)[1] == ([name] if left else [])


@pytest.mark.parametrize("word", ["Quandtmeyer", "zwirnlein", "Xaveria", "Иванов", "สมชาย"])
def test_a_word_of_no_field_is_not_known(word):
    assert not is_known(word)


# ---- values


MISSING = (
    "(null)", "[none]", "n/k", "n/d", "not reported", "Not Specified", "unspecified", "…", "–", "*",
    "keine Angabe", "fehlt", "sin dato", "未知", "неизвестно", "k.A.", "{}", "blank",
)  # fmt: skip


@pytest.mark.parametrize("word", MISSING)
def test_more_words_that_mean_not_known(word):
    assert is_missing(word)
    assert chosen(["12.5", "33.1", word], "score")[0] == {"score": float}


@pytest.mark.parametrize(
    "values, codes",
    [
        (("12.5", "33.1", "27.2", "-1"), ["odd_numbers"]),
        (("12.5", "33.1", "27.2", "-9999"), ["odd_numbers"]),
        (("12.5", "33.1", "27.2", "999"), ["odd_numbers"]),
        (("12.5", "33.1", "27.2", "99"), ["odd_numbers"]),
        (("1", "2", "3", "4", "9"), ["odd_numbers"]),
        (("12.5", "33.1", "27.2", "1e30"), ["odd_numbers"]),
        (("12.5", "33.1", "27.2", "-2147483648"), ["odd_numbers"]),
        (("12.5", "33.1", "27.2", "not done"), ["odd_numbers"]),
        (("benign", "malignant", "99"), ["word_for_missing"]),
        (("benign", "malignant", "nd"), ["word_for_missing"]),
        # a change, a count, grades, a percentage, a scale of ten steps
        (("-1.5", "-1", "0", "2", "3"), []), (("0", "1", "2", "3", "5", "9", "12"), []),
        (("1", "2", "3a", "3b"), []), (("80", "91", "95", "99"), []),
        (tuple(map(str, range(10))), []), (("0.5", "1.5", "99.5", "1000"), []),
    ],
)  # fmt: skip
def test_codes_and_words_among_values_are_told(values, codes):
    columns, _ = chosen(list(values))
    assert [code for _, code in told_of_column("c1", list(values) * 4, columns["c1"])] == codes


@pytest.mark.parametrize("age", ["999", "-1", "414"])
def test_an_age_that_nobody_has_is_not_known_and_told(age):
    columns, _ = chosen(["61", "45", age], "age")
    assert carry({"age": "61"}, columns) == {"label_age": 61}
    value = carry({"age": age}, columns)["label_age"]
    assert value != value
    assert told_of_column("age", ["61", age], float) == [(3, "odd_numbers")]


def test_the_index_of_a_table_stays_behind():
    for start, left in ((0, ["c1"]), (1, ["c1"]), (7, [])):
        cells = [{"c1": str(start + n)} for n in range(20)]
        assert choose_columns(cells, [f"p{n}" for n in range(20)])[1] == left


MEASURED = [f"{10 + 0.83 * n:.1f}" for n in range(60)]


@pytest.mark.parametrize("codes", ["7", "8", "66", "77", "98", "-8", "88 99", "8 9", "0"])
def test_codes_of_surveys_among_measurements_are_told(codes):
    cells = MEASURED + 4 * codes.split()
    assert [code for _, code in told_of_column("c1", cells, float)] == ["odd_numbers"]
    assert told_of_column("c1", MEASURED, float) == []


@pytest.mark.parametrize("codes", ["7", "8", "66", "77", "98", "8 9", "7 8 9", "-7"])
@pytest.mark.parametrize("scale", ["1 2 3 4", "1 2", "0 1 2 3"])
def test_codes_of_surveys_above_a_scale_are_told(scale, codes):
    cells = 9 * scale.split() + 4 * codes.split()
    assert [code for _, code in told_of_column("c1", cells, float)] == ["odd_numbers"]


@pytest.mark.parametrize(
    "values", ["1 2 4 8", "6 7 8 9", "1 3 5 7", "0 50 100", "9 12 15 20", "80 100 120 140"]
)
def test_steps_that_end_like_codes_are_none(values):
    assert told_of_column("c1", 5 * values.split(), float) == []


@pytest.mark.parametrize("codes", [{7}, {8}, {7, 8, 9}, {66}, {77}, {98}])
def test_codes_beside_two_classes_are_not_known(codes):
    assert missing_codes([0, 1, 1, *codes]) == codes
    lines = lines_of(*({"labels": {"c": str(n)}} for n in (0, 1, *codes)))
    assert [line for line, _ in third_values(lines, ["c"])] == [4]


SPELLED = (
    ("pneumothorax", "pneumothroax"), ("pneumonia", "pnuemonia"), ("malignant", "maligant"),
    ("ground-glass", "ground glass"), ("naïve case", "naive case"), ("left effusion",
    "effusion, left"),
)  # fmt: skip


@pytest.mark.parametrize("values", SPELLED, ids=lambda pair: pair[1])
def test_one_class_in_several_spellings_is_told(values):
    # A word that no field knows may be a name as well.
    assert (2, "odd_column") in told_of_column("c1", list(values) * 3)
    # A short word counts where it is rare beside the other.
    assert (2, "odd_column") in told_of_column("c1", ["benign"] * 9 + ["bengin"])
    assert told_of_column("c1", ["segment IVa", "segment IVb", "site A", "site B"]) == []


def test_columns_that_stay_behind_are_told_without_their_names(tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "local", run_here)
    rows = []
    for n in range(4):
        png(tmp_path / f"{n}.png", seed=n)
        rows.append({"path": f"{n}.png", "score_anna_schmidt": n % 2, "wait": f"00:3{n}"})
    report = ingest([manifest(tmp_path, rows)], tmp_path / "store")
    text = (tmp_path / "store" / "warnings.jsonl").read_text()
    assert list(report.not_carried.values()) == [["score_anna_schmidt", "wait"]]
    # Two warnings with one code are of one line.
    assert text.count('"line": 2, "code": "not_carried"') == 2
    assert "anna" not in text and "write durations as numbers" in text
