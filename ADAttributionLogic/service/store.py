"""What the worker keeps between requests: the last network, how fast it is, and trials that are under way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ADAttributionLogic.networks.packages import Model
    from ADAttributionLogic.whatif.session import Session


class Store:
    """Keeps the last model, and what was measured of it, between requests."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: Model | None = None
        self._pass_seconds: dict[str, float] = {}
        self._session: Session | None = None
        self._sessions = 0

    def model(self, name: str) -> Model:
        """The model of this name or path, loaded again only when its files have changed."""
        from ADAttributionLogic.networks.loading import load_model

        key = (name, *_stamps(name))
        if self._model is None or key != self._key:
            self.forget()
            self._model, self._key = load_model(name), key
        return self._model

    def seconds_per_pass(self, name: str, device: str) -> float:
        """Seconds of one forward pass of a model, measured once."""
        from ADAttributionLogic.device import choose_device
        from ADAttributionLogic.service.estimate import seconds_per_pass

        model, place = self.model(name), choose_device(device)
        if str(place) not in self._pass_seconds:
            self._pass_seconds[str(place)] = seconds_per_pass(model, place)
        return self._pass_seconds[str(place)]

    def keep_session(self, session: Session) -> int:
        """Keep trials on a scan under way until something else is asked, and return their number."""
        self._session, self._sessions = session, self._sessions + 1
        return self._sessions

    def session(self, number: Any) -> Session | None:
        """The trials of this number, if they are still under way."""
        return self._session if number == self._sessions else None

    def release_session(self) -> None:
        """End the trials, and free their memory."""
        self._session = None

    def forget(self) -> None:
        """Free the memory."""
        self.release_session()
        self._model, self._key, self._pass_seconds = None, None, {}


def _stamps(name: str) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a model's files, by which a change is seen without reading them."""
    from ADAttributionLogic.resources import resources_folder

    path = Path(name)
    if not path.exists():
        path = resources_folder() / "Models" / name
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.is_file() else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file())
