"""The shape of a recipe: every field with its unit, its source (`fields`) and its default."""

from __future__ import annotations

from typing import Literal, get_args

from viscot_core.errors import RecipeError
from viscot_core.families.manifest import Policy
from viscot_core.train.recipe.fields import Strict, field
from viscot_core.train.recipe.tiny_specs import AttentionLossSpec, FoundationSpec, ScratchSpec, TokenWeights

StageKind = Literal["foundation", "pretrain", "finetune", "dpo", "grpo"]
NAME = r"^[\p{L}\p{N}_][\p{L}\p{N}_ .+-]{0,99}$"
"""Letters, digits and a few signs: a recipe's name becomes a folder and a word of a job script."""
Part = Literal["projector", "llm", "vision_tower"]
PARTS: tuple[Part, ...] = get_args(Part)
USUAL_FILES: dict[StageKind, str] = {
    "foundation": "train.json",
    "pretrain": "pretrain.json",
    "finetune": "train.json",
    "dpo": "prefs.jsonl",
    "grpo": "train.json",
}


class ModelSpec(Strict):
    """What is trained: a base LLM + vision tower (+ projector), a shape from scratch, or a checkpoint."""

    base_llm: str | None = field(None, "hub name or folder of the language model", source="script")
    vision_tower: str | None = field(None, "hub name or folder of the CLIP vision tower", source="script")
    projector: str | None = field(
        None,
        "trained projector (file, folder or hub name); when given, `viscot train` skips the pretrain stage",
        source="script (it reuses LLaVA's projector)",
    )
    checkpoint: str | None = field(
        None, "a whole checkpoint to continue from, instead of base_llm and vision_tower"
    )
    scratch: ScratchSpec | None = field(None, "shape of a model initialised at random, instead of base_llm")
    template: Literal["vicuna_v1", "tiny"] = field(
        "vicuna_v1", "chat template of fine-tuning", source="script"
    )
    turn_tokens: Literal["v4.31", "legacy", "plain"] = field(
        "v4.31",
        "how the text after an end of turn is tokenised; see tests/golden_differences.md",
        source="released weights",
    )
    feature_layer: int = field(-2, "hidden layer of the tower that is read", source="script")
    projector_type: Literal["mlp2x_gelu"] = field(
        "mlp2x_gelu", "two linear layers with a GELU", source="script (the paper says 'simple linear layer')"
    )
    image_aspect_ratio: Literal["pad"] = field(
        "pad", "images are padded to a square, never stretched or cut", source="script"
    )
    box_format: str | None = field(
        None, "how the model is to write boxes; null: as its family does, else in viscot's own 0..1"
    )
    policy: Policy | None = field(
        None, "how the model looks where its user does not say; null: as the model that it starts from"
    )
    min_pixels: int | None = field(
        None, "least pixels of an image, for models that read any size", unit="px", gt=0
    )
    max_pixels: int | None = field(
        None, "most pixels of an image, for models that read any size; null: 1280 tokens", unit="px", gt=0
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = field("sdpa", "attention implementation")


class DataSpec(Strict):
    """Where the rows and the images are, and how strictly they are checked before step 0."""

    root: str | None = field(None, "data root; `--data` overrides it. Files of a stage are relative to it")
    images: str | None = field(None, "folder the image paths are relative to; null means the data root")
    preflight: int = field(64, "samples per file rendered and checked before step 0", unit="samples", ge=0)
    allow_bad: int = field(
        0,
        "bad samples allowed in the preflight, and again in all rows of a stage (counted, never hidden)",
        unit="samples",
        ge=0,
    )
    legacy_crop: bool = field(
        False,
        "leave out the samples that the reference silently replaced (31.8 %)",
        source="script",
    )


class LoraSpec(Strict):
    """Low-rank adapters on the linear layers of the language model; the projector is trained whole."""

    rank: int = field(128, "rank of the adapters", source="llava", gt=0, le=65_536)
    alpha: float = field(256, "scale; the update is multiplied by alpha / rank", source="llava", gt=0)
    dropout: float = field(0.05, "dropout before the adapter", unit="probability", source="llava", ge=0, le=1)
    load_in: Literal["4bit", "8bit"] | None = field(None, "quantise the frozen base weights (QLoRA)")


class EvalSpec(Strict):
    """What is measured of a stage while it trains, on rows and questions that it does not learn."""

    file: str | None = field(None, "held-out rows, relative to the data root; `--eval-data` names them")
    split: float | None = field(
        None,
        "share of the training images whose rows are held out, where no file is given",
        unit="share", gt=0, lt=1,
    )  # fmt: skip
    steps: int = field(200, "an evaluation every so many steps, before the first and after the last", gt=0)
    rows: int = field(512, "held-out rows whose loss is measured, evenly spread", unit="rows", gt=0)
    questions: int = field(200, "questions asked as `viscot bench` asks them; 0: only the loss", ge=0)
    bench: Literal["cot", "refcoco"] | None = field(
        None, "questions of this benchmark in the data root; null: questions made of the held-out rows"
    )
    judge: Literal["exact", "vqa", "anls", "contains", "relaxed"] = field(
        "exact", "how an answer is compared with the right one, as in `viscot score --judge`"
    )
    batch: int = field(8, "questions a process asks at once", unit="questions", gt=0)
    max_new_tokens: int = field(64, "longest answer, and longest box", unit="tokens", gt=0)
    best: Literal["loss", "answers", "box", "iou"] = field(
        "loss", "the figure by which STAGE/best, the best model so far, is kept"
    )
    patience: int | None = field(
        None, "the stage ends after so many evaluations without a better figure", unit="evaluations", gt=0
    )
    allow_overlap: bool = field(False, "evaluate also on rows that are trained on")


class PreferenceSpec(Strict):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): a dpo stage's own settings."""

    beta: float = field(0.1, "how far the model may move from where the stage began", gt=0)
    nll_weight: float = field(0.0, "weight of the preferred reply's own cross-entropy", ge=0)
    length_normalised: bool = field(False, "mean log-probability of a reply's tokens instead of their sum")


class ReinforceSpec(Strict):
    """Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): a grpo stage's own settings.

    Each step asks new questions and makes one update from them, so the ratio of new to old probabilities is
    always 1 and nothing is clipped.
    """

    rewards: dict[str, float] = field({"iou": 1.0}, "rewards with weights, as `viscot rewards list` has them")
    group: int = field(8, "attempts at each question", unit="attempts", ge=2, le=1024)
    temperature: float = field(1.0, "temperature of the attempts", gt=0, le=10)
    strategy: Literal["cot", "zoom"] = field("cot", "how the model looks: one look, or as often as it takes")
    dialect: str | None = field(None, "how the model calls the zoom tool; null: as its name or boxes say")
    looks: int | None = field(None, "most looks of a zoom attempt; null: as the dialect has it", ge=1)
    max_new_tokens: int = field(64, "longest turn of an attempt", unit="tokens", gt=0)
    batch: int = field(16, "attempts a process asks at once", unit="attempts", gt=0)
    kl: float = field(0.0, "weight of the distance from where the stage began", ge=0)
    scale_by_spread: bool = field(True, "divide advantages by their group's standard deviation")
    length_normalised: bool = field(True, "mean over a turn's tokens instead of their sum")
    shuffle_rewards: bool = field(False, "a control: deal each group's rewards out at random")


class StageSpec(Strict):
    """One stage. The global batch is the invariant: per-device batch and accumulation follow from it."""

    kind: StageKind = field(..., "foundation (tiny only), pretrain (alignment), finetune, dpo or grpo")
    files: tuple[str, ...] = field(
        (), "training files, relative to the data root; empty: the kind's usual file"
    )
    template: Literal["plain", "vicuna_v1", "tiny"] | None = field(
        None,
        "wording of this stage; null: plain captions in pretrain, the model's template otherwise",
        source="llava",
    )
    train: tuple[Part, ...] = field(
        ..., "parts that learn; the others are frozen", source="script", min_length=1
    )
    epochs: float | None = field(
        None, "passes over the data; or give max_steps", unit="epochs", gt=0, le=1000
    )
    max_steps: int | None = field(None, "optimizer steps; or give epochs", unit="steps", gt=0, le=10_000_000)
    global_batch_size: int = field(
        ..., "samples per optimizer step over all processes", unit="samples", gt=0, le=1_048_576
    )
    per_device_batch_size: int | None = field(
        None, "samples per process and forward pass; null derives it from the GPUs and their memory",
        unit="samples", gt=0,
    )  # fmt: skip
    learning_rate: float = field(..., "peak learning rate of all parts without their own", gt=0)
    projector_lr: float | None = field(None, "peak learning rate of the projector", gt=0)
    vision_tower_lr: float | None = field(
        None,
        "peak learning rate of the vision tower",
        source="readme documents 2e-6, script passes none",
        gt=0,
    )
    vision_layer_decay: float | None = field(
        None,
        "factor on the tower's learning rate per layer below its last",
        source="script (option)",
        gt=0,
        le=1,
    )
    weight_decay: float = field(0.0, "decay of matrices; never of norms and biases", source="script", ge=0)
    warmup_ratio: float = field(0.03, "share of the steps spent warming up", source="script", ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = field(
        "cosine", "learning rate after the warm-up", source="script"
    )
    adam_beta1: float = field(0.9, "AdamW", source="script (default)", ge=0, le=1)
    adam_beta2: float = field(0.999, "AdamW", source="script (default)", ge=0, le=1)
    adam_epsilon: float = field(1e-8, "AdamW", source="script (default)", gt=0)
    max_grad_norm: float = field(1.0, "gradients are clipped to this norm; 0 switches clipping off",
                                  source="script (default)", ge=0)  # fmt: skip
    max_length: int = field(
        2048, "longest sample, image tokens included", unit="tokens", source="script", gt=0
    )
    precision: Literal["bf16", "fp16", "fp32"] = field(
        "bf16", "number format of the forward pass", source="script"
    )
    tf32: bool = field(True, "TF32 matrix products on GPUs that have them", source="script")
    zero_stage: Literal[0, 1, 2, 3] = field(0, "DeepSpeed ZeRO stage; 0 is plain data parallelism")
    offload: Literal["none", "optimizer", "all"] = field("none", "what ZeRO keeps in host memory")
    gradient_checkpointing: bool | None = field(
        None,
        "recompute activations in the backward pass; the script says true; null: where memory asks for it",
    )
    recompute_every: int = field(
        1, "with gradient_checkpointing, of every so many layers one is recomputed", unit="layers", gt=0
    )
    group_by: Literal["modality_length", "length", "none"] = field(
        "modality_length", "which samples share a batch", source="script"
    )
    packing: bool | None = field(
        None, "several samples per sequence that do not see each other; null: where that is exact"
    )
    token_weights: TokenWeights | None = field(None, "loss weights of single tokens (tiny only)")
    guide_attention: AttentionLossSpec | None = field(None, "auxiliary attention loss (tiny only)")
    foundation: FoundationSpec | None = field(None, "settings of a foundation stage (tiny only)")
    preference: PreferenceSpec | None = field(None, "settings of a dpo stage; null: the defaults")
    reinforce: ReinforceSpec | None = field(None, "settings of a grpo stage; null: the defaults")
    lora: LoraSpec | None = field(None, "train adapters instead of the language model's own weights")
    compile: bool = field(False, "torch.compile the layers: fewer kernels a step, after a minute or two")
    save_steps: int = field(
        500,
        "a checkpoint every so many steps",
        unit="steps",
        source="viscot (the script's 50000 exceeds its run)",
        gt=0,
    )
    keep_checkpoints: int = field(
        2, "older checkpoints are deleted", unit="checkpoints", source="viscot", gt=0
    )
    log_steps: int = field(1, "a line in the log every so many steps", unit="steps", source="script", gt=0)
    workers: int = field(4, "loader processes per rank", unit="processes", source="script", ge=0, le=1024)
    seed: int | None = field(None, "this stage's own seed; null takes the recipe's", ge=0)
    eval: EvalSpec | None = field(None, "figures on held-out rows while the stage trains; null: none")

    @property
    def data_files(self) -> tuple[str, ...]:
        """The stage's files, relative to the data root; those of `viscot data synth` where none are named."""
        return self.files or (USUAL_FILES[self.kind],)


class Recipe(Strict):
    """A whole training run."""

    name: str = field(
        ..., "name of the run and of the model it makes: letters, digits, spaces and _.+-", pattern=NAME
    )
    description: str = field("", "one line for `viscot recipes list`")
    model: ModelSpec = field(..., "what is trained")
    data: DataSpec = field(DataSpec(), "where the rows and the images are")
    stages: tuple[StageSpec, ...] = field(..., "the stages, in order", min_length=1)
    seed: int = field(42, "seed of weights, order and dropout", source="script (default)", ge=0)
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = field(
        ("tensorboard",), "where the curves go"
    )

    def stage(self, kind: StageKind) -> StageSpec:
        """The stage of that kind; `RecipeError` lists the kinds there are."""
        for stage in self.stages:
            if stage.kind == kind:
                return stage
        kinds = ", ".join(s.kind for s in self.stages)
        raise RecipeError(f"The recipe '{self.name}' has no {kind} stage; it has {kinds}.")


def reads_whole_files(stage: StageSpec, model: ModelSpec) -> bool:
    """Whether a stage reads all its rows and pixels into memory, as the bundled tiny models' stages do.

    The rows of full-size models are read from memory-mapped files, one at a time.
    """
    tiny = model.scratch is not None or (model.template == "tiny" and stage.token_weights is not None)
    return tiny and not stage.packing and stage.group_by == "none"
