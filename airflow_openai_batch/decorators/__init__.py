"""@task.openai_batch."""
