"""Models of the IR in torch: an interpreter with gradients. Needs the extra ``torch``."""

try:
    import torch as _torch  # noqa: F401 - only to say clearly that it is missing
except ImportError as error:
    from sparsecc.errors import ModelError

    raise ModelError(
        "sparsecc.torch needs torch, which is not installed",
        fix="pip install 'sparsecc[torch]'",
    ) from error

from sparsecc.torch.interpreter import Interpreter

__all__ = ["Interpreter"]
