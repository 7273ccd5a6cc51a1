"""A checkpoint's tokenizer, template and picture settings become a processor, for texts and pictures on Pillow alone.

Transformers' processors have more halves than this product shows anything to: those for videos and sounds need
torchvision, torchaudio and the like, and are left out of whichever class a checkpoint asks for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import transformers
from transformers import AutoConfig, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import cached_file

if TYPE_CHECKING:
    from transformers import ProcessorMixin

# In the order in which Transformers looks for a processor's name.
_NAMING: Final = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_LEFT_OUT: Final = ("video", "feature_extractor", "audio")


class LeftOut(dict[str, Any]):
    """Stands where a processor keeps a half that is not there; whatever it is asked for is None.

    A dictionary, because processors are described as JSON on loading.
    """

    model_input_names: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def load_processor(source: str) -> ProcessorMixin:
    """``source`` is a folder or a hub's name.

    Raises:
        OSError, ValueError, ImportError: as Transformers raises them.
    """
    found = _named_class(source) or _class_of_model(source)
    loading: Any = AutoProcessor if found is None else _for_pictures(found)
    processor: ProcessorMixin = loading.from_pretrained(source, backend="pil", trust_remote_code=False)
    return processor


def _named_class(source: str) -> type[Any] | None:
    """The class the checkpoint's own files name; None where they name none, or one that Transformers has not."""
    for name in _NAMING:
        file = cached_file(
            source,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        named = json.loads(Path(file).read_text("utf-8")).get("processor_class") if file else None
        if isinstance(named, str):
            return _processors_only(getattr(transformers, named, None))
    return None


def _class_of_model(source: str) -> type[Any] | None:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    return _processors_only(PROCESSOR_MAPPING[type(config)]) if type(config) in PROCESSOR_MAPPING else None


def _processors_only(found: Any) -> type[Any] | None:
    """Some models' "processor" is their tokenizer."""
    return found if isinstance(found, type) and issubclass(found, transformers.ProcessorMixin) else None


def _for_pictures(full: Any) -> Any:
    """``full`` (a subclass of ProcessorMixin) without its halves for anything but texts and pictures.

    The halves are found in its signature, loaded in its order, and their kinds checked: all three know of the gap.
    """
    halves: list[str] = full.get_attributes()
    kept = [name for name in halves if not name.startswith(_LEFT_OUT)]
    if kept == halves:
        return full

    class Kept(full):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return kept

    class ForPictures(full):
        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **fields: Any) -> list[Any]:
            loaded = dict(zip(kept, Kept._get_arguments_from_pretrained(*args, **fields), strict=True))
            return [loaded[name] if name in loaded else LeftOut() for name in halves]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, LeftOut):
                return LeftOut
            return super().check_argument_for_proper_class(argument_name, argument)

    # Some of what Transformers does depends on the name.
    Kept.__name__ = ForPictures.__name__ = full.__name__
    return ForPictures
