"""The engine: everything a job does, knowing nothing of Airflow and nothing of the OpenAI SDK.

Read in the order in which a row travels: ``sources`` -> ``requests`` -> ``planner`` -> ``store``, ``journal`` ->
``lifecycle`` -> ``runner`` -> ``collect`` -> ``results``. ``models`` holds what travels between them, ``api`` what the
engine asks of a Batch API.
"""
