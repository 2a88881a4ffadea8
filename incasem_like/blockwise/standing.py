"""Connections to existing Dask clusters: a lab's own, Kubernetes, a cloud."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import incasem_like
from incasem_like.blockwise.cluster import Cluster
from incasem_like.errors import InputError

from distributed import Client  # isort: skip  # cluster.py has to set up its logging before

SECONDS_TO_CONNECT = 20.0


@contextlib.contextmanager
def standing_cluster(address: str, dashboard: bool) -> Iterator[Cluster]:
    """Connect to a cluster for the duration of a ``with`` block; other clients may use it too.

    Args:
        address: Address of its scheduler, such as ``tcp://10.0.0.5:8786``. Certificates for ``tls://`` come from the
            user's Dask configuration.
        dashboard: Whether to report the address of its pages.

    Raises:
        InputError: It cannot be reached, or its workers cannot run this package's blocks.
    """
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The Dask cluster {address} cannot be reached ({' '.join(str(error).split()) or type(error).__name__}): "
            "correct the address, or for tls:// the certificates in Dask's configuration."
        ) from error
    with client:
        _check_versions(client, address)
        cluster = Cluster(client)
        if dashboard:
            cluster.dashboard = str(client.dashboard_link or "")
        yield cluster


def _check_versions(client: Client, address: str) -> None:
    """Compare the workers' versions of Python, distributed and this package with those here.

    Raises:
        InputError: A version differs, or this package is missing there.
    """
    here = {"python": _minor(platform.python_version()), "incasem-like": incasem_like.__version__}
    here["distributed"] = client.get_versions()["client"]["packages"]["distributed"]
    for worker, about in client.run(versions, on_error="return").items():
        if isinstance(about, Exception):
            raise InputError(
                f"The worker {worker} of the Dask cluster {address} cannot import incasem_like ({about}): install "
                f"incasem-like {incasem_like.__version__} there."
            )
        for name, version in here.items():
            if about[name] != version:
                raise InputError(
                    f"The worker {worker} of the Dask cluster {address} has {name} {about[name]}, but here is "
                    f"{version}: install the same version on both sides."
                )


def versions() -> Mapping[str, Any]:
    """Return the versions that a worker has; called on the worker."""
    import distributed

    python, package = _minor(platform.python_version()), incasem_like.__version__
    return {"python": python, "incasem-like": package, "distributed": distributed.__version__}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
