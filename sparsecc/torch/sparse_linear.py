"""Linear layers with sparse weights as a torch operator, ``sparsecc::sparse_linear``.

On a GPU it is the launches of a form of ``backends/cuda/forms``; elsewhere torch multiplies by the
weight that the form holds, to test with.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsecc.backends.cuda.arguments import ALIGNMENT
from sparsecc.backends.cuda.forms.base import Packed, Product
from sparsecc.backends.cuda.forms.registry import FORMS
from sparsecc.backends.cuda.kernel import DTYPES, Arch
from sparsecc.backends.cuda.launch import arch_of, launch
from sparsecc.backends.cuda.recipe import Recipe, array_of, run, tensor_of
from sparsecc.errors import BackendError


class SparseLinear(nn.Module):  # type: ignore[misc]
    """``x Wᵀ + bias`` with the zeros of W neither stored nor read.

    For inference: there are no gradients.

    Args:
        weight: ``[outputs, inputs]``, float16 or bfloat16, pruned already: zeros are left out.
        bias: ``[outputs]``, or None.
        form: How the weight is kept, one of :data:`sparsecc.backends.cuda.forms.registry.FORMS`.

    Raises:
        BackendError: There is no such form, or the weight does not fit it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, form: str) -> None:
        super().__init__()
        if form not in FORMS:
            raise BackendError(f"no form {form!r} of weights", fix=f"use {', '.join(FORMS)}")
        if weight.dim() != 2 or not weight.numel():
            raise BackendError(
                f"a weight of {list(weight.shape)}", fix="give a matrix [outputs, inputs]"
            )
        dtype = _name(weight.dtype)
        packed = FORMS[form].pack(weight.detach().double().cpu().numpy(), dtype)
        self._keep(packed, dtype, bias)
        self.to(weight.device)

    @classmethod
    def of(cls, layer: nn.Linear, form: str) -> SparseLinear:
        """The same layer, its zeros left out.

        Raises:
            BackendError: As the class.
        """
        return cls(layer.weight, layer.bias, form=form)

    @classmethod
    def of_packed(
        cls, packed: Packed, dtype: torch.dtype, bias: Tensor | None = None
    ) -> SparseLinear:
        """A layer whose weight is packed already: of codes that were given, for example.

        Args:
            packed: As a form packs it.
            dtype: Of x.
            bias: ``[outputs]``, or None.

        Raises:
            BackendError: There are no kernels for the element type.
        """
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._keep(packed, _name(dtype), bias)
        return made

    def _keep(self, packed: Packed, dtype: str, bias: Tensor | None) -> None:
        self.dtype, self.form, self.shape = dtype, packed.form, [packed.rows, packed.columns]
        self.numbers = [packed.sizes[name] for name in FORMS[packed.form].sizes]
        for name, array in packed.arrays.items():
            self.register_buffer(name.lower(), tensor_of(array))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """``[..., outputs]`` of ``[..., inputs]``.

        Raises:
            BackendError: The input is of another type or width.
        """
        rows, columns = self.shape
        if x.shape[-1] != columns or _name(x.dtype) != self.dtype:
            raise BackendError(
                f"x {list(x.shape)} of {x.dtype}", fix=f"give [..., {columns}] of {self.dtype}"
            )
        arrays = [getattr(self, name.lower()) for name in FORMS[self.form].arrays]
        flat = x.reshape(-1, columns)
        y = sparse_linear(flat, arrays, self.form, self.shape, self.numbers)
        y = y.reshape(*x.shape[:-1], rows)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """What torch prints of it."""
        return f"{self.shape[1]}, {self.shape[0]}, form={self.form}, {self.dtype}"


def _name(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise BackendError(f"no kernels for {name}", fix=f"use {' or '.join(DTYPES)}")
    return name


@torch.library.custom_op("sparsecc::sparse_linear", mutates_args=())  # type: ignore[untyped-decorator]
def sparse_linear(
    x: Tensor, arrays: Sequence[Tensor], form: str, shape: Sequence[int], numbers: Sequence[int]
) -> Tensor:
    """``[tokens, outputs]`` of ``[tokens, inputs]``, multiplied by torch.

    Args:
        x: Of the values' type.
        arrays: Of the packed weight, as the form names them.
        form: Its name.
        shape: Outputs and inputs.
        numbers: Sizes of the packed weight, as the form names them.
    """
    ours = FORMS[form]
    every = {name: array_of(tensor) for name, tensor in zip(ours.arrays, arrays, strict=True)}
    sizes = dict(zip(ours.sizes, numbers, strict=True))
    weight = ours.unpack(Packed(form, shape[0], shape[1], every, sizes))
    return (x.float() @ torch.from_numpy(weight).to(x.device).T).to(x.dtype)


@sparse_linear.register_fake  # type: ignore[untyped-decorator]
def _fake(x: Tensor, arrays: object, form: str, shape: Sequence[int], _: object) -> Tensor:
    return x.new_empty(x.shape[0], shape[0])


@sparse_linear.register_kernel("cuda")  # type: ignore[untyped-decorator]
def _cuda(
    x: Tensor, arrays: Sequence[Tensor], form: str, shape: Sequence[int], numbers: Sequence[int]
) -> Tensor:
    ours = FORMS[form]
    out = x.new_empty(x.shape[0], shape[0])
    if not out.numel():
        return out
    given = (form, *shape, tuple(numbers), len(x), _name(x.dtype), arch_of(x.device))
    tensors = dict(zip(ours.arrays, arrays, strict=True))
    run(_recipe(*given), tensors | {"X": _whole(x), "Out": out}, launch)
    return out


def _whole(x: Tensor) -> Tensor:
    """The same numbers without gaps, where kernels can read 16 bytes at once."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % ALIGNMENT else x


@functools.lru_cache(maxsize=1024)
def _recipe(
    form: str,
    rows: int,
    columns: int,
    numbers: tuple[int, ...],
    tokens: int,
    dtype: str,
    arch: Arch,
) -> Recipe:
    """The launches of a product, made once for as many tokens."""
    sizes = dict(zip(FORMS[form].sizes, numbers, strict=True))
    return FORMS[form].recipe(Product(rows, columns, sizes, tokens, dtype, arch))
