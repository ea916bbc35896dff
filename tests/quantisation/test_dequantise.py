"""A weight from its stored form is the weight that the library itself makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.foreign.quantised.cases import equals_record, readable, unpack


@pytest.mark.parametrize("name", readable())
def test_bit_for_bit_the_librarys_own(tmp_path: Path, name: str) -> None:
    """Every linear that the library dequantised, and no other; float32 rounded once to the library's dtype."""
    case = unpack(name, tmp_path)
    quantisation, tensors = case.open().quantisation, case.checkpoint.tensors
    storages = {key: storage for key, parameter in case.parameters.items()
                if (storage := quantisation.storage(key, parameter)) is not None}  # fmt: skip
    records = {module: record for module, record in case.about["dequantised"].items() if module != "lm_head"}
    assert {storage.module for storage in storages.values()} == records.keys()
    wrong = []
    for storage in storages.values():
        weight = storage.dequantise(tensors)
        assert weight.dtype == np.float32 and weight.shape == storage.shape
        if not equals_record(weight, records[storage.module]):
            wrong.append(storage.module)
    assert wrong == []


@pytest.mark.parametrize("name", readable())
def test_blocks_of_rows_are_rows_of_the_whole(tmp_path: Path, name: str) -> None:
    """Rows read on their own, from a start that shares words and scales with none before it."""
    case = unpack(name, tmp_path)
    quantisation, tensors = case.open().quantisation, case.checkpoint.tensors
    for key, parameter in case.parameters.items():
        storage = quantisation.storage(key, parameter)
        if storage is None:
            continue
        whole = storage.dequantise(tensors)
        step = storage.row_step
        for start in range(0, storage.shape[0], step * 3):
            stop = min(start + step * 3 - step // 2, storage.shape[0])
            assert np.array_equal(storage.dequantise(tensors, start, stop), whole[start:stop], equal_nan=True), (key, start)
