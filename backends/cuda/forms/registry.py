"""Every form of sparse weights, by its name."""

from __future__ import annotations

from collections.abc import Mapping

from sparsecc.backends.cuda.forms.base import Form
from sparsecc.backends.cuda.forms.bitmap import BITMAP
from sparsecc.backends.cuda.forms.columns import COLUMNS

FORMS: Mapping[str, Form] = {form.name: form for form in (COLUMNS, BITMAP)}
