"""cortex: several LLM providers as if they were one."""
