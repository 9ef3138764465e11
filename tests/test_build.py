"""The command from prompts to rows that training reads; by stages and at once; what is wrong is one sentence."""
