"""An engine by its name, loaded into this process.

Not for choosing one (engine.py). The invariant: only the engine that is asked for is imported.
"""

from dataclasses import replace

from emray.cluster import device_here
from emray.generate.engine import Engine, EngineConfig
from emray.model.weights import model_folder


def start(config: EngineConfig) -> Engine:
    """Load the engine into this process, its model from this machine's copy. Raises NoGpuHere."""
    if config.engine == "openai":
        from emray.generate.endpoint_engine import EndpointEngine

        return EndpointEngine(config)
    on_gpu = device_here(gpu=config.gpu) == "cuda"
    config = replace(config, model_path=model_folder(config.model_path), gpu=on_gpu)
    if config.engine == "vllm":
        from emray.generate.vllm_engine import VllmEngine

        return VllmEngine(config)
    from emray.generate.transformers_engine import TransformersEngine

    return TransformersEngine(config)
