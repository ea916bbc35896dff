"""The cluster that this process runs in, where JAX knows it: TPU pods, Slurm, Open MPI, Kubernetes."""

from __future__ import annotations

from jaxconv.errors import BackendUnavailable, UsageError

SECONDS = 120


def find_cluster() -> tuple[str, int, int]:
    """Coordinator (HOST:PORT), number of processes and own number, as `jax.distributed.initialize()` finds them.

    Raises `UsageError` where there is no such cluster, `BackendUnavailable` without JAX.
    """
    try:
        # What initialize() asks first; it has no public name of its own, and initialize() would do more (see links).
        from jax._src.clusters import ClusterEnv
    except ImportError as error:
        raise BackendUnavailable(
            "--distributed finds the processes of a pod through jax, which is not installed. Install it with: "
            "pip install 'jaxconv[jax]'; or pass --coordinator HOST:PORT --num-processes N --process-id I."
        ) from error
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, SECONDS)
    except Exception as error:  # every kind of cluster has a finder with errors of its own
        raise UsageError(
            f"--distributed cannot tell the processes of this cluster: {type(error).__name__}: {error}. "
            "Pass --coordinator HOST:PORT --num-processes N --process-id I."
        ) from error
    coordinator, size, rank, _ = found
    if coordinator is None or size is None or rank is None:
        raise UsageError(
            "--distributed found no TPU pod, Slurm, Open MPI or Kubernetes job around this process. "
            "Pass --coordinator HOST:PORT --num-processes N --process-id I, with another number on every host."
        )
    return coordinator, size, rank
