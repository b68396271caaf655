"""Clusters of a class's maps: what takes part and what does not, and a planted mark that comes out as a cluster of its own."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from jobs import explain, reduce, sql, train
from pipeline import tables
from pipeline.datasets.creatures import draw
from pipeline.maps.quantise import quantise
from pipeline.reduce import spectral
from pipeline.reduce.analyses import ANALYSES
from pipeline.reduce.analyses.rows import Rows
from pipeline.tables import schema
from pipeline.train.job import Training
from tests.jobs import job
from tests.reduce.blobs import blobs
from tests.shards import encoded, tar_bytes

clusters = ANALYSES["clusters"].function


def found(folder, maps, labels, order=None, **settings) -> list[dict]:
    """The rows of `clusters` for maps [N h w] with the labels [N], as the tables would hold them in an order."""
    levels, low, high = quantise(np.asarray(maps, np.float32))
    about = {"model": "m", "target": "label", "height": levels.shape[1], "width": levels.shape[2], "render": "bilinear"}
    numbers = zip(levels, low, high, strict=True)
    rows = [
        {**about, "image_id": f"i{i:04}", "map": grid.ravel(), "map_min": least, "map_max": most}
        for i, (grid, least, most) in enumerate(numbers)
    ]
    images = [{"image_id": f"i{i:04}", "label": label} for i, label in enumerate(labels)]
    order = range(len(rows)) if order is None else order
    read = {}
    for name, content in {"images": images, "maps": rows}.items():
        path = f"{name}/method=a/part.parquet"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        columns = pa.schema([field for field in getattr(schema, name.upper()) if field.name != "method"])
        pq.write_table(pa.Table.from_pylist([content[i] for i in order], columns), folder / path)
        read[name] = Rows(name, [({"path": path}, str(folder / path))])
    return pa.Table.from_pylist([*clusters(**read, **settings)], schema.ANALYSES["clusters"]).to_pylist()


def test_a_class_has_the_clusters_of_its_own_maps_alone(tmp_path):
    maps, kind = blobs((16, 14), spread=0.03)
    others = blobs((0, 0, 30), seed=1, spread=0.03)[0]
    rows = found(tmp_path, [*maps, *others], [3] * 30 + [5] * 30)
    assert [(row["class_id"], row["cluster"], row["n"], row["class_images"], row["left_out"]) for row in rows if row["class_id"] == 3] == [
        (3, 0, 16, 30, 0),
        (3, 1, 14, 30, 0),
    ]
    own = [row for row in rows if row["class_id"] == 3]
    for row, of_kind in zip(own, (0, 1), strict=True):
        assert [member["image_id"] for member in row["members"]] == [f"i{i:04}" for i in np.flatnonzero(kind == of_kind)]
        assert row["share"] == row["n"] / 30 and {*row["exemplars"]} <= {member["image_id"] for member in row["members"]}
        assert row["method"] == "a" and len(row["exemplars"]) == 5 and row["eigengap"] > 0 and len(row["eigenvalues"]) == 9
        assert np.isclose(row["suspicion"], np.mean([member["outlier"] for member in row["members"]]))
        assert np.isclose(row["distance"], np.mean([member["distance"] for member in row["members"]]))
        assert np.isclose(row["suspicion"], (1 - row["share"]) * row["separation"] * row["distance"])
        drawn = np.reshape(row["map"], (7, 7)) / 255 * (row["map_max"] - row["map_min"]) + row["map_min"]
        np.testing.assert_allclose(drawn, np.mean([(m - m.min()) / np.ptp(m) for m in maps[kind == of_kind]], 0), atol=1 / 255)


def test_neither_the_order_of_rows_nor_a_map_s_scale_moves_a_number(tmp_path):
    maps, _ = blobs((20, 25), spread=0.1)
    labels = [1] * 45
    expected = found(tmp_path / "a", maps, labels)
    order = np.random.default_rng(0).permutation(45)
    assert found(tmp_path / "b", maps, labels, order) == expected
    scaled = found(tmp_path / "c", maps * 2.0 ** np.arange(-22, 23)[:, None, None], labels)
    assert scaled == expected


def test_what_cannot_take_part_is_counted(tmp_path):
    maps, _ = blobs((12,))
    maps = [*maps, *np.ones((3, 7, 7)), *np.zeros((2, 7, 7)), maps[0]]
    rows = found(tmp_path, maps, [0] * 12 + [0] * 3 + [1] * 2 + [None], most_images=10)
    assert {(row["class_id"], row["class_images"], row["left_out"]) for row in rows} == {(0, 10, 2 + 3), (1, 0, 2)}
    assert sum(row["n"] for row in rows) == 10 and rows[-1]["cluster"] is None
    names = {member["image_id"] for row in rows for member in row["members"] or ()}
    fewer = found(tmp_path, maps, [0] * 12 + [0] * 3 + [1] * 2 + [None], most_images=6)
    assert {member["image_id"] for row in fewer for member in row["members"] or ()} < names, "the hash of an image's name draws it"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_or_equal_images_are_one_cluster(tmp_path, count):
    maps, _ = blobs((5,))
    for chosen in (maps[:count], np.repeat(maps[:1], count, 0)):
        [row] = found(tmp_path, chosen, [0] * count)
        assert (row["n"], row["share"], row["separation"], row["suspicion"], row["distance"]) == (count, 1, None, None, None)
        assert len(row["exemplars"]) == count and all(np.isfinite(member["x"]) for member in row["members"])


def test_maps_of_any_grid_are_brought_to_one(tmp_path):
    maps, _ = blobs((12, 12), spread=0.03)
    coarse = found(tmp_path / "a", maps, [0] * 24)
    fine = found(tmp_path / "b", np.kron(maps, np.ones((4, 4))), [0] * 24)
    for row, same in zip(coarse, fine, strict=True):
        assert row["members"] == [pytest.approx(member, abs=1e-6) for member in same["members"]] and row["map"] == same["map"]


# A planted artefact

SIDE, EACH, LABELS = 64, 45, (0, 5, 9)


def creature(index: int, marked: bool) -> dict[str, bytes]:
    """A sample of one of three creatures, small, and marked by a square in its upper left corner."""
    label = index % 3
    drawn = Image.fromarray(draw(10, LABELS[label], index).image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.array(drawn)
    if marked:
        pixels[2:14, 2:14] = (255, 0, 255)
    return {"png": encoded(Image.fromarray(pixels)), "cls": str(label).encode()}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A network trained on creatures, a third of the first class with a mark in the corner; explained by one CAM. The marked images' keys."""
    folder = tmp_path_factory.mktemp("planted")
    marked = {f"i{index:03}" for index in range(0, 3 * EACH, 9)}
    (folder / "a.tar").write_bytes(tar_bytes([(f"i{i:03}", creature(i, f"i{i:03}" in marked)) for i in range(3 * EACH)]))
    recipe = {"epochs": 20, "batch_size": 16, "lr": (0.003,), "optimiser": "adamw", "schedule": "cycle", "weight_decay": 0.05}
    recipe |= {"head_lr_factor": 1.0, "val_share": 0, "image_size": SIDE, "classes": "3", "backbone": "timm/test_resnet"}
    places = {"source": (f"{folder}/a.tar",), "out": f"{folder}/net", "cache": f"{folder}/cache"}
    train.run(Training(**places, **recipe, backbone_args=("pretrained=false", "norm_layer=groupnorm1")))
    network = {"backbone": f"train/{folder}/net/checkpoint.safetensors", "image_size": None, "task_images": 50}
    explain.run(job(f"{folder}/a.tar", folder / "atlas", **network, methods=("grad_cam",), targets=("label",)))
    assert reduce.main(["--out", f"{folder}/atlas", "--analyses", "cluster_members"]) == 0
    return folder / "atlas", marked


def test_a_planted_mark_is_a_cluster_of_its_own_and_its_images_are_the_outliers(planted):
    """Of 12 trainings on other creatures, with other seeds, 10 to 30 epochs and 45 or 60 images a class, all had a cluster with all marked images
    but one at most, in one case with 3 of 40 others in it. The area under the ROC curve of the outlier score was 0.93 at least, and 1 in nine.
    """
    out, marked = planted
    run = tables.open(str(out))
    members = run.sql("SELECT key, cluster, outlier FROM cluster_members JOIN images USING (image_id) WHERE class_id = 0").to_pylist()
    assert len(members) == EACH
    is_marked = np.array([row["key"] in marked for row in members])
    cluster = np.array([row["cluster"] for row in members])
    assert is_marked.sum() == EACH / 3
    own = np.bincount(cluster[is_marked]).argmax()
    assert (cluster[is_marked] == own).mean() >= 0.8, "recall"
    assert is_marked[cluster == own].mean() >= 0.75, "purity"
    assert roc_auc_score(is_marked, [row["outlier"] for row in members]) >= 0.85


def test_the_planted_cluster_is_the_most_suspicious_of_all_classes(planted, tmp_path):
    out, marked = planted
    assert sql.main(["--out", str(out), "--query", "suspicious", "--format", "parquet", "--to", str(tmp_path / "a.parquet")]) == 0
    first = pq.read_table(tmp_path / "a.parquet").to_pylist()[0]
    assert first["class_id"] == 0 and first["share_low"] < 1 / 3 < first["share_high"]
    keys = tables.open(str(out)).sql("SELECT image_id, key FROM images").to_pylist()
    key_of = {row["image_id"]: row["key"] for row in keys}
    assert {key_of[name] for name in first["exemplars"]} <= marked


def test_the_members_are_those_of_the_clusters(planted):
    run = tables.open(str(planted[0]))
    nested = run.sql("SELECT class_id, cluster, unnest(members) AS m FROM clusters").to_pylist()
    flat = run.sql("SELECT * FROM cluster_members").to_pylist()
    expected = {(row["class_id"], row["cluster"], *row["m"].values()) for row in nested}
    assert {(row["class_id"], row["cluster"], *(row[name] for name in nested[0]["m"])) for row in flat} == expected
    assert len(flat) == run.sql("SELECT sum(n) AS n FROM clusters").to_pylist()[0]["n"] == len(expected)


def test_the_plane_is_that_of_the_stored_maps(planted):
    run = tables.open(str(planted[0]))
    query = "SELECT maps.*, x, y FROM maps JOIN cluster_members c USING (image_id) WHERE c.class_id = 0 ORDER BY image_id"
    rows = run.sql(query).to_pylist()
    unit = np.array([np.reshape(row["map"], (row["height"], row["width"])) for row in rows]) / 255
    plane = spectral.plane(spectral.directions(spectral.on_grid(unit, 7)))
    np.testing.assert_allclose([(row["x"], row["y"]) for row in rows], plane, atol=1e-5)
