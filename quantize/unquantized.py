"""Hand the network on in float: the same folder of ONNX files that quantize writes, without int8."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pipeline.contract import Kind, Output, StageContext, StageResult, StageSpec

MEASURED = ("psnr", "ssim", "psnr_worst5", "psnr_gain", "params", "macs", "size")


class UnquantizedConfig(BaseModel):
    """Nothing is to be set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def run(ctx: StageContext) -> StageResult:
    """Fold the batch normalisation, write ``model``, measure it on ``test``.

    Raises:
        UsageError: the input is no checkpoint of ours.
        StageFailed: a written file is no valid ONNX of the target's opset.
    """
    from eval.cost import cost_measurements
    from eval.quality import evaluate, torch_restorer
    from models import checkpoint
    from models.fold import fold_batchnorm
    from quantize.folder import write_folder

    source = checkpoint.load(ctx.inputs["model"].path)
    folded, samples = fold_batchnorm(source.module), ctx.workdir / "samples"
    history = [*source.history, {"stage": "unquantized", "batchnorm": "folded"}]
    folder = write_folder(ctx.workdir / "model", folded, source.arch, ctx.target.opset, None, history)
    quality = evaluate(torch_restorer(folded), ctx.data["test"], samples)
    rows = [*quality.measurements(precision="fp32"), *cost_measurements(folded, folder.float)]
    outputs = {
        "model": Output(Kind.ONNX, folder.path, folder.facts.model_dump(mode="json", by_alias=True)),
        "samples": Output(Kind.SAMPLES, samples),
    }
    return StageResult(outputs, rows, notes=("the network stays in float: no int8 files are written",))


STAGE = StageSpec(
    run=run,
    config=UnquantizedConfig,
    consumes={"model": Kind.CHECKPOINT},
    produces={"model": Kind.ONNX, "samples": Kind.SAMPLES},
    data=("test",),
    reads_target=("opset",),
    toolchain=("torch", "onnx", "onnxslim", "numpy", "scikit-image"),
    code=("models",),  # the architecture is found by name
)
