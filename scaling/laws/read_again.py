"""The runs of a saved fit, read again from the records that they came from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from scaling.laws.forms import Form
from scaling.laws.pooled import pool
from scaling.laws.records import from_results
from scaling.laws.table.recipe import allowed_by
from scaling.laws.table.results import GROUPED, TOLD, WHERE
from scaling.laws.table.runs import Runs

if TYPE_CHECKING:
    import pandas as pd


def read_again(df: "pd.DataFrame", form: Form, conventions: Mapping[str, str]) -> Runs:
    """The runs of a table, read in the same way as those of a fit of `form` with these conventions: the fit is of
    these runs if the hashes agree. Raises UserError as `from_results` does."""
    law = form.pooling.base if form.pooling else form
    own = [letter for letter in law.columns if letter not in TOLD]
    named = {letter: conventions[letter] for letter in own if letter in conventions}
    where = [conventions[WHERE]] if WHERE in conventions else []
    group = conventions.get(GROUPED)
    runs = from_results(df, where=where, law=law, allow=allowed_by(conventions), columns=named, group=group)
    return pool(runs, law, group, form.pooling.shared)[0] if form.pooling and group else runs
