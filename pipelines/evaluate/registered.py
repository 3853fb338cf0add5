"""A registered model's figures: read from the registry where they are noted, else measured and noted there."""

from __future__ import annotations

from pipelines.evaluate.evaluation import evaluate
from pipelines.evaluate.protocol import Protocol
from pipelines.evaluate.sides import Tasks, Work, in_turn
from pipelines.quality.features import Features
from pipelines.quality.figures import Figures, table
from service.artifacts import model_cache, registry, version_page
from service.generator import Generator


def judge(judged: Protocol, model: str, tasks: Tasks[Work, Features] = in_turn, for_others: bool = False) -> Figures:
    """What the registry notes of a model in this evaluation; measured first, if it notes nothing.

    Args:
        for_others: to publish; such figures have metrics and a section of their own, beside those of promotions.

    Raises:
        ConfigError: the model is not one for this data.
        NoModelError: there is no such model.
        TrackingError: MLflow fails.
    """
    uri = judged.run.tracking_uri
    name, number = registry.ModelName.of(model).name, registry.version_of(model, uri)
    tag = f"evaluation.{judged.fingerprint}"
    if noted := registry.tags_of(name, number, uri).get(tag):
        return Figures.model_validate_json(noted)
    generator = Generator.read(model_cache.pull(f"models:/{name}/{number}", uri, model_cache.CACHE.expanduser()))
    measured = evaluate(judged, generator, tasks)
    kind, title = ("report", "Figures to publish") if for_others else ("evaluation", "Figures")
    figures = {f"{kind}/{key}": value for key, value in measured.figures.items()}
    version_page.log_figures(name, number, uri, figures, judged.input)
    on = judged.input
    told = f"Of {measured.counted}, {on.name} version {on.version}, as `{measured.fingerprint}`."
    version_page.write_section(name, number, uri, title, [told, "", *table({"value": measured})])
    tags = {tag: measured.model_dump_json(), f"{kind}.fingerprint": measured.fingerprint}
    registry.tag(name, number, uri, tags)
    return measured
