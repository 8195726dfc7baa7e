import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).resolve().parents[2] / "dags"
# As Airflow's DAG processor and workers do.
sys.path.append(str(DAGS))


@pytest.fixture(scope="session")
def dags_folder():
    return DAGS
