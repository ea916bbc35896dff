"""JAX on TPU, GPU or CPU. Models run through `jaxconv.models`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from jaxconv.backends import Classifier, DeviceMesh, check_dtype
from jaxconv.checkpoint import Array, Checkpoint
from jaxconv.errors import BackendUnavailable, SourceError, UsageError
from jaxconv.json_files import JsonObject
from jaxconv.pictures import PictureArrays, missing_packages

if TYPE_CHECKING:
    import jax

PACKAGES = ("jax",)
MODEL_PACKAGES = ("jax", "flax")


def unsupported(config: JsonObject) -> str | None:
    """Why the decoder of `jaxconv.models` does not run a config; None if it does.

    Raises:
        SourceError: The config lacks numbers, or has values of a wrong type.
    """
    from jaxconv.models.config import decoder_config

    try:
        decoder_config(config)
    except UsageError as error:
        return str(error)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SourceError(
            f"config.json has values of a wrong type or size ({type(error).__name__}: {error}). Download it again."
        ) from error
    return None


def pictures_unsupported(config: JsonObject) -> str | None:
    """Why pictures are not scored with `config`; None if they are."""
    from jaxconv.models.vision.config import vision_unsupported

    return vision_unsupported(config) or missing_packages()


class JaxBackend:
    """One JAX device. Arithmetic runs operation by operation, so that nothing fuses into an FMA."""

    name = "jax"
    unsupported = staticmethod(unsupported)

    def __init__(self, device: jax.Device) -> None:
        self._device = device
        self.device: str = device.platform

    def put(self, x: Array) -> jax.Array:
        """Copies the float32 host array `x` to the device."""
        import jax

        array: jax.Array = jax.device_put(x, self._device)
        return array

    def subtract(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """x - y, elementwise."""
        import jax.numpy as jnp

        return jnp.subtract(x, y)

    def multiply(self, x: jax.Array, scale: float) -> jax.Array:
        """`x` times the float32 scalar `scale`."""
        import jax.numpy as jnp
        import numpy as np

        return jnp.multiply(x, self.put(np.full((1,), scale, np.float32)))

    def get(self, x: jax.Array) -> Array:
        """Copies the device array `x` to the host."""
        import jax
        import numpy as np

        return np.asarray(jax.device_get(x))

    def classifier(self, directory: Path, *, dtype: str = "float32", mesh: DeviceMesh | None = None) -> Classifier:
        """Loads the classifier in `directory` with a backbone of `dtype`, sharded over `mesh` if there is one."""
        from jax.sharding import Mesh

        from jaxconv.models.head import JaxClassifier

        check_dtype(dtype)
        if dtype == "float16" and self.device == "cpu":
            raise UsageError("JAX does not run float16 models on the CPU; use bfloat16, float32 or --backend torch.")
        if mesh is not None and not isinstance(mesh, Mesh):
            raise UsageError(f"mesh is a {type(mesh).__name__}; expected a jax.sharding.Mesh.")
        return JaxClassifier(directory, self._device, dtype, mesh)

    def hidden_states(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        pictures: Sequence[PictureArrays] = (),
    ) -> Array:
        """The decoder's hidden states for `token_ids`, with their `pictures`, from `checkpoint` and its `config`."""
        from jaxconv.models.loading import load_decoder

        decoder = load_decoder(checkpoint, config, dtype="float32", device=self._device)
        if not any(pictures):
            return decoder.hidden_last(token_ids)
        from jaxconv.models.vision.prompts import load_tower, pictured_hidden_last

        return pictured_hidden_last(decoder, load_tower(checkpoint, config, decoder, "float32"), token_ids, pictures)

    def causal_logits(
        self,
        checkpoint: Checkpoint,
        config: JsonObject,
        token_ids: Sequence[Sequence[int]],
        answers: Sequence[int],
        pictures: Sequence[PictureArrays] = (),
    ) -> NoReturn:
        """Raises `BackendUnavailable` whatever `checkpoint`, `config`, `token_ids`, `answers` and `pictures` are."""
        raise BackendUnavailable("backend 'jax' has no causal LM heads; use --backend torch, or hidden_states.")


def open_backend(device: str) -> JaxBackend:
    """The backend on JAX's default device, or on the first local device of a platform."""
    import jax

    return JaxBackend(jax.local_devices(backend=None if device == "auto" else device)[0])
