"""Research on top of the tool: convergence, the paper's exhibits, the demo, pre-training; nothing else imports it."""
