"""The evaluation of pairs: from encoders and a store to figures, their differences and a page.

Writes `metrics.json`, `comparisons.json`, `protocol.json` and the page. Only this file sees the
config.
"""

from pathlib import Path

from ml_collections import ConfigDict

from mmv_jax.config import to_dict
from mmv_jax.errors import UserError
from mmv_jax.evaluate.pairs.compared import compare_ways, pairs_to_compare
from mmv_jax.evaluate.pairs.encode import (
    PIXELS,
    Way,
    features_of,
    load_ways,
    pixel_features,
    studies_apart,
)
from mmv_jax.evaluate.pairs.find import find_pairs, odd_pairs, read_factors
from mmv_jax.evaluate.pairs.maps import map_sections
from mmv_jax.evaluate.pairs.measure import PairFigures, measure_pairs, over_seeds
from mmv_jax.evaluate.pairs.page import PairFindings, as_comparisons, as_metrics, write_pairs_page
from mmv_jax.files import write_json
from mmv_jax.plugins import resolve_plugins
from mmv_jax.provenance import provenance, refuse_others, write_metrics
from mmv_jax.report.about import About
from mmv_jax.report.progress import say
from mmv_jax.result_folder import clear_results
from mmv_jax.store.read import Store


def evaluate_pairs(config: ConfigDict, checkpoint: Path | None, workdir: Path) -> str:
    """Measure what encoders make of two modalities of the same patients.

    Of a store without pairs, only how well the modality can be told is measured, and the page says
    why the rest is not possible.

    Args:
      checkpoint: a run, or released weights; None where `config.encoders` names all.
      workdir: for the results, and for the features, so that a stopped evaluation resumes.
    Returns:
      The differences as text, and the path of the report.
    Raises:
      UserError: the config does not fit the store or the checkpoints.
    """
    resolve_plugins(config)
    names = _modalities(config)
    store = Store.open(config.data.store)
    about = About.of(config.get("about") or {})
    pairs = find_pairs(store.index, names)
    notices = list(odd_pairs(store.index, pairs))
    for notice in notices:
        say(notice)
    ways = load_ways(config, checkpoint, names)
    # Before anything is encoded: one folder must not mix the results of two checkpoints.
    origin = getattr(ways[0].fits[0][0], "origin", {})
    refuse_others(workdir, origin.get("digest"), "--workdir")
    folder = workdir / "features"
    factors, compared, sections = [], [], []
    if pairs.why_none:
        found = {way.name: _apart(way, store, names, folder) for way in ways}
    else:
        factors = read_factors(store.index, pairs, config.factors.to_dict())
        # All are encoded first, so that a checkpoint that is missing is told before any analysis.
        features = {
            way.name: [features_of(fit, store, pairs, folder) for fit in way.fits] for way in ways
        }
        features[PIXELS] = [pixel_features(store, pairs)]
        found = {
            name: [measure_pairs(one, pairs.split, names, factors) for one in own]
            for name, own in features.items()
        }
        asked = pairs_to_compare(config.get("compare", ()), list(found))
        compared = compare_ways(found, asked)
        sections = map_sections(ways[0], store, pairs)
    # Of several encoders the record names the first; the config names all.
    record = provenance(
        "mmv evaluate", config=to_dict(config), weights=origin or None, data=store.provenance()
    )
    findings = PairFindings(
        pairs=pairs,
        factors=factors,
        merged={name: over_seeds(fits) for name, fits in found.items()},
        compared=compared,
        maps=sections,
        record=record,
        about=about,
        notices=notices,
    )
    clear_results(workdir)
    write_json(workdir / "comparisons.json", as_comparisons(compared))
    said = write_pairs_page(workdir, findings, store)
    write_metrics(workdir, as_metrics(findings.merged), record)
    return said


def _modalities(config: ConfigDict) -> tuple[str, str]:
    names = tuple(config.pairs)
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"config.pairs is {names!r}: name two modalities, such as ('CXR', 'CT').")
    return str(names[0]), str(names[1])


def _apart(way: Way, store: Store, names: tuple[str, str], folder: Path) -> list[PairFigures]:
    """How well the modality can be told, of all studies of both; empty for twins."""
    return [
        studies_apart(first, store, names, folder) if first is second else {}
        for first, second in way.fits
    ]
