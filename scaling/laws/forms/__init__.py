"""The laws that can be fitted."""

from scaling.laws.forms.additive import power_law
from scaling.laws.forms.form import Form
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.registry import FORMS, choices, get_form

__all__ = ["FORMS", "Form", "Parameter", "Power", "choices", "get_form", "power_law"]
