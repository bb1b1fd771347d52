"""How a stage was trained, in the field's own words, the same in every language: a line of the release card."""

from __future__ import annotations

from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.adapt import BottleneckSpec, ExpertsSpec, LoraExpertsSpec, LoraSpec, SubsetSpec
from tunesmith.recipe.specs.beginnings import BeginningSpec
from tunesmith.recipe.specs.objectives import AdversarialSpec, DistillSpec, MultitaskSpec


def method_of(recipe: Recipe, stage: StageSpec) -> str:
    """What a stage trained, toward what if not the rows' own tokens, and what was held meanwhile."""
    return ", ".join([_adaptation(recipe, stage), *_objective(stage), *_held(stage)])


def _objective(stage: StageSpec) -> list[str]:
    spec = stage.objective
    if isinstance(spec, DistillSpec):
        return [f"distilled from {'answers' if spec.level == 'sequence' else 'logits'} of {spec.teacher}"]
    if isinstance(spec, AdversarialSpec):
        return ["adapted to an unlabelled domain", *_domain_terms(spec)]
    return ["multitask"] if isinstance(spec, MultitaskSpec) else []


def _domain_terms(spec: AdversarialSpec) -> list[str]:
    """What brings the domains together; the classifier that served it is said to stay behind."""
    found = []
    if spec.reversal is not None:
        found.append(f"gradient reversal up to {spec.reversal.max_lambda:g} (domain classifier not published)")
    found += [f"KL {spec.kl:g}"] if spec.kl is not None else []
    return found + ([f"MMD {spec.mmd.weight:g}"] if spec.mmd is not None else [])


def _held(stage: StageSpec) -> list[str]:
    penalties = stage.penalties
    weights = (
        {}
        if penalties is None
        else {
            "EWC": penalties.ewc.weight if penalties.ewc else None,
            "L2-SP": penalties.l2_sp,
            "L2": penalties.l2,
            "L1": penalties.l1,
        }
    )
    found = [f"{name} {weight:g}" for name, weight in weights.items() if weight is not None]
    return [*found, *([f"replay {stage.replay.share:.0%}"] if stage.replay is not None else [])]


def _adaptation(recipe: Recipe, stage: StageSpec) -> str:
    adapt = stage.adapt
    if isinstance(adapt, LoraSpec):
        variants = {"rsLoRA": adapt.use_rslora, "DoRA": adapt.use_dora}
        names = [name for name, used in variants.items() if used]
        names += [adapt.init_lora_weights] if adapt.init_lora_weights != "default" else []
        quantize = recipe.model.quantize
        kind = "LoRA" if quantize == "none" else f"QLoRA ({quantize})"
        return ", ".join([kind, f"rank {adapt.rank}", *names])
    if isinstance(adapt, SubsetSpec):
        stated = [*adapt.parts, *adapt.parameters]
        stated += [f"first_layer {adapt.first_layer}"] if adapt.first_layer is not None else []
        return ", ".join([adapt.kind, *stated])
    if isinstance(adapt, BeginningSpec):
        return ", ".join([adapt.kind, f"{adapt.num_virtual_tokens} virtual tokens"])
    if isinstance(adapt, ExpertsSpec):
        named = ", ".join(map(str, adapt.experts)) if isinstance(adapt.experts, list) else adapt.experts
        which = named if adapt.most_used is None else f"{adapt.most_used} most used"
        return f"experts, {which}" + (", router" if adapt.router else "")
    if isinstance(adapt, LoraExpertsSpec):
        return ", ".join(["LoRA experts", f"{adapt.new_experts} new", *(f"{each} updated" for each in adapt.update)])
    if isinstance(adapt, BottleneckSpec):
        return f"bottleneck adapter, {adapt.places}, size {adapt.size}"
    return adapt.kind
