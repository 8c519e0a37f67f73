"""The laws by name."""

import copyreg
from dataclasses import fields
from typing import Any

from scaling.errors import UserError
from scaling.laws.forms.activated import abnar, hunyuan, ling
from scaling.laws.forms.additive import chinchilla, chinchilla_equal, chinchilla_no_offset, power_law
from scaling.laws.forms.broken import bnsl
from scaling.laws.forms.context import chinchilla_context, chinchilla_context_optimum, context, context_optimum
from scaling.laws.forms.downstream import accuracy_of_nll, error_of_loss, nll_of_flops
from scaling.laws.forms.farseer import farseer
from scaling.laws.forms.feed import Feed
from scaling.laws.forms.form import Form
from scaling.laws.forms.granular import krajewski, krajewski_dense
from scaling.laws.forms.interaction import interaction
from scaling.laws.forms.joint import ludziejewski
from scaling.laws.forms.kaplan import kaplan_C, kaplan_D, kaplan_N, kaplan_ND, kaplan_NS
from scaling.laws.forms.overtraining import gadre, gadre_downstream
from scaling.laws.forms.pooled import pooled
from scaling.laws.forms.precision import kumar, kumar_uniform, kumar_weights
from scaling.laws.forms.quantized import kumar_ptq, kumar_ptq_trained
from scaling.laws.forms.repeated import data_constrained
from scaling.laws.forms.reward import gao_bon, gao_rl
from scaling.laws.forms.routed import clark, clark_bilinear
from scaling.laws.forms.sparse import frantar
from scaling.laws.forms.transfer import hernandez
from scaling.laws.forms.vocabulary import tao, tao_equal
from scaling.names import meant

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        chinchilla,
        chinchilla_equal,
        chinchilla_no_offset,
        interaction,
        *(power_law(column, offset) for column in ("N", "D", "C") for offset in (True, False)),
        kaplan_N,
        kaplan_D,
        kaplan_C,
        kaplan_ND,
        kaplan_NS,
        gadre,
        gadre_downstream,
        data_constrained,
        context,
        chinchilla_context,
        context_optimum,
        chinchilla_context_optimum,
        *(bnsl(breaks) for breaks in (1, 2, 3)),
        farseer,
        clark,
        clark_bilinear,
        krajewski,
        krajewski_dense,
        ludziejewski,
        abnar,
        ling,
        hunyuan,
        frantar,
        tao,
        tao_equal,
        kumar,
        kumar_weights,
        kumar_uniform,
        kumar_ptq,
        kumar_ptq_trained,
        hernandez,
        gao_bon,
        gao_rl,
        nll_of_flops,
        accuracy_of_nll,
        error_of_loss,
    )
}


def _reduced(form: Form) -> Any:
    """How a law is pickled: of these by name, of several groups by its parts; others, such as the user's own, are
    made again there, which for a function without a name needs cloudpickle."""
    known = FORMS.get(form.name)
    facts = [field.name for field in fields(Form) if not callable(getattr(form, field.name))]
    if known is not None and all(getattr(known, name) == getattr(form, name) for name in facts):
        return get_form, (form.name,)
    if form.pooling is not None:
        return pooled, (form.pooling.base, form.pooling.groups, form.pooling.shared)
    return (form.again, ()) if form.again is not None else form.__reduce_ex__(4)


copyreg.pickle(Form, _reduced)


def choices() -> list[Feed]:
    """What some law reads that is chosen once for all runs of the others, such as the context."""
    read = {form.feed(column) for form in FORMS.values() for column in form.columns}
    return sorted((feed for feed in read if feed.choice), key=lambda feed: feed.column)


def get_form(form: str | Form) -> Form:
    """The form of that name. Raises UserError with the names that are near it, or else all that there are."""
    if isinstance(form, Form):
        return form
    if not isinstance(form, str):
        raise UserError(f"a law is a name or a laws.Form, such as of laws.form(…); got {type(form).__name__}")
    if form not in FORMS:
        several = any(name.startswith(form) for name in FORMS)
        hint = meant(form, {name: law.source for name, law in FORMS.items()}, most=3 if several else 1)
        known = f"{hint} (`scaling fit --list`)" if hint else f"there are {', '.join(FORMS)}"
        raise UserError(f"no law {form!r}; {known}")
    return FORMS[form]
