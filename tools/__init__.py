"""Tools of this repository: a real Airflow and an emulated OpenAI on this machine, and the demo that runs on them."""
