"""Files of formulas: every line has its place, and every bad line is named."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dao_flows.api.prediction.inputs import Entry, parse_z, read_formulas
from dao_flows.errors import InputError

FORMULAS = st.sampled_from(["NaCl", "Cr3Os", "TiO2"])
LINES = st.lists(st.one_of(FORMULAS, st.just(""), st.just("# a remark"), st.just("NaCl  # a remark")))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_text_files(tmp_path, lines, ending, bom):
    file = tmp_path / "formulas.txt"
    file.write_bytes((b"\xef\xbb\xbf" if bom else b"") + ending.join(lines).encode())
    expected = [
        (f"{file}:{i}", line.split("#")[0].strip()) for i, line in enumerate(lines, 1) if line.split("#")[0].strip()
    ]
    if not expected:
        with pytest.raises(InputError, match="holds no formula"):
            read_formulas(file)
    else:
        assert [(entry.where, entry.formula) for entry in read_formulas(file)] == expected


@pytest.mark.parametrize("column", ["formula", "Composition"])
def test_csv_files(tmp_path, column):
    file = tmp_path / "formulas.csv"
    file.write_text(f'name, {column} ,z\nsalt,NaCl,2\n\n"a, b",Cr3Os,\nc,MgO,auto\n')
    assert read_formulas(file) == [
        Entry("NaCl", f"{file}:2", 2),
        Entry("Cr3Os", f"{file}:4"),
        Entry("MgO", f"{file}:5", "auto"),
    ]


def test_bad_lines_keep_their_place_and_say_what_is_wrong(tmp_path):
    text, table = tmp_path / "formulas.txt", tmp_path / "formulas.csv"
    text.write_text("NaCl\nSi O2\n")
    table.write_text("formula,z\n,1\nNaCl,zwei\n")
    assert [(e.where, e.fault) for e in read_formulas(text)][1] == (f"{text}:2", "one formula a line, not 2")
    assert [e.problem(e.fault) for e in read_formulas(table)] == [
        f"{table}:2: no formula",
        f"{table}:3: Z must be 'auto' or a positive whole number, not 'zwei'",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"NaCl\nMgO\n\xff\xfe\n", r"a\.txt:3: not text"),
        ("a.csv", b"name,z\nNaCl,1\n", r"a\.csv:1: no column called formula"),
        ("a.csv", b'formula\n"NaCl\n', r"a\.csv:2: "),
        ("a.txt", b"# nothing\n", "holds no formula"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_formulas(tmp_path / name)


@pytest.mark.parametrize("path", ["nowhere.txt", "."])
def test_what_is_no_file_is_named(tmp_path, path):
    with pytest.raises(InputError, match="cannot be read"):
        read_formulas(tmp_path / path)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.csv", b"formula,z\nNaCl,1.0\nMgO,\n"),  # as pandas writes a column with gaps
        ("a.csv", b"formula,z\nNaCl,1\nMgO,NaN\n"),
        ("a.csv", b'\xef\xbb\xbf"formula";"z"\r\n"NaCl";"1,0"\r\n"MgO";\r\n'),
        ("a.tsv", b"\tFormula\tz\tnote\n0\tNaCl\t1\ta, b; c\n1\tMgO\t<NA>\t\n"),
        ("a.csv", "formula\tz\r\nNaCl\t1\r\nMgO\t\r\n".encode("utf-16")),
        ("a.CSV", b'id,"formula",z,"a, b"\r\n7,NaCl,1.0,"x\ty"\r\n,,,\r\n8,"MgO",none,\r\n'),
        ("a.csv", b"\nformula;a, b\nNaCl;1\nMgO;2\n"),
        ("a.csv", b"sep=;\r\nformula;z\r\nNaCl;1\r\nMgO;\r\n"),
    ],
)
def test_tables_as_programs_write_them(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    found = read_formulas(tmp_path / name)
    assert [(e.formula, e.fault) for e in found] == [("NaCl", ""), ("MgO", "")]
    assert [e.z for e in found] == ([1, None] if b"z" in raw else [None, None])


@pytest.mark.parametrize(("text", "z"), [("2", 2), ("2.0", 2), (" auto ", "auto"), ("1e1", 10)])
def test_z_may_be_written_as_a_number_of_any_kind(text, z):
    assert parse_z(text) == z


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "2.5", "0", "-1", "1.5", "", "many"])
def test_z_is_a_positive_whole_number(text):
    with pytest.raises(InputError, match="positive whole number"):
        parse_z(text)
