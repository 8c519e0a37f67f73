"""The laws by name."""

from scaling.errors import UserError
from scaling.laws.forms.additive import chinchilla, chinchilla_equal, chinchilla_no_offset, power_law
from scaling.laws.forms.form import Form

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        chinchilla,
        chinchilla_equal,
        chinchilla_no_offset,
        *(power_law(column, offset) for column in ("N", "D", "C") for offset in (True, False)),
    )
}


def get_form(form: str | Form) -> Form:
    """The form of that name. Raises UserError with the names that there are."""
    if isinstance(form, Form):
        return form
    if form not in FORMS:
        raise UserError(f"no law {form!r}; there are {', '.join(FORMS)}")
    return FORMS[form]
