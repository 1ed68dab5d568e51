"""Every form of weights, by its name."""

from __future__ import annotations

from collections.abc import Mapping

from sparsecc.backends.cuda.forms.base import Form
from sparsecc.backends.cuda.forms.bitmap import BITMAP
from sparsecc.backends.cuda.forms.codes4 import CODES4
from sparsecc.backends.cuda.forms.columns import COLUMNS
from sparsecc.backends.cuda.forms.dense import DENSE
from sparsecc.backends.cuda.forms.groups import GROUP_FORM
from sparsecc.backends.cuda.forms.two_of_four import TWO_OF_FOUR

FORMS: Mapping[str, Form] = {
    form.name: form for form in (COLUMNS, BITMAP, TWO_OF_FOUR, GROUP_FORM, CODES4, DENSE)
}
