"""Bundles that come while the service runs, as they may come."""

from pathlib import Path

from service.moderation.arrival import Arrival
from tamis.bundle import MANIFEST, BundleError


async def test_one_whose_manifest_was_copied_first_is_loaded_when_it_is_whole(tmp_path: Path):
    arrival, tries = Arrival(tmp_path, "the bundle"), list[Path]()

    async def take(path: Path) -> None:
        tries.append(path)
        if not (path / "model.onnx").exists():
            raise BundleError("model.onnx is missing")

    await arrival.look(take)
    assert (arrival.state, tries) == ("absent", [])
    (tmp_path / MANIFEST).write_text("{}")
    for _ in range(3):
        await arrival.look(take)
        assert (arrival.state, arrival.failure) == ("failed", "model.onnx is missing")
    # Once is enough where nothing has changed.
    assert len(tries) == 1
    (tmp_path / "model.onnx").write_text("a graph")
    await arrival.look(take)
    assert (arrival.state, arrival.failure) == ("ready", None)
    # What serves is what its manifest says, whatever else is written beside it.
    (tmp_path / "notes.txt").write_text("more")
    await arrival.look(take)
    assert len(tries) == 2
