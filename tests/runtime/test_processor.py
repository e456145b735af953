"""What descriptions of processors say of bfloat16."""

import pytest

from xdc_tf.runtime import processor

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["flags\t\t: fpu avx512f avx512_vnni avx512_bf16"] * 2, True),
        (["flags\t\t: fpu avx512f amx_bf16"], True),
        (["flags\t\t: fpu avx512f avx512_vnni"], False),
        # A program may run on either.
        (["flags\t\t: avx512_bf16", "flags\t\t: avx2"], False),
        (["Features\t: fp asimd bf16 i8mm"], True),
        (["Features\t: fp asimd"], False),
        (["vmx flags\t: avx512_bf16", "bugs\t\t: avx512_bf16"], False),
        ([], False),
    ],
)
def test_bfloat16_by_the_flags_of_all_processors(lines, expected, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\n" + "".join(f"{line}\n" for line in lines))
    assert processor.has_bfloat16(str(path)) == expected


def test_a_machine_without_a_description_has_no_bfloat16(tmp_path):
    assert not processor.has_bfloat16(str(tmp_path / "none"))
