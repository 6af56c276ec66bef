"""Which families are known, and which of them a model is of."""

from __future__ import annotations

from typing import Any

from torch import nn

from headsearch.errors import InputError, ModelError, UnknownFamilyError
from headsearch.heads import HeadMap
from headsearch.model.families.base import FAST_PATH, NARROW, Family, FastFamily
from headsearch.model.families.bert import BERT, ELECTRA, ROBERTA
from headsearch.model.families.deberta_v2 import DEBERTA_V2
from headsearch.model.families.distilbert import DISTILBERT
from headsearch.model.families.gpt2 import GPT2
from headsearch.model.families.llama import LLAMA
from headsearch.model.families.modernbert import MODERNBERT
from headsearch.model.families.mpnet import MPNET
from headsearch.model.families.separate import ALBERT, BART, DEIT, OPT, VIT
from headsearch.model.families.t5 import T5
from headsearch.task.readout import EXAMPLES, LABELS, SEQUENCES, TOKENS

# Those that headsearch brings along.
FAMILIES: tuple[Family, ...] = (
    BERT,
    ROBERTA,
    ELECTRA,
    DISTILBERT,
    MPNET,
    ALBERT,
    MODERNBERT,
    DEBERTA_V2,
    GPT2,
    OPT,
    LLAMA,
    BART,
    T5,
    VIT,
    DEIT,
)
# Models whose layers and classifiers the families above put together as transformers does.
FAST_TYPES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "mpnet",
)
# The names of classifiers on top of all of these.
CLASSIFIERS = ("classifier", "score", "classification_head", "cls_classifier")

# What else may be on top, by the ends of its classes' names.
TOPS = {("ForTokenClassification",): TOKENS, ("ForCausalLM", "LMHeadModel"): SEQUENCES}

# What has a classifier by one of these names, but not of whole inputs.
OTHER_TOPS = ("ForMultipleChoice", "ForQuestionAnswering")

_registered: list[Family] = []


def known_families() -> tuple[Family, ...]:
    """Return all families, those that were registered first."""
    return (*_registered, *FAMILIES)


def register_family(family: Family) -> None:
    """Make a model family of one's own known; it is asked before those that come with headsearch.

    Run `headsearch.testing.check_family` on it first: a gate at the wrong place looks like a head
    without effect. Ray's workers are other processes, so call this in the module that defines the
    family's class: they import that module before they use it.

    Args:
        family: see `headsearch.model.families.Family`, and `head_rows`, `take_outputs` and
            `take_inputs` there, which cut heads out of linear layers.

    Raises:
        InputError: it lacks a member of the protocol, its name is taken, or its limits are of
            things that every family must be able to do.
    """
    members = ("name", "covers", "note", "limits", "matches", "layers", "narrow")
    missing = [member for member in members if not hasattr(family, member)]
    if missing:
        raise InputError(f"a family must have {', '.join(members)} but lacks {', '.join(missing)}")
    if any(known.name == family.name for known in known_families()):
        raise InputError(f"a family's name must be new but {family.name!r} is known already")
    if not {FAST_PATH, NARROW}.issuperset(family.limits):
        raise InputError(
            f"a family's `limits` must be of {FAST_PATH!r} and {NARROW!r} alone but are of "
            f"{sorted(family.limits)}"
        )
    _registered.append(family)


def check_model(model: object) -> None:
    """Refuse what is no model at all.

    Raises:
        ModelError: it is no torch module.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"`model` must be a torch module but got {model!r:.80}")


def family_of(model: nn.Module) -> Family:
    """Return the family of a model, whatever it has on top.

    Raises:
        UnknownFamilyError: no known family matches the model's modules.
    """
    for family in known_families():
        if family.matches(model):
            return family
    known = ", ".join(name for family in known_families() for name in (family.name, *family.covers))
    raise UnknownFamilyError(
        f"{type(model).__name__} is of no known family; the known ones are {known}, "
        "each as a model with something on top, such as a sequence classification model; "
        "headsearch.register_family adds others"
    )


def fast_family_of(model: nn.Module) -> FastFamily | None:
    """Return the model's family if the fast path can score the model, or None.

    Only stock sequence classifiers: what others do with the last layer's output is not known here.
    """
    family = family_of(model)
    kind = type(model)
    stock = kind.__module__.startswith("transformers.") and kind.__name__.endswith(
        "ForSequenceClassification"
    )
    if FAST_PATH in family.limits or not stock:
        return None
    own: Any = model.config
    if family in FAMILIES and own.model_type not in FAST_TYPES:
        return None  # its layers look like those of the family, but the rest may be put otherwise
    if not isinstance(family, FastFamily):
        raise InputError(
            f"the family {family.name!r} lacks `embed`, `position_bias` or `classify`: it must "
            f"have them, or name {FAST_PATH!r} in its `limits`"
        )
    return family


def kind_of(model: nn.Module, padding: int | None = None) -> str:
    """Return what is scored one by one of a model's outputs, see `task.readout`.

    Args:
        model: the model.
        padding: what the tokenizer pads with, where that is known.

    Raises:
        UnknownFamilyError: it is of no known family.
        ModelError: it has nothing on top that is scored; or it reads the last token before the
            padding, but has no padding token, or another one than the tokenizer.
    """
    family_of(model)
    config: Any = model.config
    names = [kind.__name__ for kind in type(model).__mro__]
    for endings, kind in TOPS.items():
        if any(name.endswith(endings) for name in names):
            return kind
    other = any(name.endswith(OTHER_TOPS) for name in names)
    if other or not any(hasattr(model, name) for name in CLASSIFIERS):
        raise ModelError(
            f"{type(model).__name__} has no classification head: headsearch needs a model for "
            "sequence, token or image classification, or a causal language model"
        )
    own = getattr(config, "pad_token_id", None)  # which models of images do not have
    if hasattr(model, "score") and (own is None or padding not in (None, own)):
        wanted = "be set" if padding is None else f"be the tokenizer's, {padding},"
        raise ModelError(
            f"`config.pad_token_id` must {wanted} but is {own}: {type(model).__name__} classifies "
            "by the last token that is not padding"
        )
    several = getattr(config, "problem_type", None) == "multi_label_classification"
    return LABELS if several else EXAMPLES


def reads_images(model: nn.Module) -> bool:
    """Whether a model reads pixels in place of tokens."""
    return getattr(model, "main_input_name", None) == "pixel_values"


def image_channels(model: nn.Module) -> int:
    """Return how many channels the images have that the model reads: 3 where it does not say."""
    return int(getattr(model.config, "num_channels", 3))


def head_map(model: nn.Module) -> HeadMap:
    """Return how many heads each layer of the model has now."""
    return HeadMap(tuple(layer.heads for layer in family_of(model).layers(model)))


def least_first(model: nn.Module) -> list[list[int]]:
    """Return for each layer its heads in the order in which least goes with them.

    Where heads share keys and values, these go with the last head of a group: so the last ones come
    last. A family says by `groups(model, layer)` of every head which group it is in; where it has
    no such method, heads share nothing.
    """
    family, orders = family_of(model), list[list[int]]()
    for layer, heads in enumerate(head_map(model).heads_per_layer):
        order = list(range(heads))
        if heads and hasattr(family, "groups"):
            last = {group: head for head, group in enumerate(family.groups(model, layer))}
            order.sort(key=lambda head: head in last.values())
        orders.append(order)
    return orders


def share_keys(model: nn.Module) -> bool:
    """Whether heads share keys and values: what goes with one then depends on which others go."""
    family = family_of(model)
    if not hasattr(family, "groups"):
        return False
    counts = head_map(model).heads_per_layer
    return any(
        len(set(family.groups(model, layer))) < heads for layer, heads in enumerate(counts) if heads
    )


def vocabulary(model: nn.Module) -> int | None:
    """Return how many tokens the model has embeddings of; None where that can't be told."""
    whole: Any = model
    try:
        return int(whole.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):  # what reads pixels has none
        return None


def end_token(model: nn.Module) -> int | None:
    """Return the token of which all texts must have as many, as the model classifies by the last.

    BART's and T5's sequence classifiers do, and other encoders with decoders; None of all others.
    """
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False) and hasattr(model, "classification_head"):
        return config.eos_token_id if isinstance(config.eos_token_id, int) else None
    return None


def max_tokens(model: nn.Module) -> int | None:
    """Return the longest input that the model has positions for, in tokens; None if any is."""
    whole: Any = model
    most = getattr(whole.config, "max_position_embeddings", None)
    # T5 has relative positions alone, and DeBERTa may have.
    if most is None or not getattr(whole.config, "position_biased_input", True):
        return None
    embeddings = getattr(whole.base_model, "embeddings", None)
    # RoBERTa and MPNet number positions from behind the padding id on, and so have fewer.
    reserved = getattr(embeddings, "padding_idx", -1) + 1
    return int(most) - reserved
