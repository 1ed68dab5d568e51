"""What a library may be called: functions in C, files, and packages of apps begin with it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sparsecc.errors import PlanError
from sparsecc.targets import Target
from sparsecc.targets.base import Triple

NAME = "model"
"""What a library is called that nobody names."""

_SHAPE = re.compile(r"(?!sc_)[A-Za-z][A-Za-z0-9_]{0,31}")
_JAVA = """
abstract assert boolean break byte case catch char class const continue default do double else enum
extends false final finally float for goto if implements import instanceof int interface long native
new null package private protected public return short static strictfp super switch synchronized
this throw throws transient true try void volatile while
"""
_KOTLIN = "as fun in is object typealias typeof val var when"
_SWIFT = """
as associatedtype break case catch class continue default defer deinit do else enum extension
fallthrough false fileprivate for func guard if import in init inout internal is let nil operator
precedencegroup private protocol public repeat rethrows return self Self static struct subscript
super switch throw throws true try typealias var where while Any Dispatch Foundation Model Port
Swift Tensor
"""
RESERVED: Mapping[Triple, frozenset[str]] = {
    "aarch64-linux-android": frozenset(f"{_JAVA} {_KOTLIN}".split()),
    "aarch64-ios.13.0": frozenset(_SWIFT.split()),
}
"""Words that are no name of a package in Java and Kotlin, or of a module in Swift."""


def check_name(name: str, target: Target) -> str:
    """The name of a library, if it can be one.

    Raises:
        PlanError: No identifier begins with it, or the language of the target's apps has that word.
    """
    if not _SHAPE.fullmatch(name):
        raise PlanError(
            f"{name!r} cannot be the name of a library: functions begin with it",
            fix="use letters, digits and _, a letter first, at most 32 of them, not sc_ first",
        )
    if name in RESERVED.get(target.triple, ()):
        raise PlanError(
            f"{name!r} cannot be the name of a library for {target.name}: it is a word of the "
            "language that apps call it from",
            fix="give it another name",
        )
    return name


__all__ = ["NAME", "RESERVED", "check_name"]
