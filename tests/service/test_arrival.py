"""Bundles that come while the service runs, as they may come."""

from pathlib import Path

from service.moderation.arrival import Arrival
from tamis.bundle import MANIFEST, BundleError
from tamis.tiers import BANDS


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


async def test_bands_that_are_chosen_anew_for_the_same_bundle_are_loaded(tmp_path: Path):
    arrival, bands = Arrival(tmp_path, "the bundle"), list[str]()

    async def take(path: Path) -> None:
        bands.append((path / BANDS).read_text())

    (tmp_path / MANIFEST).write_text("{}")
    for chosen in ("old", "new", "newer"):
        (tmp_path / "unfinished").write_text(chosen)
        (tmp_path / "unfinished").replace(tmp_path / BANDS)
        for _ in range(2):
            await arrival.look(take)
    assert bands == ["old", "new", "newer"]
