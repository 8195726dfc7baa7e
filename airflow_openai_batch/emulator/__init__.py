"""An OpenAI Batch API server without a model: for demos, for tests, and for users' own CI.

``python -m airflow_openai_batch.emulator --port 8000`` runs it, ``server.running()`` runs it inside a test. The openai
SDK drives it unchanged; every answer says that it is emulated, in its model's name.

* ``settings``: every option
* ``markers``: how a request asks for a certain answer, e.g. ``[[emulate:refusal]]``
* ``faults``: how calls and batches are made to fail
* ``ledger``: what was asked and what would have been billed
* ``responders``: what says the words, and how to bring your own
"""
