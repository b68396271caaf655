"""A batch of images -> rows: what an actor runs on a cluster and what a notebook calls.

N images of a task, B of a chunk, C classes
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter

import numpy as np
import pyarrow as pa
import torch

from pipeline import backbones, engine
from pipeline.classes.attributes import correlation
from pipeline.classes.pairs import partners, parts_of
from pipeline.engine import costs
from pipeline.engine.batch import Batch, explain_targets, target_names
from pipeline.engine.forward import run_forward
from pipeline.engine.perturbed import ScoredMaps, clean_probs, perturb
from pipeline.families import Undefined
from pipeline.maps.quantise import quantise, rounded, summaries
from pipeline.maps.render import reduce
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import one_line
from pipeline.score.partials import add_score, group_of
from pipeline.score.scoring import Score, score_map
from pipeline.score.views import MapView, PairView
from pipeline.sources import Problem
from pipeline.sources.images import DecodedImages
from pipeline.spec.columns import columns_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.spec.select import selected
from pipeline.tables import schema
from pipeline.tables.identity import seed_of
from pipeline.targets import TARGETS
from pipeline.targets.registry import Directions, Predictions
from pipeline.targets.rivals import rivals

log = logging.getLogger(__name__)
CHUNK = {"cpu": 32, "cuda": 256}  # images of a batch: on a GPU as many as there are rows in its passes, see engine.budget
PER_TARGET = ("optimised", "path")  # families that pay for every target; others look once for all of them


@dataclass
class Answer:
    """Rows and errors of one cell, or what its metric counts by target and scope, growing chunk by chunk."""

    columns: dict[str, list] = field(default_factory=dict)
    errors: list[dict] = field(default_factory=list)
    sums: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)

    def add(self, **columns) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)

    def fail(self, row: Mapping, stage: str, error: Exception | str, message: str) -> None:
        kind = error if isinstance(error, str) else type(error).__name__
        self.errors.append(Problem(row["image_id"], row.get("shard"), stage, kind, message).to_row())


class NotStored(Exception):
    """The run has no map of this image."""


class Explainer:
    """A backbone on a device with the questions it answers; holds no state between calls."""

    def __init__(self, backbone: backbones.Backbone, spec: ExplainSpec, device: str = "cpu", batch_size: int | None = None):
        self.device = torch.device(device)
        self.backbone, self.spec = backbone.to(device), spec
        self.batch_size = batch_size or CHUNK.get(self.device.type, CHUNK["cpu"])
        self._schemas = {
            "images": schema.IMAGES,
            "features": schema.features(backbone.feature_width),
            "predictions": schema.predictions(backbone.num_classes, "logits" not in spec.no_store),
            "maps": schema.MAPS,
            "attributes": schema.ATTRIBUTES,
            "scores": schema.SCORES,
            "partials": schema.PARTIALS,
        }

    def __call__(
        self, pictures: DecodedImages, wanted: Sequence[Output], tally: Counter | None = None
    ) -> list[tuple[Output, pa.Table, pa.Table]]:
        """Each wanted cell with its rows and its errors. What they cost in passes is added to `tally`, as in `Scene.tally`."""
        tally = Counter() if tally is None else tally
        answers = {cell: Answer() for cell in wanted}
        for cell in wanted:
            if cell.table == "images":
                answers[cell].errors += pictures.errors
                for row in pictures.rows:
                    answers[cell].add(**{name: [row.get(name)] for name in schema.IMAGES.names})
        if any(cell.table != "images" for cell in wanted):
            for start in range(0, len(pictures), self.batch_size):
                self._chunk(pictures[start : start + self.batch_size], answers, tally)
        return [(cell, self._table(cell, answer), pa.Table.from_pylist(answer.errors, schema.ERRORS)) for cell, answer in answers.items()]

    def _chunk(self, pictures: DecodedImages, answers: Mapping[Output, Answer], tally: Counter) -> None:
        """One trunk pass for every cell. A batch that fails is halved, until it fits into memory or only the culprit is lost."""
        try:
            self._answer(pictures, answers, tally)
            return
        except Exception as error:
            if len(pictures) == 1:
                for cell in (c for c in answers if c.table != "images"):
                    answers[cell].fail(pictures.rows[0], "predict", error, one_line(error))
                return
            log.warning("a batch of %d failed (%s); trying its halves", len(pictures), one_line(error))
        # only now: the exception held on to what the batch had allocated
        for half in pictures.halves():
            self._chunk(half, answers, tally)

    def _answer(self, pictures: DecodedImages, answers: Mapping[Output, Answer], tally: Counter) -> None:
        wanted = [cell for cell in answers if cell.method]
        scene, said = self._scene(pictures, wanted, tally)
        finite = scene.forward.logits.isfinite().all(1).cpu().numpy()
        predictions = self._predictions(said, scene)
        chosen = finite & self._selected(pictures, predictions)
        # A map is computed once for its own cell and all of its metrics, also where one of these is all that is missing.
        maps = {}
        for method, of, stored in sorted(dict.fromkeys((cell.method, cell.target, cell.stored) for cell in wanted), key=itemgetter(2)):
            for name in target_names(of, scene):
                about = method, of, name, scene, pictures
                computed = maps.get((method, name, False))
                maps[method, name, stored] = self._as_stored(*about, computed) if stored else self._maps(*about)
        scores = self._scores(wanted, maps, pictures, said, chosen, scene)
        kept = cache(lambda method, name: self._stored(method, maps[method, name, False]))
        # Nothing is added before everything above is computed: a chunk that fails leaves no half of itself behind.
        for cell, answer in answers.items():
            if cell.table in ("features", "predictions"):
                self._add_rows(cell, answer, pictures, finite, scene.forward.feature if cell.table == "features" else predictions)
            elif cell.table == "maps":
                for name in target_names(cell.target, scene):
                    self._add_maps(cell, answer, pictures, chosen, kept(cell.method, name), name, scene.targets[scene.names.index(name)])
            elif cell.table == "attributes":
                of = {name: kept(cell.method, name) for name in target_names(cell.target, scene)}
                self._add_attributes(cell, answer, pictures, chosen, of)
            elif cell.metric and METRICS[cell.metric.name].of_pairs:
                self._add_contrasts(cell, answer, pictures, scores[cell])
            elif cell.metric:
                self._add_scores(cell, answer, pictures, scores[cell], scene.targets[scene.names.index(cell.target.alias)])

    def _scene(self, pictures: DecodedImages, wanted: Sequence[Output], tally: Counter) -> tuple[Batch, Predictions]:
        """One look at a batch with the targets of all wanted maps."""
        with costs.timed(tally, "look"):
            pixels = torch.tensor(pictures.pixels, device=self.device)
            seen = run_forward(self.backbone, self.backbone.prepare(pixels), self.spec.precision)
        tally["look", "forwards"] += len(pixels)
        labels = torch.tensor([-1 if row["label"] is None else row["label"] for row in pictures.rows], device=self.device)
        classes = seen.logits[:, : self.backbone.num_classes]
        said = Predictions(classes, labels, self.backbone.class_weights, self.backbone.phrases)
        targets = dict.fromkeys(cell.target for cell in wanted)
        explained = {name: each for target in targets for name, each in explain_targets(target, said).items()}

        def seeds(name: str) -> list[int]:
            drawn_for = zip(pictures.rows, pictures.digests, strict=True)
            return [seed_of(self.spec.seed, name, row["key"], image) for row, image in drawn_for]

        how = self.spec.activation, self.spec.precision, self.spec.seed
        return Batch(seen, tuple(explained.values()), pixels, seeds, *how, tuple(explained), tally), said

    def _maps(self, method: Choice, of: Choice, name: str, scene: Batch, pictures: DecodedImages) -> list[np.ndarray | Exception]:
        """The maps of one method about what a target explains under one name.

        Where the method raises, the batch is halved; what fails on one image is its exception.
        """
        place, cell = scene.names.index(name), Output("maps", "", method, of)
        asked = [i for i, own in enumerate(scene.targets[place].class_id.tolist()) if own >= 0]
        if TARGETS[of.name].compared and METHODS[method.name].family in PER_TARGET and len(asked) < len(pictures):
            # Few classes ask for as many maps as the one that asks for most: the others' images are not explained for nothing.
            some = pictures.at(asked)
            each = iter(self._maps(method, of, name, self._scene(some, [cell], scene.tally)[0], some) if asked else ())
            return [next(each) if i in asked else Undefined("not asked for") for i in range(len(pictures))]
        try:
            with costs.timed(scene.tally, method.alias):
                return list(engine.maps(method, scene, place).float().cpu().numpy())
        except Exception as error:
            if len(pictures) == 1:
                return [error.with_traceback(None)]
        halves = ((half, self._scene(half, [cell], scene.tally)[0]) for half in pictures.halves())
        return [each for half, part in halves for each in self._maps(method, of, name, part, half)]

    def _stored(self, method: Choice, maps: list[np.ndarray | Exception]) -> list[np.ndarray | Exception]:
        """Maps as the tables keep them: those of pixels averaged down."""
        if METHODS[method.name].grid != "pixels":
            return maps
        side = self.spec.map_size
        return [each if isinstance(each, Exception) else reduce(torch.from_numpy(each)[None], side)[0].numpy() for each in maps]

    def _as_stored(
        self, method: Choice, of: Choice, name: str, scene: Batch, pictures: DecodedImages, computed: list | None
    ) -> list[np.ndarray | Exception]:
        """The same maps as the tables keep them: those at hand, or else computed and rounded in the same way."""
        if (method.alias, of.alias) in pictures.maps:
            kept = pictures.maps.get((method.alias, name), {})
            return [kept.get(row["image_id"], NotStored()) for row in pictures.rows]
        return [
            each if isinstance(each, Exception) or not np.isfinite(each).all() else rounded(each)
            for each in self._stored(method, computed or self._maps(method, of, name, scene, pictures))
        ]

    def _scores(
        self, wanted: Sequence[Output], maps: Mapping, pictures: DecodedImages, said: Predictions, chosen: np.ndarray, scene: Batch
    ) -> dict:
        """Each wanted metric of each map, Score by the image's place; metrics of one map share what they ask for."""
        predicted = said.predicted.tolist()
        asked = [cell for cell in wanted if cell.metric]
        network = self.backbone.num_classes and any(METRICS[cell.metric.name].needs_network for cell in asked)
        classes = _judged(said) if network else None
        as_is = clean_probs(scene, classes) if network else [None] * len(pictures)
        drawn, told, scores = {}, {}, {}

        def draw(method: Choice, name: str, stored: bool, i: int) -> MapView | None:
            missing = scene.targets[scene.names.index(name)].missing[i]
            shown = METHODS[method.name].render(method.args), self.backbone.image_size, pictures.rows[i], predicted[i], as_is[i]
            return MapView(maps[method, name, stored][i], *shown) if chosen[i] and not missing else None

        for cell in asked:
            method, target, stored = of = cell.method, cell.target, cell.stored
            if METRICS[cell.metric.name].of_pairs:
                names = target_names(target, scene)
                each = ({name: draw(method, name, stored, i) for name in names} for i in range(len(pictures)))
                with costs.timed(scene.tally, cell.metric.name):
                    scores[cell] = list(self._contrasts(cell, pictures, each))
                continue
            if of not in drawn:
                every = ((i, draw(method, target.alias, stored, i)) for i in range(len(pictures)))
                drawn[of] = {i: each for i, each in every if each}
            if (of, cell.metric) not in told:
                with costs.timed(scene.tally, cell.metric.name):
                    self._perturb(cell, drawn[of], scene, scene.names.index(target.alias), classes)
                    told[of, cell.metric] = {i: score_map(cell.metric, each) for i, each in drawn[of].items()}
            scores[cell] = told[of, cell.metric]
        return scores

    def _contrasts(
        self, cell: Output, pictures: DecodedImages, drawn: Iterable[dict[str, MapView | None]]
    ) -> Iterator[tuple[str, str, int, Score]]:
        """A metric of every pair an image's class belongs to, as (target, scope, the image's place, score); `drawn` are each image's maps.

        The maps of the target `pairs` are compared two by two, |s_A - s_B|, and that of y_A - y_B stands for itself, as `#finer`;
        any other map is scored as it is.
        """
        among, name = partners(self.spec.class_pairs), cell.target.alias
        for i, (row, mine) in enumerate(zip(pictures.rows, drawn, strict=True)):
            pairs = among.get(row["label"], ())
            parts = parts_of(row, self.backbone.image_size) if pairs else None
            for k, (_, pair) in enumerate(pairs, 1):
                forms = {name: [name]}
                if cell.target.name == "pairs":
                    forms = {name: [f"{name}#own", f"{name}#other_{k}"], f"{name}#finer": [f"{name}#finer_{k}"]}
                for target, which in forms.items():
                    if all(mine[each] for each in which):
                        yield target, pair.name, i, score_map(cell.metric, PairView(tuple(mine[each] for each in which), pair, parts))

    def _perturb(self, cell: Output, drawn: dict[int, MapView], scene: Batch, target: int, classes: torch.Tensor | None) -> None:
        """Give the drawn maps of a batch the answers to what a metric asks of images changed by them, where they lack them."""
        codes = METRICS[cell.metric.name].resolve(cell.metric.args, self.backbone.image_size).values()
        for code in codes if classes is not None else ():
            if all(code in each.said for each in drawn.values()):
                continue
            maps = [drawn[i].S if i in drawn and drawn[i].drawable else None for i in range(len(scene.pixels))]
            inside = [drawn[i].object if i in drawn else None for i in range(len(scene.pixels))]
            try:
                found = perturb(code, scene, ScoredMaps(cell.method, target, maps, inside, classes), cell.metric.name)
            except Exception as error:
                if len(maps) > 1:
                    raise
                found = [error]
            for i, each in drawn.items():
                each.said[code] = found[i]

    def _predictions(self, said: Predictions, scene: Batch) -> dict[str, list]:
        """Columns of `predictions`; null, or empty, where there are no classes."""
        classes, labels = said.logits.shape[1], [label if label >= 0 else None for label in said.labels.tolist()]
        if not classes:
            nothing = dict.fromkeys(("predicted", "label_logit", "label_prob", "predicted_prob"), [None] * len(labels))
            return {"label": labels, **nothing, "top5": [[]] * len(labels), "logits": [[]] * len(labels)}
        probs = scene.probabilities(scene.forward.logits)[:, :classes]
        top = probs.topk(min(5, classes))
        known = said.labels >= 0
        own = said.labels.clamp(min=0)[:, None]

        def at_label(values: torch.Tensor) -> list:
            return [v if k else None for v, k in zip(values.gather(1, own)[:, 0].tolist(), known.tolist(), strict=True)]

        return {
            "label": labels,
            "predicted": said.predicted.tolist(),
            "label_logit": at_label(said.logits),
            "label_prob": at_label(probs),
            "predicted_prob": probs.amax(1).tolist(),
            "top5": [
                [{"class_id": c, "prob": p} for c, p in zip(ids, ps, strict=True)]
                for ids, ps in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            ],
            "logits": list(said.logits.cpu().numpy().astype(np.float16)),
        }

    def _selected(self, pictures: DecodedImages, predictions: Mapping[str, list]) -> np.ndarray:
        """Which images the user's SQL condition over their predictions keeps [B]."""
        if not self.spec.select:
            return np.ones(len(pictures), dtype=bool)
        ids = [row["image_id"] for row in pictures.rows]
        return np.isin(
            ids, selected(self.spec.select, pa.table({"image_id": ids, **{k: v for k, v in predictions.items() if k != "logits"}}))
        )

    def _add_rows(self, cell: Output, answer: Answer, pictures: DecodedImages, finite: np.ndarray, values) -> None:
        if cell.table == "features":
            values = {"feature": list(values.cpu().numpy().astype(np.float16))}
        for i, row in enumerate(pictures.rows):
            if finite[i]:
                mine = {name: [column[i]] for name, column in values.items()}
                answer.add(image_id=[row["image_id"]], model=[self.backbone.name], **mine)
            else:
                answer.fail(row, "predict", "NotFinite", "the network's output holds NaN or infinity")

    def _add_maps(
        self, cell: Output, answer: Answer, pictures: DecodedImages, chosen: np.ndarray, maps: list, target: str, explained: Directions
    ) -> None:
        kept, what = [], f"{cell.method.alias} for {target}"
        class_id, missing = explained.class_id.tolist(), explained.missing.tolist()
        for i, row in enumerate(pictures.rows):
            if not chosen[i]:
                continue
            if missing[i] and TARGETS[cell.target.name].compared and row["label"] is not None:
                continue  # its class asks for no map, or for fewer than others
            if missing[i]:
                answer.fail(row, "target", "MissingLabel", f"no usable label, so target {cell.target.alias!r} has nothing to explain")
            elif isinstance(maps[i], Exception):
                answer.fail(row, "map", maps[i], f"{what}: {one_line(maps[i])}")
            elif not np.isfinite(maps[i]).all():
                answer.fail(row, "map", "NotFinite", f"{what}: the map holds NaN or infinity")
            else:
                kept.append(i)
        if kept:
            stack = np.stack([maps[i] for i in kept])
            codes, low, high = quantise(stack)
            answer.add(
                image_id=[pictures.rows[i]["image_id"] for i in kept],
                target=[target] * len(kept),
                class_id=[class_id[i] if class_id[i] >= 0 else None for i in kept],
                reference_ids=[explained.reference_ids[i].tolist() for i in kept],
                gamma=[explained.gamma] * len(kept),
                map=list(codes.reshape(len(kept), -1)),
                map_min=low.tolist(),
                map_max=high.tolist(),
                height=[stack.shape[1]] * len(kept),
                width=[stack.shape[2]] * len(kept),
                **{name: [None if np.isnan(v) else v for v in values.tolist()] for name, values in summaries(stack).items()},
            )

    def _add_attributes(
        self, cell: Output, answer: Answer, pictures: DecodedImages, chosen: np.ndarray, maps: Mapping[str, list[np.ndarray | Exception]]
    ) -> None:
        """How like the map of each attribute is to those of the image's class, plain and against its rival."""
        name = cell.target.alias
        for i, row in enumerate(pictures.rows):
            if not chosen[i] or row["label"] is None:
                continue
            apart = cell.target.argument.classes[row["label"]]
            for k, (text, difference) in enumerate(apart.attributes, 1):
                shown = maps[f"{name}#attribute_{k}"][i]
                told = {"image_id": row["image_id"], "target": f"{name}#attribute_{k}", "class_id": row["label"], "rival": apart.rival}
                told |= {"attribute": text, "difference": difference}
                told |= {f"like_{of}": correlation(shown, maps[f"{name}#{of}"][i]) for of in ("finer", "label")}
                answer.add(**{column: [value] for column, value in told.items()})

    def _add_scores(
        self, cell: Output, answer: Answer, pictures: DecodedImages, scores: Mapping[int, Score], explained: Directions
    ) -> None:
        class_id = explained.class_id.tolist()
        for i, score in scores.items():
            row = pictures.rows[i]
            if score.error:
                what = f"{cell.metric.alias} of {cell.method.alias} for {cell.target.alias}"
                answer.fail(row, "metric", score.error, f"{what}: {one_line(score.error)}")
            if cell.table == "partials":
                group = group_of(row["image_id"]) if METRICS[cell.metric.name].corpus_level else None
                add_score(answer.sums.setdefault((cell.target.alias, "all"), {}), score, group)
                if cell.metric.args.get("by_class") and row["label"] is not None:
                    add_score(answer.sums.setdefault((cell.target.alias, str(row["label"])), {}), score)
                continue
            for column in columns_of(cell.metric):
                about = {"image_id": row["image_id"], "class_id": class_id[i] if class_id[i] >= 0 else None, "label": row["label"]}
                said = {"metric": column, "value": score.values.get(column), "reason": score.reason}
                answer.add(**{name: [value] for name, value in (about | said).items()})

    def _add_contrasts(self, cell: Output, answer: Answer, pictures: DecodedImages, scores: Sequence[tuple[str, str, int, Score]]) -> None:
        for target, scope, i, score in scores:
            if score.error:
                what = f"{cell.metric.alias} of {cell.method.alias} for {target} and the classes {scope}"
                answer.fail(pictures.rows[i], "metric", score.error, f"{what}: {one_line(score.error)}")
            add_score(answer.sums.setdefault((target, scope), {}), score)

    def _table(self, cell: Output, answer: Answer) -> pa.Table:
        columns = dict(answer.columns)
        if cell.table == "partials":
            for target, scope in sorted(answer.sums):
                for kind, values in sorted(answer.sums[target, scope].items()):
                    row = {"metric": cell.metric.alias, "target": target, "scope": scope, "kind": kind, "values": values}
                    for name, value in row.items():
                        columns.setdefault(name, []).append(value)
        rows = len(next(iter(columns.values()), ()))
        if cell.method:
            columns = {
                "model": [self.backbone.name] * rows,
                "method": [cell.method.alias] * rows,
                "target": [cell.target.alias] * rows,
                "render": [METHODS[cell.method.name].render(cell.method.args)] * rows,
                **columns,
            }
        form = self._schemas[cell.table]
        return pa.table([pa.array(columns.get(name, []), form.field(name).type) for name in form.names], schema=form)


def _judged(said: Predictions) -> torch.Tensor:
    """The classes metrics look at [B 4]: the label, or the predicted class where there is none; the predicted class; two rivals."""
    return torch.cat([said.main[:, None], said.predicted[:, None], rivals(said)], 1)
