"""Base classes of configuration sections and documents: immutable, no unknown keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from incasem_like.config.checking import Source, current_names, explain


class Section(BaseModel):
    """A group of keys; immutable, dumped under the names of the YAML.

    A field is described by ``description`` if that fits on its line, otherwise by the docstring below it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Document(Section):
    """A whole configuration; its errors are one-sentence :class:`ConfigError`."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: Source) -> Self:
        """Validate nested values and return the typed configuration.

        Args:
            values: Nested keys as in a YAML file.
            source: Returns the source of the value of a key path, as ``in /path/config.yaml``.

        Raises:
            ConfigError: An unknown key, a value of the wrong type or out of range, or values that contradict another.
        """
        values = current_names(cls, values)
        try:
            return super().model_validate(values)
        except ValidationError as error:
            raise explain(error, cls, values, source) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Validate the result of ``model_dump(mode="json")``; errors as in :meth:`from_values`."""
        if isinstance(obj, Mapping):
            return cls.from_values(obj, lambda _path: "in the tracked configuration")
        return super().model_validate(obj, **options)


def without_nulls(values: Any, keys: Sequence[str]) -> Any:
    """Return the values of a section in which some keys may be null, which means the same as to leave them out."""
    if not isinstance(values, Mapping):
        return values
    return {key: value for key, value in values.items() if value is not None or key not in keys}
