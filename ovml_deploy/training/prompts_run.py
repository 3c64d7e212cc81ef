"""``ovml-deploy train prompts``: from a knowledge file to ``prompts.pt``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovml_deploy.errors import DataError
from ovml_deploy.models.backbone import Backbone, BackboneSpec
from ovml_deploy.models.prompt_tuned import PromptConfig, PromptTunedHead
from ovml_deploy.models.tagging import TaggingModel
from ovml_deploy.runtime.label_files import read_labels
from ovml_deploy.training.config import PromptTrainConfig
from ovml_deploy.training.data.text_files import some
from ovml_deploy.training.devices import choose_device, fork_random
from ovml_deploy.training.interrupt import RunInterruptedError, StopRequest
from ovml_deploy.training.knowledge.file import Knowledge, read_knowledge
from ovml_deploy.training.knowledge.groups import cluster, read_groups, restrict, write_groups
from ovml_deploy.training.prompts import PromptTrainer, SentenceData
from ovml_deploy.training.reporting import Reporter
from ovml_deploy.training.sentences import encode_sentences
from ovml_deploy.training.trainer import Surroundings, TrainResult, goes_on, remove_torn_files

GROUPS = "groups.json"
TEMPLATE = "{}"


def train_prompts(
    *,
    knowledge: str | Path,
    backbone: str,
    out: str | Path,
    pretrained: str | None = None,
    labels: str | Path | None = None,
    groups: str | Path | None = None,
    include_backbone: bool = False,
    resume: bool = False,
    reporter: Reporter | None = None,
    **settings: Any,
) -> TrainResult:
    """Tune prompts on a knowledge file's sentences; write ``out/prompts.pt`` (the best epoch).

    ``labels``: a label file, if not all categories of the knowledge are wanted. ``groups``: a JSON
    file of groups; default: found by clustering. Those used are in ``out/groups.json``.
    ``settings``: see PromptTrainConfig. Ctrl-C saves and returns. Raises OvmlError of any kind for
    input that cannot be used.
    """
    config = PromptTrainConfig(**settings)
    folder = Path(out)
    continued = goes_on(folder, resume)
    known = read_knowledge(knowledge)
    chosen = _choose_labels(known, labels, knowledge)
    grouped = read_groups(groups, chosen) if groups else restrict(cluster(known), chosen)
    around = Surroundings(
        folder, choose_device(config.device), reporter or Reporter(), StopRequest()
    )
    remove_torn_files(folder, PromptTrainer.final)
    loaded = Backbone.load(BackboneSpec(backbone, pretrained))
    with around.stop, fork_random(around.device):
        model = new_model(loaded, config, chosen, grouped)
        model.backbone.to(around.device)
        try:
            data = read_sentences(model.backbone, known, chosen, config, around)
        except RunInterruptedError:
            around.say_how_to_resume("No epoch has begun.")
            return TrainResult(None, 0, {})
        trainer = PromptTrainer(model, data, config, around)
        if continued:
            trainer.resume()
        write_groups(grouped, folder / GROUPS)  # not before a resumed run is known to be the same
        around.reporter.line(
            f"{len(data.train)} sentences to train, {len(data.val)} to validate; {len(chosen)} labels "
            f"in {len(grouped)} groups; {around.device}."
        )
        return trainer.finish(include_backbone)


def new_model(
    backbone: Backbone,
    config: PromptTrainConfig,
    labels: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> TaggingModel:
    """Return a model whose prompts start from words. Raises LabelError for an over-long prompt."""
    names = tuple(groups)
    owner = {label: number for number, group in enumerate(names) for label in groups[group]}
    sizes = PromptConfig.for_backbone(
        backbone,
        labels=tuple(labels),
        groups=names,
        group_of=tuple(owner[label] for label in labels),
        shared=config.shared,
        grouped=config.grouped,
        specific=config.specific,
        scale=backbone.logit_scale,
        temperature=config.temperature,
        branches=config.branches,
    )
    torch.manual_seed(config.seed)
    head = PromptTunedHead(sizes, backbone.initial_projection())
    head.start_from_words(backbone)
    return TaggingModel(backbone, head, (TEMPLATE,))


def read_sentences(
    backbone: Backbone,
    knowledge: Knowledge,
    labels: Sequence[str],
    config: PromptTrainConfig,
    around: Surroundings,
) -> SentenceData:
    """Encode the sentences that mention one of the labels, and hold some of them out."""
    row = {name: number for number, name in enumerate(knowledge.names)}
    targets = knowledge.targets()[:, [row[label] for label in labels]]
    used = np.flatnonzero((targets == 1).any(axis=1))
    if not len(used):
        raise DataError(
            "No sentence mentions any of the labels, so there is nothing to learn from."
        )
    texts = [knowledge.sentences[number].text for number in used]

    def told(count: int) -> None:
        around.stop.check()
        tell(count)

    with around.reporter.track("encoding sentences", len(texts)) as tell:
        features = encode_sentences(backbone, texts, told)
    return SentenceData.split(features, targets[used], config.val_fraction, config.seed)


def _choose_labels(
    knowledge: Knowledge, labels: str | Path | None, source: str | Path
) -> tuple[str, ...]:
    if labels is None:
        return knowledge.names
    chosen, known = read_labels(labels), set(knowledge.names)
    missing = [label for label in chosen if label not in known]
    if missing:
        raise DataError(
            f"The knowledge file {str(source)!r} is for other categories: it lacks {some(missing)}. "
            f"Make one for these labels: ovml-deploy knowledge {labels}"
        )
    return chosen
