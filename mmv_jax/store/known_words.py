"""Words that are no names of people: those of findings, techniques, devices and tables.

Most come from the concepts of DICOM that pydicom ships (PS3.16, with terms of SNOMED); the list
below adds what they lack.
"""

import re
import unicodedata
from functools import cache

# Words of findings, anatomy, techniques, devices, places of work, and of tables.
WORDS_OF_OTHERS = """
    no not none normal abnormal finding findings other unknown unclear uncertain present absent
    left right both upper lower middle inner outer anterior posterior lateral frontal medial
    central peripheral proximal distal superior inferior apical basal bilateral unilateral
    single multiple few many small large mild moderate severe low high very more less most least
    early late acute chronic old new recent stable better worse positive negative suspicious
    likely unlikely possible probable definite certain complete partial full total half first
    second third fourth pre post before after lung lungs heart chest thorax breast abdomen
    pelvis head neck brain skull spine cord hip knee ankle foot hand wrist elbow shoulder arm
    leg rib ribs bone bones muscle skin fat liver spleen kidney kidneys bladder bowel colon
    rectum stomach pancreas gallbladder duct aorta artery arteries vein veins vessel vessels
    valve node nodes gland prostate uterus ovary thyroid lobe lobes segment zone field fields
    wall apex base hilum pleura mediastinum diaphragm trachea airway airways tooth teeth jaw eye
    ear nose sinus throat tongue face body whole matter grey gray white black blood marrow soft
    hard dense fluid water air gas ground glass opacity opacities mass masses lesion lesions
    nodule nodules tumor tumour cancer cyst cysts abscess fracture fractures effusion edema
    oedema collapse device devices support tube tubes line lines catheter pacemaker stent clip
    wire implant screw plate nail foreign object artifact artefact motion blur noise quality
    good poor fair excellent bad ok image images scan view views study series slice slices phase
    arterial venous portal delayed native contrast enhanced plain window filter kernel sharp
    smooth standard high-resolution dose protocol screening diagnostic follow up followup
    baseline visit routine emergency urgent elective inpatient outpatient patient male female
    woman man adult child infant young elderly site center centre clinic hospital unit ward
    department university medical healthcare health systems system imaging care group class type
    grade stage score category level rank index code value size shape round oval irregular
    regular spiculated lobulated circumscribed microlobulated obscured indistinct solid subsolid
    cystic mixed calcified benign malignant invasive in situ primary secondary head-first feet
    supine prone erect standing sitting upright lying decubitus oblique axial coronal sagittal
    american indian asian african hispanic latino hawaiian pacific islander european caucasian
    arab north south east west never former current smoker daily weekly rarely often disease
    syndrome injury bleed stroke test control case true false yes train reader readers rater
    raters annotator annotators expert experts consensus session batch version model one two
    three four five six seven eight nine ten alpha beta gamma delta siemens philips canon
    toshiba hitachi fujifilm fuji agfa carestream kodak konica samsung hologic varian shimadzu
    esaote united ge somatom magnetom ingenia discovery brilliance aquilion revolution
    lightspeed convolution detector portable mobile film digital computed direct radiography
    covid corona virus bacterial viral fungal community acquired hospital-acquired aspiration
    smoking low-dose high-dose free tissue wave edge loss gain weight height top bottom side
    back front lidc idri nih mimic chexpert padchest vindr rsna siim cbis ddsm nlst deeplesion
    tcia elastix totalsegmentator segmentator medmnist vtk rad chestmnist adni oasis ukbb
"""
COMMON_WORDS = frozenset(WORDS_OF_OTHERS.split())
# Endings of adjectives and diagnoses, which names rarely have.
MEDICAL_ENDING = re.compile(
    r"\w{2}(osis|oses|itis|oma|omas|emia|aemia|pathy|plasia|trophy|megaly|ectasis|ectomy|ostomy|scopy"
    r"|graphy|gram|tomy|tion|tions|sion|ness|ment|ity|ous|ular|ural|ical|onic|atic|etic|otic|cyte"
    r"|algia|uria|rrhage|thorax|ening|ated|ened|ing|ed|cardium|cardial|cardiac|pleural|aortic"
    r"|pulmonary|thoracic|less|like|able|ible|scan|view)s?$"
)
MORE_WORDS = """
    pneumocystis streptococcus staphylococcus legionella klebsiella haemophilus pseudomonas
    mycoplasma chlamydophila chlamydia nocardia aspergillus aspergillosis candida cryptococcus
    influenza varicella herpes tuberculosis mycobacterium measles sars mers omicron wuhan lipoid
    jirovecii pneumoniae aureus hodgkin wilson paget kaposi burkitt crohn graves marfan ehlers
    danlos alzheimer parkinson huntington down turner klinefelter cushing addison hashimoto
    sjogren wegener ewing wilms bowen barrett meckel castleman erdheim chester langerhans
    consolidation infiltrate hernia atelectasis emphysema pneumothorax cardiomegaly effusion
    pleomorphic amorphous punctate coarse linear branching scattered dense fatty extremely
    heterogeneously equivocal inadequate adequate nondiagnostic latent healthy sick dead alive
    deceased died lost blurry crisp noisy clean dirty corrupt usable unusable excluded included
    missing complete incomplete pending done open closed ready draft final checked unchecked
    verified approved rejected accepted flagged skipped holdout dev training validation testing
    internal external public private derived original copy synthetic phantom real fake generated
    augmented single married widowed divorced separated spouse employed retired student medicare
    medicaid insured uninsured selfpay english spanish french german italian portuguese russian
    chinese japanese korean hindi turkish polish dutch swedish arabic christian muslim catholic
    smoker nonsmoker drinker vegan vegetarian obese overweight underweight slim tall short thin
    thick red green blue yellow orange purple violet brown pink cyan magenta dark bright light
    monday tuesday wednesday thursday friday saturday sunday morning afternoon evening night
    cisplatin carboplatin paclitaxel docetaxel gemcitabine chemotherapy radiotherapy surgery
    immunotherapy placebo aspirin heparin insulin metformin steroid antibiotic vaccine vaccinated
    unvaccinated boosted somatom sensation emotion definition perspective drive edge force
    aquilion lightspeed brightspeed optima revolution discovery brilliance ingenuity iqon
    spectral incisive naeotom biograph gemini vereos vision skyra prisma aera avanto verio espree
    achieva ingenia intera signa symphony harmony selenia dimensions senographe mammomat inspiration
    lorad neusoft mindray lightning imaging radiology chexpert padchest mimic nih rsna vindr embed
    inbreast luna deeplesion kaggle zenodo tcia totalsegmentator elastix brats kits lits amos
    merlin inspect blockchain pneumonia covid cheese banana apple cat dog foo bar baz qux todo tbd
    links rechts beidseits mannlich weiblich divers ja nein normal unauffallig auffallig
    pathologisch gutartig bosartig unklar erguss infiltrat stauung rundherd links oben unten
    vorne hinten mittel leicht schwer maessig massig keine kein frau mann kind nativ spat fruh
    arteriell venos portalvenos thorax abdomen becken kopf lunge leber niere milz herz knochen
    gauche droite bilateral homme femme oui non normale anormal anormale benin malin leger modere
    severe absente aucun aucune poumon foie rein coeur izquierda derecha izquierdo derecho hombre
    mujer masculino femenino si derrame neumonia benigno maligno ninguno leve grave pulmon higado
    destro sinistro destra sinistra maschio femmina uomo donna polmone fegato normale benigna
    maligna versamento polmonite direita esquerda sim nao masculino feminino pulmao figado
    rheumatoid psoriatic college school
    vrouw rechter linker rechterlong goedaardig kwaadaardig vanster hoger ja nej kvinna lewa prawa
    tak nie kobieta mezczyzna evet hayir kadin erkek sag sol akciger
"""
# of other scripts: sexes, sides, yes and no, normal, positive, negative, benign, malignant
WORDS_OF_OTHER_SCRIPTS = """
    男 女 男性 女性 左 右 左侧 右侧 是 否 有 无 無 正常 异常 異常 阳性 阴性 陽性 陰性 良性 恶性 悪性
    未知 不明 左肺 右肺 なし あり いいえ はい 남 여 남성 여성 남자 여자 정상 비정상 양성 음성 악성
    예 아니오 좌 우 да нет норма патология муж жен мужской женский мужчина женщина левый правый
    слева справа ναι οχι ذكر أنثى نعم لا طبيعي पुरुष महिला हाँ नहीं ชาย หญิง זכר נקבה כן לא
"""
OTHER_SCRIPTS = frozenset(WORDS_OF_OTHER_SCRIPTS.split())
FEWEST_LETTERS = 4  # of a word that may be a surname; shorter ones are mostly abbreviations
ABBREVIATION = 5  # letters of a word in capitals that is probably none
DRUG = re.compile(r"\w{3}(mab|nib|platin|cillin|statin|pril|sartan|olol|azole|mycin|cycline|vir)$")


def is_common(word: str) -> bool:
    """Whether a word is one of medicine, technique or tables, and so of no name."""
    return plain_word(word) in COMMON_WORDS or bool(MEDICAL_ENDING.search(plain_word(word)))


def is_known(word: str) -> bool:
    """Whether a word is one of medicine, technique or tables, in any of some languages.

    >>> is_known("Pneumocystis"), is_known("Quandtmeyer"), is_known("ARDS"), is_known("男")
    (True, False, True, True)
    """
    if word in OTHER_SCRIPTS:
        return True
    plain = plain_word(word)
    letters = sum("a" <= letter <= "z" for letter in plain)
    if word.isupper() and len(word) <= ABBREVIATION or 0 < letters < FEWEST_LETTERS:
        return True
    if is_common(word) or DRUG.search(plain):
        return True
    return any(form in _concepts() for form in (plain, plain.removesuffix("s")))


@cache
def _concepts() -> frozenset[str]:
    """Words of the list above, and of DICOM's concepts and attributes."""
    # Imported late: only tables with words that are in no list need it, and it takes 0.8 s.
    from pydicom.datadict import DicomDictionary
    from pydicom.sr.codedict import codes

    texts = [entry[4] for entry in DicomDictionary.values()]
    texts += [word for scheme in codes.schemes() for word in getattr(codes, scheme).dir()]
    # RightUpperLobe has three words.
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]{2,}", " ".join(texts))}
    return frozenset(words | set(MORE_WORDS.split()))


def plain_word(word: str) -> str:
    """Word in lower case, without accents, apostrophes and a point behind it."""
    text = unicodedata.normalize("NFKD", word.replace("ß", "ss")).casefold()
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return text.strip(".").replace("'", "").replace("’", "")
