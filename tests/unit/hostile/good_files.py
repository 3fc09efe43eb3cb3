"""Tiny good files, one folder per reader."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from mvfl.geometry.cameras import camera_rows, orbit_camera
from mvfl.geometry.rig import Rig
from mvfl.gslrm.checkpoint import save_gslrm
from mvfl.gslrm.gaussians import Gaussians
from mvfl.gslrm.model import Gslrm, GslrmConfig
from mvfl.gslrm.ply import save_ply
from mvfl.mvdiffusion.unet import build_unet

VIEWS, WIDTH, PIXELS = 6, 32, 16
UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 8, "out_channels": 4, "center_input_sample": False, "num_views": 6,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "block_out_channels": [32, 32], "layers_per_block": 1,
    "cross_attention_dim": WIDTH, "attention_head_dim": [1, 1], "use_linear_projection": True,
    "class_embed_type": "projection", "projection_class_embeddings_input_dim": 64, "upcast_attention": True,
}  # fmt: skip
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
VGG19_CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG16_CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256), 17: (256, 512),
    19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip
STEPS = 20  # lines of a training log
EXPERIMENTS = ("alpha", "beta", "gamma")
DECISION = "experiments/mouse/evaluation/step-2000/decision.json"


def write_seeds(root: Path, workflow: Path, base: Path) -> dict[str, Path]:
    """Write the good files of every reader.

    Args:
        root: gets a folder per reader.
        workflow: `workflow_config.yaml` of the repository.
        base: the embedded base.
    """
    makers: dict[str, Callable[[Path], None]] = {
        "config": lambda folder: _config(folder, workflow),
        "prompts": lambda folder: torch.save(numbers(VIEWS, 5, WIDTH), folder / "clr_embeds.pt"),
        "unet": _unet,
        "gslrm pt": lambda folder: torch.save({"model": gslrm_state(), "param_update_step": 5}, folder / "gslrm.pt"),
        "gslrm safetensors": lambda folder: save_gslrm(_gslrm(), folder / "gslrm.safetensors", 5, 5),
        "ply": lambda folder: save_ply(_gaussians(), folder / "gaussians.ply"),
        "log": lambda folder: _write(folder / "log.jsonl", log_lines()),
        "attempts": lambda folder: _write(folder / "attempts.jsonl", attempt_lines()),
        "status": _status,
        "decision": lambda folder: _json(folder / DECISION, _decision()),
        "calibration": lambda folder: _json(folder / "cameras.json", {"cameras": _recorded_cameras()}),
        "pickle": lambda folder: _write_bytes(folder / "new_cam.pkl", pickle.dumps(recorded_arrays(), protocol=4)),
        "sample": _sample,
        "rig": lambda folder: _json(folder / "rig.json", _rig(3).to_json()),
        "manifest": lambda folder: _json(folder / "manifest.json", _manifest()),
        "base record": _base_record,
        "base check": lambda folder: _copy_base(base, folder),
        "picture": lambda folder: picture().save(folder / "cam_000.png"),
        "video": lambda folder: write_video(folder / "video.mp4"),
        "latent cache": _latents,
        "calibration toml": lambda folder: _write(folder / "cameras.toml", _toml_cameras()),
        "calibration yaml": lambda folder: _storage_cameras(folder / "cameras.yml"),
        "mask": lambda folder: Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 6)).save(folder / "000000.png"),
        "vgg": lambda folder: save_file(vgg19_state(), folder / "vgg19.safetensors"),
        "lpips": _lpips,
        "lock": lambda folder: _json(folder / "lock", {"host": "node1", "pid": 4242, "slurm_job": "7"}),
        "training state": _training_state,
    }
    for name, make in makers.items():
        (root / name).mkdir(parents=True)
        torch.manual_seed(0)
        make(root / name)
    return {name: root / name for name in makers}


def numbers(*shape: int) -> Tensor:
    """Ordinary values, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _json(path: Path, data: Any) -> None:
    _write(path, json.dumps(data, indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------------- weights
def _unet(folder: Path) -> None:
    _json(folder / "config.json", UNET)
    save_file({k: v.contiguous() for k, v in unet_state().items()}, folder / UNET_WEIGHTS)


def unet_state() -> dict[str, Tensor]:
    """Weights of the tiny UNet."""
    torch.manual_seed(0)
    return build_unet(dict(UNET)).state_dict()


def _gslrm() -> Gslrm:
    torch.manual_seed(0)
    return Gslrm(GslrmConfig(image_size=PIXELS, width=64, layers=1))


def gslrm_state() -> dict[str, Tensor]:
    """Weights of the tiny GS-LRM."""
    return dict(_gslrm().state_dict())


def vgg19_state() -> dict[str, Tensor]:
    """The names and shapes of VGG-19 in half precision; the values do not matter."""
    state = {}
    for number in range(1, len(VGG19_CHANNELS)):
        state[f"conv{number}.weight"] = torch.full((VGG19_CHANNELS[number], VGG19_CHANNELS[number - 1], 3, 3), 0.01).half()
        state[f"conv{number}.bias"] = torch.full((VGG19_CHANNELS[number],), 0.01).half()
    return state


def vgg16_state() -> dict[str, Tensor]:
    """As torchvision's, but each tensor repeats one number, so that the file is small."""
    state = {}
    for index, (inputs, outputs) in VGG16_CONVOLUTIONS.items():
        state[f"features.{index}.weight"] = torch.full((1,), 0.01).expand(outputs, inputs, 3, 3)
        state[f"features.{index}.bias"] = torch.full((1,), 0.01).expand(outputs)
    return state


def lpips_heads() -> dict[str, Tensor]:
    """As those of the lpips package."""
    return {f"lin{i}.model.1.weight": numbers(1, c, 1, 1).abs() for i, c in enumerate((64, 128, 256, 512, 512))}


def _lpips(folder: Path) -> None:
    torch.save(vgg16_state(), folder / "vgg16.pth")
    torch.save(lpips_heads(), folder / "heads.pth")


def state_at(step: int) -> dict[str, Any]:
    """A training state."""
    return {"weights": numbers(300) + step, "optimizer": {"momentum": [torch.full((50,), float(step))]}, "seen": step}


def _training_state(folder: Path) -> None:
    (folder / "states").mkdir()
    for step in (10, 20):
        torch.save(state_at(step), folder / "states" / f"step-{step:08d}.pt")


def _copy_base(base: Path, folder: Path) -> None:
    shutil.copytree(base, folder, dirs_exist_ok=True)
    (folder / "README.md").unlink(missing_ok=True)


def _gaussians() -> Gaussians:
    return Gaussians(numbers(20, 3), numbers(20, 1, 3), numbers(20, 3) - 3, numbers(20, 4), numbers(20, 1))


# -------------------------------------------------------------------------------------------------- pictures, videos
def picture(size: int = PIXELS) -> Image.Image:
    """Noise, half of it transparent."""
    rgba = np.random.default_rng(0).integers(0, 256, (size, size, 4), dtype=np.uint8)
    rgba[..., 3] = 255 * (np.arange(size) < size // 2)
    return Image.fromarray(rgba)


def write_video(path: Path, form: str = "mp4") -> None:
    """Two frames of noise; the table of contents stands in front, so that a cut leaves a file that opens."""
    rng = np.random.default_rng(0)
    options = {"movflags": "+faststart"} if form == "mp4" else {}
    with av.open(str(path), "w", format=form, options=options) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# ------------------------------------------------------------------------------------------------- text, JSON, cameras
def _config(folder: Path, workflow: Path) -> None:
    shutil.copy(workflow, folder / "workflow_config.yaml")
    _write(folder / "hostile.yaml", "wandb: {mode: disabled}\n")


def log_lines() -> str:
    """A training log."""
    rows = [{"step": s, "time": 1000.0 + s, "train/loss": 1 / s, "train/objects_per_second": 8.0} for s in range(1, STEPS + 1)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def attempt_lines() -> str:
    """Two attempts at a run, the second one finished."""
    place = {"host": "node1", "pid": 1, "slurm_job": "7"}
    rows: list[dict[str, Any]] = [
        {"event": "begun", "time": 1000.0, "step": 0, **place, "until": 100, "mode": "disabled", "wandb": None},
        {"event": "ended", "time": 1010.0, "step": 10, **place, "reason": "Unfinished"},
        {"event": "begun", "time": 1011.0, "step": 10, **place, "until": 100, "mode": "disabled", "wandb": None},
        {"event": "ended", "time": 1030.0, "step": 20, **place, "reason": "finished"},
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _status(folder: Path) -> None:
    for experiment in EXPERIMENTS:
        stage = folder / "state" / experiment / "mvdiffusion"
        _write(stage / "log.jsonl", log_lines())
        _write(stage / "attempts.jsonl", attempt_lines())
        (stage / "states").mkdir()
        (stage / "states" / "step-00000020.pt").write_bytes(b"x" * 100)


def _decision() -> dict[str, Any]:
    crossed = [{"threshold": "min_iou", "limit": 0.65, "value": 0.4, "slot": "3"}]
    computed = {
        "case": "D", "meaning": "partial", "reasons": ["Good: slots 1, 2."], "good_slots": ["1", "2"], "view_consistency": 3,
        "gt_similarity": 2, "thresholds": {"min_iou": 0.65, "min_skill": 0.1}, "crossed": crossed,
    }  # fmt: skip
    return {
        "experiment": "mouse", "step": 2000, "case": "D", "meaning": "partial", "overridden": False, "override": None,
        "computed": computed, "loss": 0.12, "loss_state": "falling", "reached": 1764140000.0,
    }  # fmt: skip


def _recorded_cameras() -> list[dict[str, Any]]:
    return [{key: value.tolist() for key, value in entry.items()} for entry in recorded_arrays()]


def recorded_arrays() -> list[dict[str, np.ndarray]]:
    """R, T and K of three cameras, as calibration programs leave them."""
    cameras = [orbit_camera(120.0 * i, 20.0, 300.0, 64) for i in range(3)]
    k = np.array([[80.0, 0, 32], [0, 80, 32], [0, 0, 1]])
    return [{"R": c.w2c[:3, :3].copy(), "T": c.w2c[:3, 3:].copy(), "K": k.copy()} for c in cameras]


def _toml_cameras() -> str:
    """As anipose leaves them."""
    lines = []
    for name, entry in zip("ab", recorded_arrays(), strict=False):
        values = {"matrix": entry["K"].tolist(), "distortions": [-0.2, 0.01, 0.0, 0.0, 0.0], "size": [64, 64]}
        values |= {"rotation": cv2.Rodrigues(entry["R"])[0].ravel().tolist(), "translation": entry["T"].ravel().tolist()}
        lines += [f"[cam_{name}]", f'name = "{name}"', *(f"{k} = {v}" for k, v in values.items()), ""]
    return "\n".join(lines)


def _storage_cameras(path: Path) -> None:
    """As OpenCV writes them."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, entry in zip("ab", recorded_arrays(), strict=False):
        storage.startWriteStruct(name, cv2.FILE_NODE_MAP)
        for key, value in entry.items():
            storage.write(key, value)
        storage.endWriteStruct()
    storage.release()


def _rig(cameras: int) -> Rig:
    return Rig("tiny", [orbit_camera(360.0 / cameras * i, 20.0, size=PIXELS) for i in range(cameras)])


def _sample(folder: Path) -> None:
    frames = [camera.to_frame(view) for view, camera in enumerate(_rig(2).cameras)]
    _json(folder / "opencv_cameras.json", {"id": "sample_000000", "frame": 0, "frames": frames})
    (folder / "images").mkdir()
    for frame in frames:
        picture().save(folder / frame["file_path"])


def _manifest() -> dict[str, Any]:
    return {
        "name": "tiny", "root": "samples", "image_size": PIXELS, "rig": _rig(2).to_json(), "train": ["sample_000000"],
        "val": ["sample_000001"], "data_hash": "0123456789abcdef",
        "files": {"sample_000000/opencv_cameras.json": "0" * 64, "sample_000001/opencv_cameras.json": "1" * 64},
    }  # fmt: skip


def _base_record(folder: Path) -> None:
    pipeline = folder / "pipeline"
    listing = {}
    for name in ("unet/config.json", "vae/config.json"):
        _write(pipeline / name, "{}\n")
        listing[str(pipeline / name)] = {"bytes": 3, "sha256": "0" * 64}
    record = {"pipeline": str(pipeline), "gslrm": str(pipeline / "g.pt"), "hash": "0123456789abcdef", "source": {"kind": "local"}}
    _json(folder / "base.json", {**record, "files": listing})


def _latents(folder: Path) -> None:
    rig = _rig(2)
    index = {
        "data_hash": "0" * 16, "rig": rig.to_json(), "base_hash": "1" * 16, "train": ["a", "b", "c"], "val": ["d"], "seed": 0,
        "augmentation": {"backgrounds": ["white"], "tints": 1, "tint_strength": 0.0}, "code": "2" * 16,
    }  # fmt: skip
    _json(folder / "index.json", index)
    np.save(folder / "train_moments.npy", numbers(3, 1, 2, 8, 4, 4).numpy().astype(np.float16))
    np.save(folder / "train_embeds.npy", numbers(3, 1, 2, 32).numpy())
    np.save(folder / "train_cameras.npy", np.tile(camera_rows(rig.cameras), (3, 1, 1)))
