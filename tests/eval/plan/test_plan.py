"""`python -m eval.plan`: from flags, from a pilot, as JSON; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.plan.__main__ import main
from mlx_phi3v.errors import UserError
from tests.helpers.synthetic_runs import answer, changed, make_rows, write_run


def test_flags_give_a_plan_of_each_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "304", "--discordance", "5", "15"]) == 0
    out = capsys.readouterr().out
    assert "(a) The same computation" in out and "(b) As good a training" in out
    assert "discordant rows 5 % (category accuracy) and 15 % (price within 10 %), margin 2 points" in out
    assert "304 rows: EQUIVALENT in under 0.01 % of comparisons" in out
    assert "304 rows: EQUIVALENT in 86 % of comparisons" in out  # at 0.5 % discordant


def test_the_readme_says_what_the_rows_of_its_recipe_show(capsys: pytest.CaptureFixture[str]) -> None:
    for rows, share in ((304, 53), (608, 97)):
        assert main(["--rows", str(rows), "--same-discordance", "1"]) == 0
        assert f"{rows} rows: EQUIVALENT in {share} % of comparisons" in capsys.readouterr().out
    assert main(["--rows", "608", "--discordance", "1.1", "10.5"]) == 0
    assert "At 608 rows no number of trainings up to 200 is enough" in capsys.readouterr().out


def test_without_discordance_only_the_same_computation_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "400", "--same-discordance", "0", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trainings"] is plan["two_adapters"] is None
    assert plan["same_computation"]["rows_needed"] == 133  # where z**2 / (n + z**2), Wilson's bound of none, is 2 points
    assert plan["same_computation"]["power"] == 1.0


def test_a_pilot_of_one_adapter_and_one_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows(120, right=0.9)
    worse = changed(rows, lambda i, row: i % 10 == 0, lambda row: answer(row, "no idea"))
    write_run(tmp_path / "a", rows)
    write_run(tmp_path / "b", rows, backend="mlx")
    write_run(tmp_path / "c", worse, hashes={"adapter": "other"})
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--rows", "500"]) == 0
    out = capsys.readouterr().out
    assert "Pilot: 120 rows, two runs of one adapter." in out and "0.82 % discordant" in out  # (0 + 1) / (120 + 2)
    assert "this claim's rates are not known" in out
    assert main([str(tmp_path / "a"), str(tmp_path / "c"), "--allow", "adapter", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["two_adapters"]["rows"] == 120 and plan["trainings"]["rows"] == 120
    lost = sum(row["predicted"]["category3_code"]["value"] == row["true"]["category3_code"] for row in rows[::10])
    assert plan["two_adapters"]["measures"][0]["discordance"] == pytest.approx((lost + 1) / 122)


@pytest.mark.parametrize(("lost_a", "lost_b"), [(0, 0), (0, 20), (20, 20)])
def test_a_pilot_says_which_rows_its_runs_lack(
    lost_a: int, lost_b: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows(120, right=0.9)
    for name, lost in (("a", lost_a), ("b", lost_b)):
        write_run(tmp_path / name, rows, hashes={"adapter": name})
        path = tmp_path / name / "predictions.jsonl"  # cut behind a whole line, as an interrupted copy leaves it
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 120 - lost]))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().err
    assert (f"{tmp_path / 'b'} lacks 20 rows of {tmp_path / 'a'}" in said) == (lost_a < lost_b)
    assert ("both runs lack 20 rows of the split" in said) == (lost_a == lost_b == 20)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give --rows, or two runs as a pilot"),
        (["one", "--rows", "100"], "a pilot is two runs; 1 is given"),
        (["--rows", "100", "--discordance", "1", "--difference", "-3"], "--discordance 1 is below --difference -3"),
        (["--rows", "3"], "--rows"),
        (["one", "./one"], "one is given twice; a pilot is two runs that differ"),
        (["--rows", "30", "--allow", "adapter"], "--allow is for the two runs of a pilot"),
        (["--rows", "30", "--cluster-correlation", "0.5"], "--cluster-correlation needs --cluster-size"),
        (["--rows", "30", "--cluster-size", "31"], "--cluster-size 31 is more than --rows 30"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(flags)


def test_a_pilot_of_several_photos_a_product_counts_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"id": f"{row['id']}-{i}", "product": row["id"]} for row in make_rows(60, right=0.9) for i in range(3)]
    lost = changed(rows, lambda i, row: i // 3 % 10 == 0, lambda row: answer(row, "no idea"))  # all photos of six products
    write_run(tmp_path / "a", rows)
    write_run(tmp_path / "b", lost, hashes={"adapter": "other"})
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    powers = []
    for flags in ([], ["--cluster-size", "3"], ["--cluster-size", "1"]):
        assert main([*runs, "--rows", "3000", "--json", *flags]) == 0
        powers.append(json.loads(capsys.readouterr().out)["two_adapters"]["power"])
    assert powers[0] == pytest.approx(powers[1], abs=0.03) and powers[0] < powers[2] - 0.1
