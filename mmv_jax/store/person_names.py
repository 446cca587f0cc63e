"""Whether the texts of a column are names of people: "Forename Surname", as readers, referrers and
technicians are written into tables under any header.

Forenames and surnames are lists of common ones. Names of other people are known by their form
alone, if no word of a text is one of medicine, of technique or of the language of tables.
"""

import re
from collections.abc import Collection

from mmv_jax.store.known_words import is_common, is_known, plain_word

# Words that are also usual in findings or as adjectives (may, rose, brown, long) are left out.
COMMON_FORENAMES = """
    james john robert michael william david richard joseph thomas charles christopher daniel
    matthew anthony donald steven paul andrew joshua kenneth kevin brian george edward ronald
    timothy jason jeffrey jacob gary nicholas eric jonathan stephen larry justin scott brandon
    benjamin samuel gregory alexander patrick frank raymond dennis jerry tyler aaron jose adam
    nathan henry douglas zachary peter kyle walter ethan jeremy harold keith roger noah gerald
    terry sean austin carl arthur lawrence dylan jesse jordan bryan billy bruce gabriel logan
    alan juan wayne roy ralph randy eugene vincent russell louis philip bobby johnny bradley
    simon oliver harry charlie oscar leo hugo liam mary patricia jennifer linda elizabeth
    barbara susan jessica sarah karen lisa nancy betty margaret sandra ashley kimberly emily
    donna michelle carol amanda melissa deborah stephanie dorothy rebecca sharon laura cynthia
    kathleen amy angela shirley anna brenda pamela emma nicole helen samantha katherine
    christine debra rachel carolyn janet catherine maria heather diane ruth julie olivia joyce
    virginia victoria kelly lauren christina joan evelyn judith megan andrea cheryl hannah
    jacqueline martha gloria teresa ann sara madison frances kathryn janice jean abigail alice
    julia judy sophia denise theresa beverly danielle marilyn isabella diana natalie charlotte
    alexis kayla alexandra jane lucy ellen claire eleanor bob jim tom mike dave steve bill kate
    sally hans klaus jurgen wolfgang uwe dieter horst manfred gunter gunther helmut karl heinz
    werner bernd stefan stephan matthias andreas thorsten torsten ralf rolf rainer joachim joerg
    jorg holger sven jens lars kai tobias sebastian florian markus martin felix lukas jonas
    moritz maximilian fabian philipp dominik friedrich wilhelm otto ernst fritz kurt georg
    johannes jakob heinrich hermann ursula monika petra sabine renate helga brigitte ingrid
    erika gisela gabriele susanne heike birgit angelika claudia silke anke katrin kathrin tanja
    nadine anja melanie sonja kerstin ulrike martina katharina johanna lena lea marie mia
    hannelore ilse gertrud elisabeth heidi ute antje greta franziska svenja annika mareike jutta
    christa hildegard irmgard luise magdalena ines eva max jacques pierre michel philippe alain
    bernard francois christophe nicolas laurent frederic guillaume julien antoine olivier
    sebastien mathieu thierry didier gilles yves andre rene etienne luc nathalie isabelle sylvie
    sophie valerie veronique celine aurelie camille chloe manon francoise monique chantal
    dominique genevieve amelie juliette antonio manuel francisco javier carlos miguel rafael
    pedro angel alejandro fernando sergio pablo jorge alberto luis alvaro diego raul ivan ruben
    enrique ramon vicente joaquin andres ricardo eduardo carmen josefa isabel dolores pilar
    cristina lucia elena rosa mercedes paula beatriz silvia raquel sofia ana juana guadalupe
    alejandra gabriela fernanda valentina camila giuseppe giovanni mario luigi francesco angelo
    vincenzo pietro salvatore roberto paolo marco franco bruno stefano alessandro matteo lorenzo
    davide simone luca giulia chiara francesca federica alessia giorgia elisa ilaria giovanna
    paola joao tiago goncalo paulo rui nuno joana mariana catarina luisa jan piet willem hendrik
    cornelis johan gerrit pieter maarten bram daan sander joost anneke marijke ingeborg femke
    sanne lotte lieke sietske erik olaf olof bjorn anders nils magnus gustav henrik mikael per
    karin astrid kristina sigrid solveig kari liv marit mette hanne kirsten birgitta gunilla
    jakub piotr krzysztof andrzej tomasz pawel marcin michal lukasz jerzy stanislaw wojciech
    agnieszka malgorzata katarzyna ewa krystyna joanna zofia jiri jaroslav petr tomas zdenek
    vaclav jana lenka ivana hana dmitri dmitry sergei sergey alexei alexey andrei andrey mikhail
    nikolai vladimir boris igor oleg yuri pavel natalia olga tatiana svetlana irina ekaterina
    anastasia ludmila galina oksana mohammed mohamed muhammad mohammad ahmed ahmad ali hassan
    hussein ibrahim mustafa omar osman yusuf youssef khaled karim abdullah abdul fatima aisha
    khadija zainab maryam mariam leila layla yasmin amina noor hamza bilal mehmet murat emre
    kemal ayse fatma emine zeynep elif hatice rajesh ramesh suresh sanjay vijay amit anil sunil
    rahul ravi deepak ashok priya anita sunita kavita pooja neha anjali lakshmi arjun krishna
    wei jing yan lei tao ming hui ying xiao hiroshi takashi kenji akira yuki yuko keiko naoko
    haruto sakura minjun seoyeon jiho thi nguyen
"""
FORENAMES = frozenset(COMMON_FORENAMES.split())
COMMON_SURNAMES = """
    smith johnson williams jones garcia miller davis rodriguez martinez hernandez lopez gonzalez
    wilson anderson thomas taylor moore jackson martin perez thompson harris sanchez clark
    ramirez lewis robinson walker allen wright scott torres nguyen flores adams nelson campbell
    mitchell carter roberts gomez phillips evans turner diaz parker edwards collins reyes
    stewart morris morales murphy rogers gutierrez ortiz morgan peterson bailey reed kelly
    howard ramos richardson watson brooks chavez bennett mendoza ruiz hughes alvarez castillo
    sanders patel myers ross jimenez doe roe mueller muller schmidt schneider fischer weber
    meyer meier maier mayer wagner becker schulz schulze hoffmann hofmann schaefer schafer koch
    bauer richter klein wolf schroder schroeder neumann zimmermann kruger krueger hartmann
    schmitt werner krause lehmann schmid maurer huber kaiser fuchs scholz moller moeller vogel
    keller gunther frank berger winkler lorenz baumann albrecht schuster bohm boehm winter kraus
    martens mustermann musterfrau bernard dubois durand leroy moreau simon laurent lefebvre
    michel bertrand roux fournier girard bonnet dupont lambert fontaine rousseau mercier guerin
    boyer garnier chevalier fernandez romero alonso navarro dominguez vazquez serrano molina
    suarez delgado castro rossi russo ferrari esposito bianchi romano colombo ricci marino greco
    gallo conti costa giordano mancini rizzo lombardi moretti silva santos ferreira pereira
    oliveira rodrigues martins sousa fernandes goncalves jansen janssen dejong devries bakker
    visser smit dekker peeters maes andersson johansson karlsson nilsson eriksson larsson olsson
    persson hansen johansen olsen larsen andersen pedersen nielsen jensen sorensen rasmussen
    christensen virtanen korhonen nowak kowalski kowalska wisniewski wojcik kowalczyk kaminski
    novak svoboda novotny dvorak horvath nagy szabo toth popescu ionescu popa ivanov ivanova
    petrov petrova smirnov kuznetsov sokolov popov yilmaz kaya demir celik sahin yildiz ozturk
    khan ahmed hussain singh kumar sharma gupta verma reddy wang zhang chen yang huang zhao zhou
    tanaka suzuki sato takahashi watanabe yamamoto nakamura kobayashi kim park tran pham obrien
    oconnor mcdonald
"""
SURNAMES = frozenset(COMMON_SURNAMES.split())
PARTICLES = frozenset(
    ("van", "von", "de", "der", "den", "del", "della", "di", "da", "du", "la", "le", "dos")
    + ("bin", "al", "el", "ten", "zu", "zum")
)
# Degrees and titles behind a name.
DEGREES = frozenset(
    ("md", "phd", "mtra", "mtr", "rt", "frcr", "msc", "bsc", "rn", "do", "jr", "sr", "dr", "prof")
)
# The most common family names of China; a name has one, and one or two signs more.
HAN_SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡林郭何高罗郑梁谢宋唐许邓韩冯曹彭曾肖田董潘袁蔡蒋余"
HAN_NAME = re.compile(
    f"[{HAN_SURNAMES}][\u4e00-\u9fff]{{1,2}}|[\u4e00-\u9fff]{{1,3}}[ \u3000][\u4e00-\u9fff]{{1,3}}"
)
LETTERS = re.compile(r"[^\W\d_]+(['’`-][^\W\d_]+)*\.?")
# Between the words of a user name, and between two names in one cell.
SEPARATORS = re.compile(r"[\s,;._|/&+-]+")
SIGNED = re.compile(
    r"(?i)^(read|reported|signed|seen|reviewed|approved|entered) ?(by|:)[ :]*|^gez\.? "
)
INITIALS = re.compile(r"([^\W\d_]\.){2,4}")
# Letters with their marks: those of Hindi and Thai are no letters to `\w`.
WORD = re.compile(r"[^\W\d_][^\s\d_.,;|/&+-]*")
AND = frozenset(("and", "und", "et", "y", "e", "og", "en"))
READERS = frozenset(
    ("dr", "prof", "reader", "rater", "by", "radiologist", "frau", "herr", "mr", "mrs", "ms")
)
MOST_WORDS = 4  # of a name
LEAST_NAMES = 2  # different names that make a column of names


def name_people(values: Collection[str]) -> bool:
    """Whether different texts of a column are names of people.

    One known forename beside a surname is enough. Single words are names if half of them are known.
    Other texts are, where all of them have the form of a name.

    >>> name_people(["Anna Sample", "normal"]), name_people(["Jane Doe"])
    (True, True)
    >>> name_people(["Xyla Qort", "Bram Zzyx"]), name_people(["Left Lung", "No Finding"])
    (True, False)
    """
    if any(_is_name(value) for value in values):
        return True
    if len(values) < LEAST_NAMES:
        return False
    words = [_words(value) for value in values]
    single = [len(found) == 1 and found[0] in FORENAMES | SURNAMES for found in words]
    return sum(single) >= max(LEAST_NAMES, len(values) / 2) or all(map(has_form_of_name, values))


def may_name_people(values: Collection[str]) -> bool:
    """Whether half of different texts may be names, or more: by their form, or as they hold no word
    of medicine, technique or tables.

    >>> may_name_people(["Quandtmeyer", "normal"]), may_name_people(["Klebsiella", "Pneumocystis"])
    (True, False)
    """
    odd = sum(has_form_of_name(value) or _is_unknown(value) for value in values)
    return bool(values) and 2 * odd >= len(values)


def names_a_person(header: str) -> bool:
    """Whether the name of a column names a person: a forename and a surname, or a reader's surname.

    >>> [names_a_person(name) for name in ("score_schmidt_anna", "reader_meyer", "max_diameter")]
    [True, True, False]
    """
    words = {plain_word(part) for part in SEPARATORS.split(_apart(header))}
    beside = FORENAMES | READERS
    return any(words & beside - {surname} for surname in words & SURNAMES)


def _is_unknown(value: str) -> bool:
    """Whether a text is of words alone, all of which may be names."""
    if INITIALS.fullmatch(value):
        return True
    parts = [part for part in SEPARATORS.split(_apart(value)) if part]
    words = [part for part in parts if plain_word(part) not in PARTICLES | DEGREES | AND]
    if not 0 < len(words) <= MOST_WORDS or not all(map(WORD.fullmatch, words)):
        return False
    return not any(map(is_known, words))


def _apart(value: str) -> str:
    """Text without who signed it, with blanks in words such as `AnnaSample`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", SIGNED.sub("", value))


def has_form_of_name(value: str) -> bool:
    """Whether a text is two to four capitalised words, none of them a word of medicine or tables.

    >>> [has_form_of_name(x) for x in ("Ada Qort", "ADA QORT", "Pleural Effusion", "Ada", "T Wave")]
    [True, True, False, False, False]
    """
    if HAN_NAME.fullmatch(value):
        return True
    parts = [part for part in value.split() if plain_word(part) not in PARTICLES]
    words = [plain_word(part) for part in parts]
    if not 2 <= len(parts) <= MOST_WORDS or not all(map(LETTERS.fullmatch, parts)):
        return False
    if not all(part[0].isupper() for part in parts) or max(map(len, words)) < 3:
        return False
    # DWI ADC: short words in capitals are abbreviations.
    if value.isupper() and min(map(len, words)) < 4:
        return False
    return not any(map(is_common, words))


def _is_name(value: str) -> bool:
    """Whether a text has a known forename, or a known surname, beside another word of a name."""
    words = _words(value)
    if not 2 <= len(words) <= MOST_WORDS or not all(map(LETTERS.fullmatch, words)):
        return False
    others = set(words) - FORENAMES - SURNAMES
    if any(map(is_common, others)):
        return False
    # All words known, or the text written as a name is: `frank effusion` is none.
    known = [word for word in words if word in FORENAMES or word in SURNAMES]
    if not known or not others:
        return bool(known)
    # A user name, such as anna.sample: no word of it may be one of tables, as in Max_HU.
    if len(value.split()) == 1:
        return not any(map(is_known, others))
    return all(part[0].isupper() for part in value.split()[:1])


def _words(value: str) -> list[str]:
    """Words of a text without accents, particles and degrees, in lower case.

    >>> _words("anna.sample"), _words("AnnaSample"), _words("Sample|Anna")
    (['anna', 'sample'], ['anna', 'sample'], ['sample', 'anna'])
    """
    plain = [plain_word(part) for part in SEPARATORS.split(_apart(value)) if part]
    return [word for word in plain if word and word not in PARTICLES | DEGREES]
