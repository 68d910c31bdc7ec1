"""Whether a network file may hold attention, read from the text of its graph without PyTorch: for a panel's choices."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path

#: No graph is larger.
_MOST_BYTES = 200_000_000

_FUSED = b"scaled_dot_product_attention"
_SOFTMAX = (b"aten.softmax", b"aten._softmax", b"aten._safe_softmax")
_PRODUCTS = (b"aten.matmul", b"aten.bmm", b"aten.baddbmm", b"aten.einsum")


def may_have_attention(file: Path) -> bool:
    """Whether a ``.pt2`` file's graph has attention, or a softmax and products of matrices; False for other files.

    A choice to offer, not a finding: the method itself looks at the layers and refuses by name.
    """
    try:
        status = file.stat()
    except OSError:
        return False
    return file.suffix == ".pt2" and _read(file, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(file: Path, _written: int) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            graphs = [entry for entry in archive.infolist() if entry.filename.endswith("models/model.json")]
            if len(graphs) != 1 or graphs[0].file_size > _MOST_BYTES:
                return False
            text = archive.read(graphs[0])
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return False
    return _FUSED in text or (any(s in text for s in _SOFTMAX) and any(p in text for p in _PRODUCTS))
