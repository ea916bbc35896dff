"""Detects the cluster that this process runs in, as JAX does: TPU pods, Slurm, Open MPI, Kubernetes."""

from __future__ import annotations

from jaxconv.errors import BackendUnavailable, UsageError

SECONDS = 120  # that a cluster may take to answer


def find_cluster() -> tuple[str, int, int]:
    """Finds what `jax.distributed.initialize()` would find.

    Returns:
        The coordinator (HOST:PORT), the number of processes, and the number of this process.

    Raises:
        BackendUnavailable: JAX is not installed.
        UsageError: There is no such cluster.
    """
    try:
        # What initialize() asks first. It has no public name, and initialize() does more than that (see links).
        from jax._src.clusters import ClusterEnv
    except ImportError as error:
        raise BackendUnavailable(
            "--distributed detects the processes of a pod with jax, which is not installed. Install it with: "
            "pip install 'jaxconv[jax]'; or pass --coordinator HOST:PORT --num-processes N --process-id I."
        ) from error
    try:
        detected = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, SECONDS)
    except Exception as error:  # each kind of cluster raises errors of its own
        raise UsageError(
            f"--distributed cannot detect the processes of this cluster: {type(error).__name__}: {error}. "
            "Pass --coordinator HOST:PORT --num-processes N --process-id I."
        ) from error
    coordinator, size, rank, _ = detected
    if coordinator is None or size is None or rank is None:
        raise UsageError(
            "--distributed found no TPU pod, Slurm, Open MPI or Kubernetes job around this process. "
            "Pass --coordinator HOST:PORT --num-processes N --process-id I, with a different number on every host."
        )
    return coordinator, size, rank
