"""One sweep in many processes, on many GPUs or machines: through submitit on Slurm, or through Ray."""

from typing import TYPE_CHECKING

from notice_lens._lazy import lazy

if TYPE_CHECKING:
    from notice_lens.cluster.handle import ClusterRun
    from notice_lens.cluster.submission import submit

_HOMES = {"ClusterRun": "notice_lens.cluster.handle", "submit": "notice_lens.cluster.submission"}
__all__ = ["ClusterRun", "submit"]
__getattr__, __dir__ = lazy(__name__, _HOMES)
