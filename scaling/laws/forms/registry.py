"""The laws by name."""

from scaling.errors import UserError
from scaling.laws.forms.additive import chinchilla, chinchilla_equal, chinchilla_no_offset, power_law
from scaling.laws.forms.downstream import accuracy_of_nll, nll_of_flops
from scaling.laws.forms.form import Form
from scaling.laws.forms.granular import krajewski
from scaling.laws.forms.precision import kumar, kumar_ptq, kumar_uniform, kumar_weights
from scaling.laws.forms.reward import gao_bon, gao_rl
from scaling.laws.forms.routed import clark, clark_bilinear
from scaling.laws.forms.sparse import frantar
from scaling.laws.forms.transfer import hernandez
from scaling.laws.forms.vocabulary import tao, tao_equal

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        chinchilla,
        chinchilla_equal,
        chinchilla_no_offset,
        *(power_law(column, offset) for column in ("N", "D", "C") for offset in (True, False)),
        clark,
        clark_bilinear,
        krajewski,
        frantar,
        tao,
        tao_equal,
        kumar,
        kumar_weights,
        kumar_uniform,
        kumar_ptq,
        hernandez,
        gao_bon,
        gao_rl,
        nll_of_flops,
        accuracy_of_nll,
    )
}


def get_form(form: str | Form) -> Form:
    """The form of that name. Raises UserError with the names that there are."""
    if isinstance(form, Form):
        return form
    if form not in FORMS:
        raise UserError(f"no law {form!r}; there are {', '.join(FORMS)}")
    return FORMS[form]
