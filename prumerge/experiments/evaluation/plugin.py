"""The model's name for lmms-eval: ``lmms-eval --model prumerge_llava``."""

NAME = "prumerge_llava"


def manifest():
    """Describe the model to lmms-eval's registry, which imports the class when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=NAME, simple_class_path="prumerge.experiments.evaluation.harness.PruMergeLlava"
    )
