"""What emray calls of vLLM below its public surface is there under the same names, in the version that is installed.

Read from vLLM's source, without importing it (ten seconds). When one of these fails, emray/generate/vllm_engine.py or
vllm_cpu_lora.py must follow before the bounds in pyproject.toml are raised.
"""

import ast
import importlib.metadata
import importlib.util
import json
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from emray.generate import vllm_engine
from emray.generate.engine import EngineConfig
from emray.toy import MODEL_DIR

ROOT = Path(__file__).parent.parent
ENGINE_ARGUMENTS = """
    model max_model_len max_num_seqs tensor_parallel_size distributed_executor_backend enable_prefix_caching
    enable_chunked_prefill max_num_batched_tokens use_tqdm_on_load disable_log_stats seed enable_lora max_loras
    max_cpu_loras max_lora_rank dtype enforce_eager kv_cache_memory_bytes generation_config load_format
    compilation_config enable_flashinfer_autotune
""".split()
LOADERS = ("_load", "_gpu_arguments", "_lora_arguments")

# file of vLLM, class, function (empty: the class's own fields), names it must take or have, in any order
SURFACE = [
    ("v1/engine/llm_engine.py", "LLMEngine", "from_engine_args", ["engine_args"]),
    ("v1/engine/llm_engine.py", "LLMEngine", "add_request", ["request_id", "prompt", "params", "lora_request"]),
    ("v1/engine/llm_engine.py", "LLMEngine", "add_lora", ["lora_request"]),
    ("v1/engine/llm_engine.py", "LLMEngine", "step", []),
    ("engine/arg_utils.py", "EngineArgs", "", ENGINE_ARGUMENTS),
    ("config/compilation.py", "CompilationConfig", "", list(vllm_engine.GRAPHS)),
    (
        "sampling_params.py", "SamplingParams", "",
        "n seed temperature top_p max_tokens stop_token_ids detokenize output_kind".split(),
    ),
    ("sampling_params.py", "RequestOutputKind", "", ["FINAL_ONLY"]),
    ("lora/request.py", "LoRARequest", "", ["lora_name", "lora_int_id", "lora_path"]),
    ("outputs.py", "CompletionOutput", "", ["index", "token_ids", "finish_reason"]),
    ("outputs.py", "RequestOutput", "__init__", ["request_id", "prompt_token_ids", "outputs"]),
    ("lora/punica_wrapper/punica_base.py", "PunicaWrapperBase", "update_metadata", []),
    ("lora/punica_wrapper/punica_base.py", "PunicaWrapperBase", "token_lora_indices", []),
    (
        "lora/punica_wrapper/punica_cpu.py", "PunicaWrapperCPU", "add_lora_linear",
        ["y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices", "buffer"],
    ),
    ("platforms/interface.py", "Platform", "get_punica_wrapper", []),
    ("model_executor/models/registry.py", "_ModelRegistry", "", ["models"]),
    ("model_executor/models/registry.py", "_ModelRegistry", "register_model", ["model_arch", "model_cls"]),
    ("model_executor/models/registry.py", "_BaseRegisteredModel", "load_model_cls", []),
]  # fmt: skip


@cache
def source(file: str) -> ast.Module:
    found = importlib.util.find_spec("vllm")
    assert found is not None and found.origin is not None, "vllm is a dependency of both extras"
    return ast.parse((Path(found.origin).parent / file).read_text(encoding="utf-8"))


def class_of(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def names(of: ast.ClassDef, function: str) -> set[str]:
    """A function's parameters, or the names that the class's body binds."""
    if function:
        body = next(node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == function)
        return {argument.arg for argument in (*body.args.posonlyargs, *body.args.args, *body.args.kwonlyargs)}
    targets = [node.target for node in of.body if isinstance(node, ast.AnnAssign)]
    targets += [target for node in of.body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(("file", "class_name", "function", "wanted"), SURFACE)
def test_vllm_has_what_emray_calls(file: str, class_name: str, function: str, wanted: list[str]) -> None:
    assert set(wanted) <= names(class_of(source(file), class_name), function)


def test_a_name_that_vllm_does_not_have_is_noticed() -> None:
    engine = class_of(source("v1/engine/llm_engine.py"), "LLMEngine")
    assert "lora_requests" not in names(engine, "add_request")
    with pytest.raises(StopIteration):
        names(engine, "generate_all")


def test_every_engine_argument_that_emray_passes_is_looked_for() -> None:
    tree = ast.parse(Path(vllm_engine.__file__).read_text(encoding="utf-8"))
    loaders = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in LOADERS]
    keys = {
        key.value
        for loader in loaders
        for node in ast.walk(loader)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert len(loaders) == len(LOADERS)
    assert keys == set(ENGINE_ARGUMENTS)


def test_the_cpu_wrapper_keeps_the_attribute_that_says_no_adapter_is_in_the_batch() -> None:
    base = class_of(source("lora/punica_wrapper/punica_base.py"), "PunicaWrapperBase")
    stored = {n.attr for n in ast.walk(base) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    assert "no_lora" in stored


def test_the_installed_vllm_lies_within_the_bounds_that_were_tried() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    bounds = {
        one.name: one.specifier for text in extras["gpu"] + extras["cpu"] if "vllm" in (one := Requirement(text)).name
    }
    for name, version, inside in [("vllm", "0.25.1", True), ("vllm", "0.25.0", False), ("vllm", "0.33.0", False)]:
        assert bounds[name].contains(version) == inside
    installed = importlib.metadata.packages_distributions()["vllm"]
    assert all(bounds[name].contains(importlib.metadata.version(name)) for name in set(installed))


def _config(model: Path) -> EngineConfig:
    return EngineConfig(
        engine="vllm", model_path=str(model), temperature=1.0, top_p=1.0, max_tokens=8, prompts=(), num_adapters=1,
        max_lora_rank=8, samples_per_adapter=5, adapters_per_block=1, threads=1, gpu=True,
    )  # fmt: skip


def test_on_a_gpu_a_tiny_model_is_neither_compiled_nor_recorded(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    assert vllm_engine._gpu_arguments(_config(MODEL_DIR))["enforce_eager"] is True
    large = vllm_engine._gpu_arguments(_config(tmp_path))
    assert "enforce_eager" not in large
    recorded = large["compilation_config"]["cudagraph_capture_sizes"]
    assert recorded == sorted(recorded) and recorded[-1] == vllm_engine.MAX_SEQUENCES  # every batch has a recording
