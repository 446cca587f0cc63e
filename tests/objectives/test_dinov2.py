"""`objective.recipe="dinov2"` beside DINOv2's own arithmetic in PyTorch, on the same tensors.

The reference is written after the paper (arXiv 2304.07193) and the released code. One choice is
ours: the heads' GELU is its approximation by a hyperbolic tangent, in both.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmv_jax.errors import UserError
from mmv_jax.models.sizes import make_encoder
from mmv_jax.objectives.recipes import RECIPES, with_recipe
from mmv_jax.objectives.table import make_terms, weights_of
from mmv_jax.objectives.term import STUDENT, TEACHER, Seen

STUDIES, GLOBALS, LOCALS, TOKENS, WIDTH = 5, 2, 3, 6, 64
CROPS = GLOBALS + LOCALS
TEMPERATURE, STUDENT_TEMPERATURE = 0.05, 0.1
SMALL = {"prototypes": 12, "hidden": 24, "bottleneck": 8}


@pytest.fixture(scope="module")
def tensors():
    """Features of `STUDIES` studies: CLS of all crops, and the tokens of the global ones."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    globals_ = STUDIES * GLOBALS
    masked = np.zeros((globals_, TOKENS), bool)
    # Half of the crops are masked, each in another share of its tokens.
    for n, crop in enumerate(range(0, globals_, 2)):
        masked[crop, : 1 + n % 4] = True
    return {
        "student_cls": draw(STUDIES, CROPS, WIDTH),
        "teacher_cls": draw(STUDIES, GLOBALS, WIDTH),
        "student_tokens": draw(globals_, TOKENS, WIDTH),
        "teacher_tokens": draw(globals_, TOKENS, WIDTH),
        "masked": masked,
    }


def in_rows(x) -> dict:
    """The tensors with the places of masked tokens, which are counted outside of a jit."""
    # Two places stay empty, as in most rows.
    places = [*np.flatnonzero(x["masked"].reshape(-1)), -1, -1]
    return x | {"places": np.array([places], np.int32)}


def seen_of(x, student_cls, student_tokens) -> Seen:
    """The same tensors as one packed row."""
    study = jnp.repeat(jnp.arange(STUDIES), CROPS)[None]
    is_global = jnp.tile(jnp.arange(CROPS) < GLOBALS, STUDIES)[None]
    teacher = jnp.zeros((STUDIES, CROPS, WIDTH)).at[:, :GLOBALS].set(x["teacher_cls"])
    index = x["places"]
    ids = jnp.repeat(jnp.arange(STUDIES * GLOBALS) + 1, TOKENS)[None]
    return Seen(
        batch={"study": study, "masked_index": index, "is_global": is_global},
        prefix=(ids,) * 4,  # only the last one, the segment ids, is read
        tokens={
            TEACHER: jnp.asarray(x["teacher_tokens"]).reshape(1, -1, WIDTH),
            STUDENT: student_tokens.reshape(1, -1, WIDTH),
        },
        blocks={},
        cls={
            TEACHER: teacher.reshape(1, -1, WIDTH),
            STUDENT: student_cls.reshape(1, -1, WIDTH),
        },
        is_global=is_global,
        temperature=jnp.float32(TEMPERATURE),
        key=jax.random.key(0),
    )


@pytest.fixture(scope="module")
def parts(tensors):
    encoder = make_encoder("nano", (2, 4, 4), registers=1)
    group = with_recipe({"recipe": "dinov2", **SMALL})
    terms, weights = make_terms(encoder, group), weights_of(group)

    @jax.jit
    def init(tensors):
        seen = seen_of(tensors, tensors["student_cls"], tensors["student_tokens"])
        return {
            of: {
                term.module: term.init(jax.random.key(7 * n + m), seen)
                for m, term in enumerate(terms.values())
                if term.module
            }
            for n, of in enumerate(("student", "teacher"))
        }

    return terms, weights, init(in_rows(tensors))


def ours(tensors, parts):
    terms, weights, heads = parts

    def loss(student, cls, tokens):
        seen = seen_of(jax.tree.map(jnp.asarray, in_rows(tensors)), cls, tokens)
        each = {
            name: term.loss(student, heads["teacher"], replace(seen))[0]
            for name, term in terms.items()
        }
        return sum(weights[name] * value for name, value in each.items()), each

    given = (heads["student"], tensors["student_cls"], tensors["student_tokens"])
    given = jax.tree.map(jnp.asarray, given)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*given)


def reference(tensors, heads):
    """The loss of DINOv2, its terms, and the gradients that `ours` has."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x = {name: torch.tensor(value) for name, value in tensors.items()}
    of = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), heads)
    leaves = [x["student_cls"], x["student_tokens"], *jax.tree.leaves(of["student"])]
    for leaf in leaves:
        leaf.requires_grad_(True)

    def scores(head, features):
        for name in ("first", "second"):
            features = features @ head[name]["kernel"] + head[name]["bias"]
            features = F.gelu(features, approximate="tanh")
        features = features @ head["bottleneck"]["kernel"] + head["bottleneck"]["bias"]
        # A linear layer with weight norm, whose lengths are fixed to 1.
        return F.normalize(features, dim=-1) @ F.normalize(head["prototypes"], dim=-1).T

    @torch.no_grad()
    def balanced(logits):
        q = torch.exp(logits / TEMPERATURE).T  # [K, N]
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / len(q)
            q = q / q.sum(0, keepdim=True) / q.shape[1]
        return (q * q.shape[1]).T

    def log_p(logits):
        return F.log_softmax(logits / STUDENT_TEMPERATURE, dim=-1)

    taught = balanced(scores(of["teacher"]["dino_head"], x["teacher_cls"].flatten(0, 1)))
    taught = taught.reshape(STUDIES, GLOBALS, -1)
    said = log_p(scores(of["student"]["dino_head"], x["student_cls"]))
    local = sum(
        -(taught[:, t] * said[:, s]).sum(-1).mean()
        for s in range(GLOBALS, CROPS)
        for t in range(GLOBALS)
    )
    crossed = sum(-(taught[:, t] * said[:, 1 - t]).sum(-1).mean() for t in range(GLOBALS))
    dino = (local + crossed) / (LOCALS * GLOBALS + (GLOBALS - 1) * GLOBALS)

    where = x["masked"]
    targets = balanced(scores(of["teacher"]["ibot_head"], x["teacher_tokens"][where]))
    predicted = log_p(scores(of["student"]["ibot_head"], x["student_tokens"][where]))
    share = (1 / where.sum(-1).clamp(min=1)).unsqueeze(-1).expand(where.shape)[where]
    ibot = -((targets * predicted).sum(-1) * share).sum() / len(where)

    def spread(features):
        unit = F.normalize(features, dim=-1)
        with torch.no_grad():
            cosines = (unit @ unit.T).fill_diagonal_(-1)
        distance = F.pairwise_distance(unit, unit[cosines.argmax(1)], eps=1e-8)
        return -torch.log(distance + 1e-8).mean()

    koleo = sum(spread(x["student_cls"][:, n]) for n in range(GLOBALS))
    total = 1.0 * dino + 1.0 * ibot + 0.1 * koleo
    total.backward()
    grads = [leaf.grad.numpy() for leaf in leaves]
    return total.item(), {"dino": dino.item(), "ibot": ibot.item(), "koleo": koleo.item()}, grads


def test_losses_and_gradients_are_those_of_dinov2(tensors, parts):
    (total, each), (heads, cls, tokens) = ours(tensors, parts)
    wanted, terms, grads = reference(tensors, parts[2])
    for name, value in terms.items():
        np.testing.assert_allclose(each[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    for found, expected in zip([cls, tokens, *jax.tree.leaves(heads)], grads, strict=True):
        assert np.abs(expected).max() > 1e-6
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), rtol=1e-3)


def test_the_default_weighs_ibot_twice_and_koleo_half(tensors, parts):
    terms, _, heads = parts
    others = {"ibot": {"ibot_over": "masked"}, "koleo": {"koleo_by_crop": False}}

    @jax.jit
    def ratios(heads, tensors):
        seen = seen_of(tensors, tensors["student_cls"], tensors["student_tokens"])
        found = []
        for name, options in others.items():
            plain, other = (
                term.loss(heads["student"], heads["teacher"], seen)[0]
                for term in (terms[name], replace(terms[name], **options))
            )
            found.append(other / plain)
        return found

    ibot, koleo = ratios(heads, in_rows(tensors))
    # Half of the crops have masked tokens.
    np.testing.assert_allclose(ibot, 2.0, rtol=1e-5)
    # Neighbours are looked for among all crops, so the factor is not exactly a half.
    assert 0.4 < float(koleo) < 0.7


def test_a_value_of_the_config_comes_before_the_recipes():
    assert with_recipe({"recipe": "dinov2", "koleo": 0.0}) == {**RECIPES["dinov2"], "koleo": 0.0}
    assert with_recipe({"mae": 1.0}) == {"mae": 1.0}
    with pytest.raises(UserError, match="Did you mean dinov2"):
        with_recipe({"recipe": "dinov22"})
    with pytest.raises(UserError, match="ibot_over is 'all'. Use 'masked' or 'global'"):
        make_terms(make_encoder("nano", (2, 4, 4)), {"ibot": 1.0, "ibot_over": "all"})
