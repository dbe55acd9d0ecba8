"""Who uses the package under strict mypy finds every type of ours; Plotly's figures have none."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("program.py")
# Their types are not in ours, and mypy takes most of a minute to read them.
SKIPPED = [
    *("alembic", "lightning", "lightning_fabric", "mlflow", "pytorch_lightning", "redis"),
    *("sqlalchemy", "torchmetrics", "transformers", "wandb", "torch._decomp", "torch._dynamo"),
    *("torch._export", "torch._functorch", "torch._higher_order_ops", "torch._inductor"),
    *("torch._native", "torch._refs", "torch._subclasses", "torch.ao", "torch.distributed"),
    *("torch.export", "torch.fx", "torch.jit", "torch.nested", "torch.onnx", "torch.package"),
    *("torch.profiler", "torch.quantization", "torch.testing"),
]
SETTINGS = f"""
[mypy]
strict = true
warn_unused_configs = false
[mypy-{",".join(f"{name}.*" for name in SKIPPED)}]
follow_imports = skip
"""


def test_a_typed_program_is_right_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    """As the package is installed; the wrong one shows that the check says something."""
    settings, wrong = tmp_path / "mypy.ini", tmp_path / "wrong.py"
    settings.write_text(SETTINGS)
    wrong.write_text(
        PROGRAM.read_text()
        .replace('windows="auto"', 'windows="many"')
        .replace("retrained=[0.1, 0.2]", "retrained='best'")
        .replace('uses={"rate": "lr"}', "uses=[]")
    )
    options = [f"--config-file={settings}", "--cache-dir=/dev/null"]
    command = [sys.executable, "-m", "mypy", *options, str(PROGRAM), str(wrong)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not ran.stderr
    *errors, found = [line for line in ran.stdout.splitlines() if ": note: " not in line]
    assert found == "Found 3 errors in 1 file (checked 2 source files)"
    for error, argument in zip(errors, ("windows", "retrained", "uses"), strict=True):
        assert error.startswith("wrong.py:") and f'Argument "{argument}"' in error
