"""From a configuration to jobs: the rules, the command line and `mvfl plan` are told the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.tree import Tree

from mvfl.config.load import load_config, load_with_base
from mvfl.geometry.cameras import orbit_camera
from mvfl.geometry.rig import Rig
from mvfl.inspection.plan import decision_tree, plan_experiment
from mvfl.layout import Checkpoint, Layout, Reconstruction
from mvfl.runtime.files import InputError
from mvfl.stages.jobs import JOBS, TrainJob
from mvfl.stages.planning import Plan

ROOT = Path(__file__).parents[2]


def plan_of(*overlays: Path) -> Plan:
    return Plan(load_config([ROOT / "workflow_config.yaml", *overlays]))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(ROOT / "configs" / "ci.yaml")


def test_a_later_segment_starts_where_the_one_before_ended(plan: Plan) -> None:
    assert plan.train("curriculum", 2).start is None
    second = plan.train("curriculum", 4)
    assert second.start == plan.layout.checkpoint("curriculum", 2).folder
    assert [plan.train("curriculum", s).prompts.parent.name for s in (2, 4)] == ["facelift", "mouse_elevated"]


def test_a_job_travels_as_json_and_comes_back_the_same(plan: Plan) -> None:
    job = plan.train("mouse_6x_aug", 4)
    assert TrainJob.model_validate(json.loads(job.model_dump_json())) == job


def test_what_a_job_reads_is_what_other_stages_make(plan: Plan) -> None:
    layout = plan.layout
    read = plan.train("curriculum", 4).inputs()
    assert read["latents"] == [layout.latents(plan.latents_name("curriculum", "tiny_mouse"))]
    assert layout.checkpoint("curriculum", 2).weights in read["start"] and "manifest" not in read
    assert set(plan.synthetic("mouse_6x_aug", "1-of-1").inputs()) == {"manifest", "base", "checkpoint", "prompts"}
    assert plan.gslrm("mouse_6x_aug").inputs()["synthetic"] == [layout.synthetic("mouse_6x_aug")]


def test_every_data_set_of_a_training_is_made_and_encoded(tmp_path: Path) -> None:
    overlay = tmp_path / "two.yaml"
    overlay.write_text(yaml.safe_dump({
        "datasets": {"another": {"kind": "rodent", "rig": "facelift", "image_size": 32, "train": 4, "val": 1}},
        "experiments": {"mouse_6x_aug": {"also_learn_from": ["another"]}},
    }))  # fmt: skip
    plan = plan_of(ROOT / "configs" / "ci.yaml", overlay)
    names = ["tiny_mouse", "another"]
    assert plan.train("mouse_6x_aug", 4).latents == [plan.latents(plan.latents_name("mouse_6x_aug", name)).out for name in names]
    assert [plan.latents(plan.latents_name("mouse_6x_aug", name)).manifest for name in names] == [
        plan.layout.manifest(plan.data(name).name) for name in names
    ]
    assert plan.score("mouse_6x_aug", 4).manifest == plan.layout.manifest("tiny_mouse")


def test_views_can_be_drawn_with_a_later_step_than_was_judged(tmp_path: Path) -> None:
    overlay = tmp_path / "later.yaml"
    overlay.write_text(yaml.safe_dump({
        "defaults": {"training": {"steps": 9}}, "experiments": {"mouse_6x_aug": {"synthetic": {"step": 6}}},
    }))  # fmt: skip
    plan = plan_of(ROOT / "configs" / "ci.yaml", overlay)
    assert plan.generation("mouse_6x_aug").checkpoint == plan.layout.checkpoint("mouse_6x_aug", 6).folder
    assert plan.score("mouse_6x_aug", 4).checkpoint == plan.layout.checkpoint("mouse_6x_aug", 4).folder
    assert plan.train("mouse_6x_aug", 6).start == plan.layout.checkpoint("mouse_6x_aug", 4).folder


def test_settings_that_change_no_result_are_not_decisive(plan: Plan, tmp_path: Path) -> None:
    overlay = tmp_path / "other.yaml"
    overlay.write_text(yaml.safe_dump({
        "defaults": {"training": {"log_every": 7, "keep_states": 3}, "gslrm": {"log_every": 9, "cache_gigabytes": 2}},
        "wandb": {"project": "another"}, "experiments": {"mouse_6x_aug": {"wandb_run": "x", "gslrm": {"turntable_views": 8}}},
    }))  # fmt: skip
    other = plan_of(ROOT / "configs" / "ci.yaml", overlay)
    assert other.train("mouse_6x_aug", 4).decisive() == plan.train("mouse_6x_aug", 4).decisive()
    a, b = other.gslrm("mouse_6x_aug"), plan.gslrm("mouse_6x_aug")
    assert a.decisive() != b.decisive(), "the turntable is drawn anew"
    assert a.gslrm.decisive(weights_only=True) == b.gslrm.decisive(weights_only=True), "but nothing is trained again"


def test_a_case_that_names_no_experiment_is_said_so(plan: Plan) -> None:
    config = plan.config.model_copy(update={"cases": {"B": "facelift_prompt"}})
    with pytest.raises(InputError, match=r"cases\.D names no experiment"):
        Plan(config).case_experiments("D")


def test_recorded_inputs_of_gslrm_need_no_generated_views() -> None:
    plan = plan_of(ROOT / "configs" / "embedded_base.yaml")
    assert plan.gslrm("embedded_base").synthetic is None and "synthetic" not in plan.gslrm("embedded_base").inputs()
    read = plan.models("embedded_base", "1-of-1").inputs()
    assert "views" not in read and read["evaluation"] == [
        plan.layout.verdict("embedded_base", plan.verdict_step("embedded_base")).metrics
    ]


def test_the_published_base_is_fetched_once_and_every_stage_after_it_needs_no_network() -> None:
    plan = plan_of()
    fetched = plan.layout.fetched("openfacelift")
    assert plan.base("openfacelift").inputs()["fetched"] == [fetched] == [plan.fetch("openfacelift").out / "fetched.json"]


def test_a_verdict_of_many_cameras_asks_for_more_memory(tmp_path: Path) -> None:
    overlay = tmp_path / "twelve.yaml"
    rig = Rig("twelve", [orbit_camera(30.0 * i, 20.0) for i in range(12)])
    (tmp_path / "twelve.json").write_text(json.dumps(rig.to_json()))
    twelve_cameras = {"sample_folders": {"kind": "folder", "path": "x", "rig": str(tmp_path / "twelve.json")}}
    overlay.write_text(yaml.safe_dump({"datasets": twelve_cameras, "defaults": {"dataset": "sample_folders"}}))
    usual, twelve, name = plan_of(), plan_of(overlay), "mouse_6x_aug"
    assert usual.scoring_megabytes(name) == 24_000 and 50_000 < twelve.scoring_megabytes(name) < 60_000


def test_paths_may_hold_wildcards() -> None:
    layout = Layout(Path("results"))
    assert str(layout.checkpoint("{experiment}", "{step}").weights) == (
        "results/experiments/{experiment}/mvdiffusion/checkpoint-{step}/unet/diffusion_pytorch_model.safetensors"
    )
    declared = {"weights", "metrics", "ply", "turntable", "strip", "renders", "viewer", "given"}
    assert set(Reconstruction(Path("x")).declared()) == declared
    assert Checkpoint(Path("a")) == Checkpoint(Path("a")) and hash(Checkpoint(Path("a")))


def test_every_job_has_a_schema_that_names_its_paths() -> None:
    for name, kind in JOBS.items():
        schema = kind.model_json_schema()
        assert schema["description"] and {"out", "table"} & set(schema["properties"]), name


def test_the_tree_of_decisions_holds_every_way_and_counts_its_hours() -> None:
    config = load_config([ROOT / "workflow_config.yaml"])
    costs = {name: plan_experiment(config, name) for name in config.experiments}
    tree = decision_tree(config)
    ways: list[str] = []

    def walk(node: Tree) -> None:
        ways.append(str(node.label))
        for child in node.children:
            walk(child)

    walk(tree)
    first, last = costs["mouse_6x_aug"], costs["curriculum"]
    assert ways[1] == f"A -> 3D model after {first.verdict.hours + first.onward.hours:.2f}"
    hours = sum(cost.verdict.hours for cost in costs.values()) + last.onward.hours
    assert f"A -> 3D model after {hours:.2f}" in ways, "B, C and D in turn"
    assert len([w for w in ways if "3D model" in w]) == 16, "one experiment, then up to three others in any order"
    assert last.verdict.hours > first.verdict.hours, "the curriculum is judged later"


def test_what_checkpointing_compiling_and_longer_trainings_cost_is_counted(tmp_path: Path) -> None:
    def hours(**defaults: Any) -> float:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({"defaults": defaults}))
        return plan_experiment(load_config([ROOT / "workflow_config.yaml", overlay]), "mouse_6x_aug").verdict.hours

    usual = hours()
    assert hours(training={"compile": False}) > usual and hours(training={"gradient_checkpointing": True}) > 1.2 * usual


def test_an_overlay_alone_is_read_above_the_base_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_with_base([Path("configs/ci.yaml")]) == load_config([Path("workflow_config.yaml"), Path("configs/ci.yaml")])
    assert load_with_base(None) == load_with_base([Path("workflow_config.yaml")]) == load_config([Path("workflow_config.yaml")])
