"""Recording a run while it goes on."""
