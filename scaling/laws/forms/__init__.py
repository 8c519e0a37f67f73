"""The laws that can be fitted."""

from scaling.laws.forms.additive import power_law
from scaling.laws.forms.custom import form
from scaling.laws.forms.form import Form
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.precision import precision_equivalent
from scaling.laws.forms.registry import FORMS, choices, get_form
from scaling.laws.forms.routed import dense_equivalent

__all__ = [
    "FORMS",
    "Form",
    "Parameter",
    "Power",
    "choices",
    "dense_equivalent",
    "form",
    "get_form",
    "power_law",
    "precision_equivalent",
]
