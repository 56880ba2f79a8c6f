import subprocess
import sys


def test_a_caller_needs_httpx_alone():
    """The extra ``client`` installs nothing else."""
    code = (
        "import sys, tamis.client;"
        "more = {'pydantic', 'starlette', 'fastapi', 'numpy', 'service'} & set(sys.modules);"
        "sys.exit(', '.join(more) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_serving_imports_neither_torch_nor_transformers():
    code = (
        "import sys, service.app, tamis.cli, training.evaluation.suite;"
        "heavy = {'torch', 'transformers', 'onnx', 'sklearn', 'scipy'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
